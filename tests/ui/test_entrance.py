"""The pages in front of the app: signing in and out, invitations, links, passwords; over HTTP, without a browser."""

import re
from collections.abc import Iterator

import pytest

from labeling_ui.app import COOKIE
from labeling_ui.entrance import SIGN_OUT_COOKIE
from labeling_ui.forms import TOKEN_FIELD, VISIT_COOKIE, make_token
from rlhf.labels.accounts import (
    create_login_token,
    ensure_annotator,
    list_annotators,
    session_annotator,
)
from rlhf.labels.attempts import PER_ADDRESS, PER_NAME, WINDOW_S, by_address, by_name, count_attempt
from rlhf.labels.invitations import INVITATION_LIFETIME_S, create_invitation
from rlhf.labels.users import create_user, deactivate
from tests.ui.doors import HASHED, LOCAL, PASSWORD, Doors, Team, form_of, send

pytestmark = pytest.mark.ui

NEW = {"new": "another horse battery", "again": "another horse battery"}
FORMS = ("/login", "/open", "/password", "/signout")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    made = Team(tmp_path_factory.mktemp("team"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def doors(team: Team) -> Iterator[Doors]:
    with team.doors() as opened:
        yield opened


@pytest.fixture(scope="module")
def here(team: Team) -> Iterator[Doors]:
    """The application for this machine only."""
    with team.doors(LOCAL) as opened:
        yield opened


@pytest.fixture
def newcomer(team: Team) -> str:
    """Somebody with an account and the password of all, new in each test."""
    return create_user(team.store, f"Newcomer {len(list_annotators(team.store))}", "annotator", HASHED).name


def said(answer) -> str:
    """Return what a page says."""
    return " ".join(re.sub("<[^>]+>", " ", answer.text.partition("<main>")[2]).split())


def owner(team: Team, client) -> str | None:
    person = session_annotator(team.store, client.cookies.get(COOKIE))
    return person.name if person else None


# ---- signing in ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "to", "where"),
    [("Ben", "", "/label/"), ("ada", "", "/manage/"), ("MAX", "manage", "/manage/"), ("Ben", "manage", "/label/"),
     ("Ada", "https://evil.example", "/manage/"), ("Ada", "label", "/label/")],
)  # fmt: skip
def test_signing_in_leads_to_ones_work(doors, team, name, to, where):
    client = doors.visitor()
    answer = send(client, "/login", name=name, password=PASSWORD, to=to)
    assert (answer.status_code, answer.headers["location"]) == (303, where)
    assert owner(team, client).casefold() == name.casefold()
    assert client.get("/login").headers["location"] in ("/label/", "/manage/"), "who is in needs no form"


def test_the_cookies_are_for_this_site_and_https_only(doors):
    answer = send(doors.visitor(), "/login", name="Ben", password=PASSWORD)
    cookies = {line.partition("=")[0]: line.lower() for line in answer.headers.get_list("set-cookie")}
    assert set(cookies) == {COOKIE, SIGN_OUT_COOKIE}
    for line in cookies.values():
        assert all(word in line for word in ("secure", "samesite=strict", "path=/", "max-age="))
        assert "domain" not in line
    assert "httponly" in cookies[COOKIE]
    (visit,) = doors.visitor().get("/login").headers.get_list("set-cookie")
    assert visit.startswith(VISIT_COOKIE)
    assert all(word in visit.lower() for word in ("secure", "samesite=strict", "httponly"))


def test_a_refusal_names_neither_and_keeps_the_name_only(doors):
    client = doors.visitor(address="203.0.113.1")
    pages = set()
    for name in ("Ben", "Nobody"):
        answer = send(client, "/login", name=name, password="wrong horse")
        assert answer.status_code == 403
        assert "wrong horse" not in answer.text
        pages.add(answer.text.replace(name, "NAME"))
    assert len(pages) == 1
    assert "Name or password is wrong." in pages.pop()


def test_who_guesses_waits_even_with_the_right_password(doors, team, newcomer):
    client = doors.visitor(address="203.0.113.2")
    with team.store.transaction():
        for _ in range(PER_NAME):
            count_attempt(team.store, (by_name(team.store, newcomer.casefold()),))
    answer = send(client, "/login", name=newcomer, password=PASSWORD)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == f"{WINDOW_S}"
    assert "wait 15 minutes" in said(answer)
    assert owner(team, client) is None
    team.now += WINDOW_S
    assert send(client, "/login", name=newcomer, password=PASSWORD).status_code == 303


def test_an_address_that_guesses_waits_and_others_do_not(doors, team):
    for number in range(PER_ADDRESS):
        count_attempt(team.store, (by_name(team.store, f"{number}"), by_address(team.store, "203.0.113.3")))
    assert send(doors.visitor(address="203.0.113.3"), "/login", name="Ben", password=PASSWORD).status_code == 429
    assert send(doors.visitor(address="203.0.113.4"), "/login", name="Ben", password=PASSWORD).status_code == 303


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"&" * 5000, b"a=1&" * 5000, b"name", b"name=%00&password=%00",
                                  b"name=" + b"x" * 200_000, b'{"name": "Ben"}'])  # fmt: skip
