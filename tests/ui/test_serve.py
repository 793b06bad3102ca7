"""`rlhf label serve` for a team, as it is started: a real certificate, real HTTPS requests, a real browser."""

import http.client
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from labeling_ui.app import COOKIE
from labeling_ui.gate import HSTS
from rlhf.cli import main
from rlhf.labels.accounts import end_sessions, list_annotators
from rlhf.labels.invitations import create_invitation
from rlhf.labels.store import open_store
from tests.ui.conftest import TeamServer, hostile_sets, open_context
from tests.ui.doors import PASSWORD, form_of, make_team
from tests.ui.person import shoot, sign_in, violations
from tests.ui.test_looks import SIZES

pytestmark = pytest.mark.ui

COMMAND = [sys.executable, "-m", "rlhf.cli", "label", "serve"]
NEW = "another horse battery"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[TeamServer]:
    """The pages over HTTPS, with an admin and an annotator."""
    database = make_team(
        tmp_path_factory.mktemp("served"), hostile_sets(), {"Ada Lovelace": "admin", "Ben": "annotator"}
    )
    running = TeamServer(database, certificate=certificate)
    running.start()
    yield running
    assert running.process is not None
    running.process.terminate()
    running.process.communicate(timeout=20)
    assert running.process.returncode == 128 + signal.SIGTERM


@pytest.fixture
def client(served: TeamServer) -> Iterator[httpx.Client]:
    """A program that trusts the certificate and nothing else."""
    trusted = ssl.create_default_context(cafile=str(served.certificate[0]))
    headers = {"origin": served.origin}
    with httpx.Client(base_url=served.origin, verify=trusted, headers=headers, trust_env=False) as made:
        yield made


def test_a_person_signs_in_over_https(client, served):
    assert served.link.startswith("https://127.0.0.1:")
    page = client.get("/login")
    assert page.headers["strict-transport-security"] == HSTS
    answer = client.post("/login", data={**form_of(page), "name": "Ben", "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/label/")
    assert "secure" in answer.headers["set-cookie"].lower()
    config = client.get("/label/config")
    assert config.status_code == 200
    assert f"{served.origin}/label" in config.text, "Gradio knows where it is served"
    assert client.get("/manage/config").status_code == 403


def test_nobody_gets_in_in_the_clear(served):
    where = urlsplit(served.origin)
    plain = http.client.HTTPConnection(where.hostname, where.port, timeout=5)
    plain.request("GET", "/login")
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.getresponse()
    plain.close()


def test_links_of_this_machine_open_nothing_here(client):
    assert client.get("/open").headers["location"] == "/login"
    assert client.get("/label/").headers["location"] == "/login"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "error: --host 0.0.0.0 is open to the network"),
        (
            ["--tls-cert", "none.pem", "--tls-key", "none.pem"],
            "error: --tls-cert none.pem: cannot be read (No such file",
        ),
        (["--local", "--behind-proxy"], "error: --local is for this machine"),
        (["--local", "--host", "::1"], "not allowed with argument --local"),
        (["--behind-proxy", "--public-url", "labels"], "error: --public-url labels: give scheme and host"),
        (["--behind-proxy", "--public-url", "https://a.example", "--trusted-proxy", "me"], "error: --trusted-proxy me"),
        (["--behind-proxy", "--public-url", "https://a.example"], "error: {}: nobody could sign in as admin"),
    ],
)
def test_mistakes_end_it_in_one_line(tmp_path, capsys, options, message):
    open_store(tmp_path / "labels.db", create=True).close()
    with pytest.raises(SystemExit) as left:
        main(["label", "serve", str(tmp_path / "labels.db"), *options])
    said = capsys.readouterr()
    assert left.value.code in (1, 2)
    assert message.format(tmp_path / "labels.db") in said.err
    assert said.out == ""


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def open_page(browser: Any, served: TeamServer) -> Iterator[Callable[..., Any]]:
    """Open pages, each in a browser of its own."""
    contexts = []

    def make(scheme: str = "light", size: str = "desk") -> Any:
        width, height = SIZES[size]
        viewport = {"width": width, "height": height}
        contexts.append(
            open_context(
                browser,
                base_url=served.origin,
                viewport=viewport,
                color_scheme=scheme,
                ignore_https_errors=True,
                locale="en-GB",
            )
        )
        return contexts[-1].new_page()

    yield make
    for context in contexts:
        context.close()


