"""Who may do what: every route and every component function, called by everybody, in two tables.

A number is the status of the answer. For functions, "ok" and "no" are what the handler says, and "out" is the gate's word
that there is no session, each with status 200, because Gradio's script passes nothing else on to the page.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from labeling_ui.address import read_proxies
from labeling_ui.app import COOKIE, page_functions
from labeling_ui.gate import HEADERS, HSTS, MAX_BODY, ROUTES, SCRIPTLESS
from labeling_ui.manage import manage_functions
from rlhf.labels.accounts import SESSION_IDLE_S, SESSION_LIFETIME_S, SESSION_RENEWAL_S
from rlhf.labels.attempts import by_address
from rlhf.labels.users import deactivate, set_role
from tests.ui.doors import HOME, TEAM, Doors, Team, call, component_of, form_of

pytestmark = pytest.mark.ui

FOREIGN = "https://evil.example"
# Every visitor of the tables: who it is, and what the browser sends besides.
VISITORS = {
    "nobody": (None, {}),
    "Ben": ("Ben", {}),
    "Eve": ("Eve", {}),
    "Max": ("Max", {}),
    "Ada": ("Ada", {}),
    "origin": ("Ada", {"origin": FOREIGN}),
    "no origin": ("Ada", {"origin": ""}),
    "host": ("Ada", {"host": "evil.example", "origin": FOREIGN}),
}
# Annotators are Ben and Eve, Max is a manager, Ada an admin; the last three are Ada's browser, led astray.
ROUTES_TABLE = """
method path                                   nobody Ben Eve Max Ada | origin no-origin host
GET    /                                      303    303 303 303 303 | 303    303       421
GET    /login                                 200    303 303 303 303 | 303    303       421
POST   /login                                 403    403 403 403 403 | 403    403       421
GET    /open                                  303    303 303 303 303 | 303    303       421
POST   /open                                  403    403 403 403 403 | 403    403       421
GET    /password                              303    200 200 200 200 | 200    200       421
POST   /password                              401    403 403 403 403 | 403    403       421
POST   /signout                               303    403 403 403 403 | 403    403       421
GET    /signout                               404    404 404 404 404 | 404    404       421
GET    /favicon.ico                           200    200 200 200 200 | 200    200       421
GET    /entrance.css                          200    200 200 200 200 | 200    200       421
GET    /label/                                303    200 200 200 200 | 200    200       421
GET    /label/config                          401    200 200 200 200 | 200    200       421
GET    /label/manifest.json                   401    200 200 200 200 | 200    200       421
GET    /label/theme.css                       200    200 200 200 200 | 200    200       421
GET    /label/gradio_api/app_id               401    200 200 200 200 | 200    200       421
GET    /label/gradio_api/startup-events       401    200 200 200 200 | 200    200       421
POST   /label/config                          404    404 404 404 404 | 403    403       421
GET    /label/gradio_api/component_server/    404    404 404 404 404 | 404    404       421
GET    /manage/                               303    403 403 200 200 | 200    200       421
GET    /manage/config                         401    403 403 200 200 | 200    200       421
GET    /manage/manifest.json                  401    403 403 200 200 | 200    200       421
GET    /manage/theme.css                      200    200 200 200 200 | 200    200       421
GET    /manage/gradio_api/app_id              401    403 403 200 200 | 200    200       421
GET    /manage/gradio_api/startup-events      401    403 403 200 200 | 200    200       421
POST   /manage/config                         404    404 404 404 404 | 403    403       421
GET    /manage/gradio_api/info                404    404 404 404 404 | 404    404       421
GET    /manage/gradio_api/file=/etc/passwd    404    404 404 404 404 | 404    404       421
POST   /manage/gradio_api/run/predict         404    404 404 404 404 | 403    403       421
POST   /label/gradio_api/queue/join           404    404 404 404 404 | 403    403       421
POST   /label/gradio_api/upload               404    404 404 404 404 | 403    403       421
GET    /label/assets/%2e%2e/config            404    404 404 404 404 | 404    404       421
GET    /docs                                  404    404 404 404 404 | 404    404       421
DELETE /label/                                404    404 404 404 404 | 403    403       421
"""
# Ben ranks: what the functions of the ranking page are called with is his. Each row is called from right to left.
FUNCTIONS_TABLE = """
app    function       nobody Ben Eve Max Ada | origin no-origin host
label  load           out    ok  ok  ok  ok  | 403    403       421
label  save           out    ok  no  no  no  | 403    403       421
label  compare        out    ok  no  no  no  | 403    403       421
label  submit         out    ok  no  no  no  | 403    403       421
label  correct        out    ok  no  no  no  | 403    403       421
label  cancel         out    ok  ok  ok  ok  | 403    403       421
label  undo           out    ok  no  no  no  | 403    403       421
label  work           out    ok  ok  ok  ok  | 403    403       421
manage overview       out    403 403 ok  ok  | 403    403       421
manage annotators     out    403 403 ok  ok  | 403    403       421
manage disagreements  out    403 403 ok  ok  | 403    403       421
manage rounds         out    403 403 ok  ok  | 403    403       421
manage pause          out    403 403 ok  ok  | 403    403       421
manage limit          out    403 403 ok  ok  | 403    403       421
manage decide         out    403 403 ok  ok  | 403    403       421
manage closing        out    403 403 ok  ok  | 403    403       421
manage close_round    out    403 403 ok  ok  | 403    403       421
"""


def read(table: str) -> list[tuple[str, str, list[str]]]:
    lines = [line.replace("|", "").split() for line in table.strip().splitlines()[1:]]
    return [(first, second, cells) for first, second, *cells in lines]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    made = Team(tmp_path_factory.mktemp("team"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def doors(team: Team) -> Iterator[Doors]:
    with team.doors() as opened:
        yield opened


def visitor(doors: Doors, who: str):
    name, headers = VISITORS[who]
    return doors.visitor(name, **headers)


def test_every_route_for_everybody(doors):
    found = []
    for method, path, _ in read(ROUTES_TABLE):
        statuses = [f"{visitor(doors, who).request(method, path).status_code}" for who in VISITORS]
        found.append((method, path, statuses))
    assert found == read(ROUTES_TABLE)


def test_every_line_of_the_gate_is_in_the_table():
    rows = read(ROUTES_TABLE) + [("POST", f"/{app}/gradio_api/component_server/", []) for app in ("label", "manage")]
    for route in ROUTES:
        assert [path for method, path, _ in rows if route.paths.fullmatch(path) and method in route.methods], route


def payloads(doors: Doors) -> dict[str, dict]:
    """Return what the ranking page's functions are called with: Ben's task at hand, and the one he answered last."""
    ben = doors.visitor("Ben")
    number = component_of(ben, "label")
    task = call(ben, "label", "load", {}, number).json()["screen"]["task"]
    seen = {"submission_id": task["submission_id"], "tab": "one", "revision": 0}
    blank = {"strengths": [], "flags": [], "all_bad": False, "comment": ""}
    own = {"annotator": doors.team.people["Ben"].id}
    return {
        "save": {**seen, "draft": {"levels": [1, 2, 3], **blank}},
        "compare": {**seen, "first": 0, "second": 1},
        "submit": {**seen, "revision": 1, "verdict": "ranked", "ranks": [1, 2, 3], **blank},
        "correct": {"task_id": task["task_id"]},
        "undo": {"task_id": task["task_id"]},
        "cancel": seen,
        "disagreements": {"page": 0},
        "pause": {**own, "paused": False},
        "limit": {**own, "limit": 50},
        "decide": {"task_id": task["task_id"], "ranks": [1, 2, 3], "comment": ""},
        "close_round": {"round": 0},
    }


def outcome(answer) -> str:
    if answer.status_code != 200:
        return f"{answer.status_code}"
    said = answer.json()
    return "ok" if said["ok"] else "out" if said.get("signed_out") else "no"


def test_every_function_for_everybody(doors):
    ada = doors.visitor("Ada")
    numbers = {app: component_of(ada, app) for app in ("label", "manage")}
    given = payloads(doors)
    found = []
    for app, name, _ in read(FUNCTIONS_TABLE):
        said = []
        for who in reversed(VISITORS):  # the owner after those who try to be before him
            answer = call(visitor(doors, who), app, name, given.get(name, {}), numbers[app])
            said.append(outcome(answer))
        found.append((app, name, said[::-1]))
    assert found == read(FUNCTIONS_TABLE)


@pytest.mark.parametrize("app", ["label", "manage"])
def test_what_is_not_there_is_not_found(doors, app):
    ada = doors.visitor("Ada")
    assert call(ada, app, "load", {}, 99_999).status_code == 404, "no such component"
    assert ada.get(f"/{app}/assets/{'a' * 300}").status_code == 404, "no file has so long a name"


def test_every_function_is_in_the_table(team):
    known = {app: {name for of, name, _ in read(FUNCTIONS_TABLE) if of == app} for app in ("label", "manage")}
    made = {"label": page_functions(team.store), "manage": manage_functions(team.store)}
    assert known == {app: {function.__name__ for function in functions} for app, functions in made.items()}


def test_functions_ask_by_themselves_too(team, doors):
    """The gate could be misconfigured one day: a manager's function refuses an annotator all the same."""
    secret = doors.visitor("Ben").cookies[COOKIE]
    for function in manage_functions(team.store):
        for cookies in ({}, {COOKIE: "made up"}, {COOKIE: secret}):
            answer = function({}, SimpleNamespace(cookies=cookies))
            assert not answer["ok"]
            assert set(answer) <= {"ok", "error", "signed_out"}