@pytest.mark.parametrize("path", FORMS)
def test_nonsense_is_refused_politely(doors, path, body):
    for client in (doors.visitor(), doors.visitor("Ben")):
        assert client.post(path, content=body).status_code in (303, 401, 403)


def test_names_are_text_on_every_page(doors, team):
    attack = '"><img src=x onerror=alert(1)>'
    client = doors.visitor(address="203.0.113.5")
    answer = send(client, "/login", name=attack, password="wrong horse")
    token = create_invitation(team.store)
    again = send(client, "/open", f"/open?token={token}", name=attack, new="short", again="short")
    for page in (
        answer,
        again,
        client.get("/login", params={"to": attack}),
        client.get("/open", params={"token": attack}),
    ):
        assert "<img" not in page.text
    assert "&lt;img" in answer.text


# ---- tokens of forms -----------------------------------------------------------------------------


def test_a_form_without_its_token_does_nothing(doors, team, newcomer):
    fields = {"name": newcomer, "password": PASSWORD, "current": PASSWORD, **NEW}
    stranger = form_of(doors.visitor().get("/login"))[TOKEN_FIELD]
    for token in ("", "0" * 64, stranger, make_token("")):
        client = doors.visitor()
        client.get("/login")
        assert "open for too long" in said(client.post("/login", data={**fields, TOKEN_FIELD: token}))
        assert owner(team, client) is None
        inside = doors.visitor("Ben")
        assert "open for too long" in said(inside.post("/password", data={**fields, TOKEN_FIELD: token}))
        assert said(inside.post("/signout", data={TOKEN_FIELD: token})) == "Rankings Sign out? Sign out Stay"
        assert owner(team, inside) == "Ben"
        invited = doors.visitor()
        data = {**fields, "name": "Eve 2", "token": create_invitation(team.store), TOKEN_FIELD: token}
        assert "open for too long" in said(invited.post("/open", data=data))
    assert "Eve 2" not in [person.name for person in list_annotators(team.store)]


def test_the_page_that_refuses_a_form_holds_a_good_one(doors, team):
    client = doors.visitor()
    refused = client.post("/login", data={"name": "Ben", "password": PASSWORD})
    assert client.post("/login", data={**form_of(refused), "name": "Ben", "password": PASSWORD}).status_code == 303
    stay = client.post("/signout")
    assert client.post("/signout", data=form_of(stay)).headers["location"] == "/login"
    assert owner(team, client) is None


def test_signing_out_as_the_page_does(doors, team):
    client = doors.visitor()
    send(client, "/login", name="Ben", password=PASSWORD)
    secret = client.cookies[COOKIE]
    answer = client.post("/signout", data={TOKEN_FIELD: client.cookies[SIGN_OUT_COOKIE]})
    assert answer.headers["location"] == "/login"
    assert session_annotator(team.store, secret) is None
    assert COOKIE not in client.cookies
    assert client.post("/signout").headers["location"] == "/login", "twice does no harm"


def test_signing_in_again_ends_the_session_before(doors, team):
    client = doors.visitor("Eve")
    before = client.cookies[COOKIE]
    form = form_of(doors.visitor().get("/login"))  # a page that was open in another tab
    client.cookies.set(VISIT_COOKIE, "tab", domain="labels.example.org")
    form[TOKEN_FIELD] = make_token("tab")
    answer = client.post("/login", data={**form, "name": "Ben", "password": PASSWORD})
    assert answer.status_code == 303
    assert session_annotator(team.store, before) is None