def focused(page: Any) -> str:
    return page.evaluate("document.activeElement.id || document.activeElement.textContent")


def test_in_and_out_by_keyboard_alone(open_page):
    page = open_page()
    page.goto("/")
    page.wait_for_selector("#name:focus")
    for key in ("ada lovelace", "Tab", "wrong horse", "Enter"):
        page.keyboard.press(key) if key in ("Tab", "Enter") else page.keyboard.type(key)
    page.wait_for_selector("[role=alert] >> text=Name or password is wrong.")
    page.wait_for_selector("#password:focus")
    assert (page.input_value("#name"), page.input_value("#password")) == ("ada lovelace", "")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(".mg:not([data-view=loading])")
    assert page.url.startswith(page.evaluate("location.origin") + "/manage/")
    page.click(".mg-away")
    page.wait_for_selector(".rk:not([data-view=loading])")
    assert page.is_visible(".rk-manage")
    page.click("[data-act=signout]")
    page.wait_for_url("**/login")
    assert COOKIE not in [cookie["name"] for cookie in page.context.cookies()]
    page.goto("/label/")
    page.wait_for_url("**/login")


def test_an_invitation_and_a_new_password(open_page, served):
    with open_store(served.database) as store:
        token = create_invitation(store)
    page = open_page(size="phone")
    page.goto(f"/open?token={token}")
    page.wait_for_selector("#name:focus")
    for name, value in (("name", "Noa"), ("new", PASSWORD), ("again", PASSWORD)):
        assert focused(page) == name
        page.keyboard.type(value)
        page.keyboard.press("Tab")
    assert focused(page) == "Begin"
    page.keyboard.press("Enter")
    page.wait_for_selector(".rk:not([data-view=loading])")
    assert page.is_hidden(".rk-manage")
    page.click(".rk-person a")
    page.wait_for_url("**/password")
    page.wait_for_selector("input:focus")
    for value in (PASSWORD, NEW, NEW):
        page.keyboard.type(value)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Your password is changed")
    page.click("text=To the ranking page")
    page.wait_for_selector(".rk:not([data-view=loading])")
    assert page.context.new_page().goto(f"/open?token={token}").status == 403


def test_a_link_from_elsewhere_finds_the_session(open_page):
    page = open_page()
    sign_in(page, "Ben")
    here = page.evaluate("location.origin")
    page.goto(f"data:text/html,<a href='{here}/label/'>work</a>")
    page.click("a")
    page.wait_for_selector(".rk:not([data-view=loading])")


def test_what_is_typed_outlives_the_session(open_page, served):
    page = open_page()
    sign_in(page, "Ben")
    with open_store(served.database) as store:
        (ben,) = (person for person in list_annotators(store) if person.name == "Ben")
        with store.transaction() as connection:
            end_sessions(connection, ben)
    page.keyboard.press("w")
    page.keyboard.type("typed after the end")
    page.click(".rk-notice button")
    page.wait_for_url("**/login")
    sign_in(page, "Ben")
    assert page.input_value(".rk-comment") == "typed after the end"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_pages_fit_and_can_be_used_by_everybody(open_page, served, scheme, size):
    with open_store(served.database) as store:
        token = create_invitation(store)
    page, found = open_page(scheme, size), []
    outside: list[str] = []
    page.on(
        "request", lambda request: outside.append(request.url) if not request.url.startswith(served.origin) else None
    )
    ending = f"{'' if size == 'desk' else '-phone'}{'' if scheme == 'light' else '-dark'}"

    def look(what: str) -> None:
        page.wait_for_load_state()
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], what
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontWeight") == "680", "no style sheet"
        shoot(page, f"entrance-{what}{ending}")
        found.extend(f"{what}: {one}" for one in violations(page))

    page.goto("/login")
    look("login")
    page.fill("#name", "Ben " + "w" * 60)
    page.fill("#password", "wrong horse")
    page.click("button")
    page.wait_for_selector("[role=alert]")
    look("refused")
    for where, what in ((f"/open?token={token}", "invitation"), ("/open?token=x", "spent")):
        page.goto(where)
        look(what)
    sign_in(page, "Ben")
    for where, what in (("/password", "password"), ("/manage/", "managers-only")):
        page.goto(where)
        look(what)
    assert (found, outside) == ([], [])