def test_functions_of_one_app_are_not_reached_through_the_other(doors):
    ada, ben = doors.visitor("Ada"), doors.visitor("Ben")
    number = component_of(ada, "manage")
    assert call(ben, "label", "overview", {}, number).status_code == 404
    assert call(ben, "label", "overview", {}, component_of(ben, "label")).status_code == 404


def test_a_session_ends_by_itself(doors):
    for patience in (SESSION_IDLE_S, SESSION_LIFETIME_S):
        ben = doors.visitor("Ben")
        opened = doors.team.now
        while doors.team.now + SESSION_IDLE_S / 2 < opened + patience:
            assert ben.get("/label/config").status_code == 200
            doors.team.now += SESSION_IDLE_S / 2 if patience > SESSION_IDLE_S else SESSION_IDLE_S
        doors.team.now = max(doors.team.now, opened + patience)
        assert ben.get("/label/config").status_code == 401
        assert ben.get("/label/").headers["location"] == "/login"


def test_using_a_session_writes_once_an_hour(doors):
    ben = doors.visitor("Ben")

    def end():
        with doors.team.store.reading() as connection:
            return connection.execute(text("SELECT max(expires_at) FROM sessions")).scalar()

    ends = []
    for wait in (0, SESSION_RENEWAL_S, 1, 1):
        doors.team.now += wait
        ben.get("/label/config")
        ends.append(end() - doors.team.now)
    idle = SESSION_IDLE_S
    assert ends == [idle, idle - SESSION_RENEWAL_S, idle, idle - 1]