# ---- invitations ---------------------------------------------------------------------------------


def test_an_invitation_from_link_to_work(doors, team):
    token = create_invitation(team.store, "manager")
    client = doors.visitor()
    for _ in range(2):
        assert "You are invited to manage the labels" in said(client.get(f"/open?token={token}"))
    answer = send(client, "/open", f"/open?token={token}", name="Mia", **NEW)
    assert (answer.status_code, answer.headers["location"]) == (303, "/manage/")
    assert owner(team, client) == "Mia"
    answer = doors.visitor().get(f"/open?token={token}")
    assert answer.status_code == 403
    assert "used already or has expired" in said(answer)
    assert send(doors.visitor(), "/login", name="mia", password=NEW["new"]).status_code == 303


def test_an_invitation_for_somebody_asks_for_a_password_only(doors, team):
    person = create_user(team.store, "Noa")
    token = create_invitation(team.store, annotator=person)
    client = doors.visitor()
    page = client.get(f"/open?token={token}")
    assert "You sign in as Noa from now on" in said(page)
    assert 'id="name"' not in page.text
    assert send(client, "/open", f"/open?token={token}", name="Ada", **NEW).headers["location"] == "/label/"
    assert owner(team, client) == "Noa"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Ada", **NEW}, "is taken"),
        ({"name": "  ", **NEW}, "The name is empty"),
        ({"name": "Oda", **NEW, "again": "x"}, "The two passwords differ"),
        ({"name": "Oda", "new": "short", "again": "short"}, "at least 10"),
    ],
)
def test_a_refused_invitation_can_be_tried_again(doors, team, fields, message):
    token = create_invitation(team.store)
    client = doors.visitor()
    answer = send(client, "/open", f"/open?token={token}", **fields)
    assert answer.status_code == 422
    assert message in said(answer)
    assert NEW["new"] not in answer.text
    assert form_of(answer)["token"] == token


@pytest.mark.parametrize("token", ["", "x", "expired", "local", "x" * 5000, "\x00", "ü"])
def test_other_tokens_open_nothing(doors, team, token):
    if token == "expired":
        token = create_invitation(team.store)
        team.now += INVITATION_LIFETIME_S
    if token == "local":
        token = create_login_token(team.store)
    client = doors.visitor()
    look = client.get("/open", params={"token": token})
    assert (look.status_code, look.headers.get("location")) in ((403, None), (303, "/login"))
    form = form_of(client.get("/login"))
    answer = client.post("/open", data={**form, "token": token, "name": "Eve", **NEW})
    assert answer.status_code == 403
    assert owner(team, client) is None


# ---- passwords -----------------------------------------------------------------------------------


def test_changing_the_password_signs_everywhere_else_out(doors, team, newcomer):
    client, other = doors.visitor(), doors.visitor()
    for one in (client, other):
        send(one, "/login", name=newcomer, password=PASSWORD)
    page = client.get("/password")
    assert f'autocomplete="username" value="{newcomer}"' in page.text
    answer = send(client, "/password", current=PASSWORD, **NEW)
    assert "Your password is changed" in said(answer)
    assert (owner(team, client), owner(team, other)) == (newcomer, None)
    assert client.get("/label/").status_code == 200
    assert send(doors.visitor(), "/login", name=newcomer, password=PASSWORD).status_code == 403
    assert send(doors.visitor(), "/login", name=newcomer, password=NEW["new"]).status_code == 303


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"current": "wrong horse", **NEW}, 403, "The current password is wrong"),
        ({"current": PASSWORD, **NEW, "again": "x"}, 422, "The two passwords differ"),
        ({"current": PASSWORD, "new": "short", "again": "short"}, 422, "at least 10"),
        ({}, 422, "at least 10"),
    ],
)
def test_a_refused_change_changes_nothing(doors, team, newcomer, fields, status, message):
    client = doors.visitor()
    send(client, "/login", name=newcomer, password=PASSWORD)
    answer = send(client, "/password", **fields)
    assert answer.status_code == status
    assert message in said(answer)
    assert owner(team, client) == newcomer