@pytest.mark.parametrize("change", [lambda secret: "", lambda secret: secret[:-1] + "BA"[secret[-1] == "B"], lambda secret: secret.lower(),
                                    lambda secret: "x" * 5000, lambda secret: secret[::-1]])  # fmt: skip
def test_a_tampered_session_is_none(doors, change):
    nobody = doors.visitor()
    nobody.cookies.set(COOKIE, change(doors.visitor("Ben").cookies[COOKIE]))
    assert nobody.get("/label/config").status_code == 401


def test_a_role_and_a_removal_hold_from_the_next_request_on(doors):
    eve, person = doors.visitor("Eve"), doors.team.people["Eve"]
    set_role(doors.team.store, person, "manager")
    assert eve.get("/manage/config").status_code == 200
    set_role(doors.team.store, person, "annotator")
    assert eve.get("/manage/config").status_code == 403
    assert "for whoever manages" in eve.get("/manage/").text
    gone = doors.visitor("Eve")
    deactivate(doors.team.store, person)
    assert gone.get("/label/config").status_code == 401
    with doors.team.store.transaction() as connection:
        connection.execute(text("UPDATE annotators SET active = true"))


def test_every_answer_carries_the_security_headers(doors):
    nobody, ada = doors.visitor(), doors.visitor("Ada")
    answers = [nobody.get("/nothing"), nobody.get("/label/config"), nobody.get("/login"), nobody.get("/open")]
    answers += [ada.get(path) for path in ("/label/", "/manage/", "/label/config", "/password", "/entrance.css")]
    for answer in answers:
        for name, value in HEADERS.items():
            if name == "content-security-policy" and not answer.request.url.path.startswith(("/label", "/manage")):
                value = SCRIPTLESS
            assert answer.headers.get_list(name) == [value], answer.request.url
        assert answer.headers["strict-transport-security"] == HSTS
        assert answer.headers["cache-control"] == "no-store"
    # Gradio's own answer to a cross-origin question: none but us.
    assert ada.get("/label/config").headers.get("access-control-allow-origin") in (None, HOME)