def test_guessing_a_password_from_inside_is_slow_too(doors, team, newcomer):
    client = doors.visitor()
    send(client, "/login", name=newcomer, password=PASSWORD)
    for _ in range(PER_NAME):
        count_attempt(team.store, (by_name(team.store, newcomer.casefold()),))
    assert send(client, "/password", current=PASSWORD, **NEW).status_code == 429
    assert owner(team, client) == newcomer


def test_who_came_by_a_link_has_no_password_to_change(here):
    client = by_link(here, "Linked")
    assert "You came in by a link and have no password" in said(client.get("/password"))
    assert "no password" in said(client.post("/password", data={TOKEN_FIELD: client.cookies[SIGN_OUT_COOKIE], **NEW}))


# ---- on this machine -----------------------------------------------------------------------------


def by_link(doors: Doors, name: str):
    client = doors.visitor()
    token = create_login_token(doors.team.store)
    assert send(client, "/open", f"/open?token={token}", name=name).headers["location"] == "/label/"
    return client


def test_a_link_opens_one_session_and_looking_at_it_uses_nothing(here, team):
    token = create_login_token(team.store)
    client = here.visitor()
    for _ in range(2):
        assert "Say who you are" in said(client.get(f"/open?token={token}"))
    answer = send(client, "/open", f"/open?token={token}", name="Lia")
    (session, _) = answer.headers.get_list("set-cookie")
    assert "httponly" in session.lower()
    assert "secure" not in session.lower(), "there is no HTTPS on this machine"
    other = here.visitor()
    assert "used already" in said(other.get(f"/open?token={token}"))
    assert send(other, "/open", "/login", token=token, name="Eve").status_code == 403


def test_people_at_this_machine_change_places(here, team):
    client = by_link(here, "Lia")
    assert send(client, "/open", name="Tom").headers["location"] == "/label/"
    assert owner(team, client) == "Tom"
    nobody = here.visitor()
    assert send(nobody, "/open", "/login", name="Eve").status_code == 403


@pytest.mark.parametrize("name", ["Ada", "ben", "MAX"])
def test_nobody_becomes_a_person_with_an_account_that_way(here, team, name):
    client = by_link(here, "Lia")
    answer = send(client, "/open", name=name)
    assert answer.status_code == 422
    assert "sign in with its password" in said(answer)
    assert owner(team, client) == "Lia"
    token = create_login_token(team.store)
    assert send(here.visitor(), "/open", f"/open?token={token}", name=name).status_code == 422
    assert send(here.visitor(), "/login", name=name, password=PASSWORD).status_code == 303


def test_a_bad_name_does_not_use_up_the_link(here, team):
    token = create_login_token(team.store)
    client = here.visitor()
    assert "The name is empty" in said(send(client, "/open", f"/open?token={token}", name="  "))
    assert send(client, "/open", f"/open?token={token}", name="<b>Lia</b>").status_code == 303
    assert "&lt;b&gt;Lia&lt;/b&gt;" in client.get("/open").text


def test_a_page_for_one_person_cannot_be_taken_over(team):
    person = ensure_annotator(team.store, "Solo")
    with team.doors(LOCAL, fixed_name="Solo") as alone:
        token = create_login_token(team.store, person)
        client = alone.visitor()
        assert "You will work as Solo" in said(client.get(f"/open?token={token}"))
        assert send(client, "/open", f"/open?token={token}", name="Eve").status_code == 303
        assert owner(team, client) == "Solo"
        assert client.get("/open").headers["location"] == "/label/"
        form = {TOKEN_FIELD: client.cookies[SIGN_OUT_COOKIE]}
        assert client.post("/open", data={**form, "name": "Eve"}).status_code == 403
        assert client.post("/signout", data=form).headers["location"] == "/open"
        assert "Run rlhf label serve again" in said(client.get("/open"))


def test_who_was_removed_is_out_at_once(doors, team):
    person = create_user(team.store, "Left", "annotator", HASHED)
    client = doors.visitor()
    send(client, "/login", name="Left", password=PASSWORD)
    deactivate(team.store, person)
    assert client.get("/label/").headers["location"] == "/login"
    assert send(client, "/login", name="Left", password=PASSWORD).status_code == 403