def test_what_the_pages_load_may_be_kept(doors):
    (script, *_) = re.findall(r'src="\.?/?(assets/[^"]+\.js)"', doors.visitor("Ben").get("/label/").text)
    assert "no-store" not in doors.visitor().get(f"/label/{script}").headers.get("cache-control", "")


@pytest.mark.parametrize("length", ["", "x", "-1", f"{MAX_BODY + 1}", "9" * 30])
def test_bodies_have_a_length_and_are_small(doors, length):
    ben = doors.visitor("Ben", **{"content-length": length})
    assert ben.post("/label/gradio_api/component_server/", content=b"").status_code == 413


TOLD = {"host": "127.0.0.1:7860", "x-forwarded-host": "labels.example.org", "x-forwarded-proto": "https",
        "x-forwarded-for": "198.51.100.7"}  # fmt: skip


@pytest.mark.parametrize(
    ("peer", "changes", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("127.0.0.1", {"host": "labels.example.org", "x-forwarded-host": ""}, 200),
        ("127.0.0.1", {"x-forwarded-proto": "http"}, 421),
        ("127.0.0.1", {"x-forwarded-host": "evil.example"}, 421),
        ("127.0.0.1", {"x-forwarded-host": "", "x-forwarded-proto": ""}, 421),
        ("203.0.113.9", {}, 421),
        ("203.0.113.9", {"host": "labels.example.org"}, 421),
    ],
)
def test_behind_a_proxy_the_proxy_alone_is_believed(team, peer, changes, status):
    access = replace(TEAM, proxies=read_proxies(["127.0.0.1"]))
    with team.doors(access) as behind:
        behind.origin = "http://127.0.0.1:7860"
        told = {name: value for name, value in {**TOLD, **changes}.items() if value}
        client = behind.visitor(address=peer, **{**told, "origin": HOME})
        answer = client.get("/login")
        assert answer.status_code == status
        if status == 200:
            assert answer.headers["strict-transport-security"] == HSTS
            form = form_of(answer) | {"name": "Ben", "password": "wrong horse"}
            cookie = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
            assert client.post("/login", data=form, headers=cookie).status_code == 403
            assert _failed(team, "198.51.100.7"), "the visitor's address is what counts"
            assert not _failed(team, peer)


def _failed(team: Team, address: str) -> int:
    with team.store.reading() as connection:
        key = by_address(team.store, address).key
        return connection.execute(
            text("SELECT count(*) FROM login_failures WHERE key = :key"), {"key": key}
        ).scalar_one()


def test_a_link_from_a_chat_finds_the_session(doors):
    """The browser keeps a strict cookie back when another site leads here; our own page then asks again."""
    for path in ("/label/", "/manage/"):
        answer = doors.visitor(**{"sec-fetch-site": "cross-site"}).get(path)
        assert answer.status_code == 200
        assert f'<meta http-equiv="refresh" content="0;url={path}">' in answer.text
    again = doors.visitor(**{"sec-fetch-site": "same-origin"}).get("/label/")
    assert (again.status_code, again.headers["location"]) == (303, "/login")
