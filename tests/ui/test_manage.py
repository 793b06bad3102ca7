"""The manager pages: who may call what, what they show, in a real browser what a manager does."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from sqlalchemy import text

from labeling_ui.app import COOKIE
from labeling_ui.manage import manage_functions, stylesheet
from rlhf.labels.accounts import list_annotators
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.events import verify
from rlhf.labels.publishing import publish
from rlhf.labels.store import Store, open_store
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet
from tests.ui.labels_of_a_team import make_labels, manager_session, open_labels

pytestmark = pytest.mark.ui

Call = Callable[..., dict[str, Any]]
SERVER = """
import sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI
from labeling_ui.manage import build_manage, stylesheet
from tests.ui.labels_of_a_team import open_labels
import gradio as gr
web = FastAPI()
page = build_manage(open_labels(Path(sys.argv[1])))
gr.mount_gradio_app(web, page, path="/manage", css=stylesheet(), theme=gr.themes.Base(font="system-ui"), footer_links=[],
                    run_history=False, ssr_mode=False)
config = uvicorn.Config(web, port=0, log_level="warning")
server = uvicorn.Server(config)
listener = config.bind_socket()
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
server.run(sockets=[listener])
"""


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The team's database; tests that change it take a copy."""
    return make_labels(tmp_path_factory.mktemp("team") / "labels.db")


@pytest.fixture
def store(labels: Path, tmp_path: Path) -> Iterator[Store]:
    with open_labels(Path(shutil.copy(labels, tmp_path))) as opened:
        yield opened


@pytest.fixture
def call(store: Store) -> Call:
    """Call a handler as the page does, as somebody of this role."""
    handlers = {handler.__name__: handler for handler in manage_functions(store)}

    def run(name: str, payload: Any = None, *, role: str | None = "manager") -> dict[str, Any]:
        secret = manager_session(Path(str(store.place)), f"A {role}", role) if role else "nobody"
        cookies = {COOKIE: secret}
        return handlers[name]({} if payload is None else payload, SimpleNamespace(cookies=cookies))

    run.names = sorted(handlers)  # pyright: ignore[reportFunctionMemberAccess]
    return run


HANDLERS = (
    "annotators", "close_round", "closing", "decide", "disagreements", "limit", "overview", "pause", "rounds",
)  # fmt: skip


def test_every_handler_is_in_the_table(call):
    assert tuple(call.names) == HANDLERS


@pytest.mark.parametrize("name", HANDLERS)
def test_only_managers_may_call(call, store, name):
    before = _rows(store, "SELECT count(*) FROM events")
    assert call(name, role=None)["signed_out"] is True
    refused = call(name, role="annotator")
    assert refused == {"ok": False, "error": "These pages are for whoever manages the labels."}
    assert _rows(store, "SELECT count(*) FROM events WHERE kind <> 'annotator'") == [(before[0][0] - _people(store),)]


def _people(store: Store) -> int:
    return _rows(store, "SELECT count(*) FROM events WHERE kind = 'annotator'")[0][0] - 1


def _rows(store: Store, sql: str) -> list[Any]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def _id(store: Store, name: str) -> str:
    (person,) = (person for person in list_annotators(store) if person.name == name)
    return person.id


@pytest.mark.parametrize("role", ["manager", "admin"])
def test_the_overview_holds_together(call, role):
    found = call("overview", role=role)
    progress = found["progress"]
    assert found["ok"]
    assert found["rounds"] == [0, 1]
    assert found["round"] == 1, "the latest, where nobody says which"
    found = call("overview", {"round": 0}, role=role)
    progress = found["progress"]
    assert progress["filled"] + progress["left"] == progress["slots"] == 480
    assert progress["complete"] + progress["started"] + progress["untouched"] == progress["tasks"] == 160
    assert sum(found["hours"][1]) == progress["filled"]
    assert found["forecast"]["ends"][0] < found["forecast"]["ends"][1] < found["forecast"]["ends"][2]
    assert found["agreement"]["strict"]["low"] < found["agreement"]["strict"]["value"]
    assert found["scripted"] == []


def test_the_habits_of_the_team_show(call):
    people = {row["name"]: row["figures"] for row in call("annotators", {"round": 0})["people"]}
    assert people["Dalia Haddad"]["first_wins"]["low"] > 0.6, "she leaves much as it is shown"
    assert people["Farah Rahimi"]["longer_wins"]["low"] > 0.8
    assert people["Eitan Levi"]["too_fast"] > people["Eitan Levi"]["timed"] / 2
    assert people["Amara Okafor"]["too_fast"] == 0
    assert people["Amara Okafor"]["reliability"]["low"] > people["Eitan Levi"]["reliability"]["high"]


def test_pause_and_limit_reach_the_annotator_and_the_chain(call, store):
    chen = _id(store, "Chen Yu")
    assert call("pause", {"annotator": chen, "paused": True})["ok"]
    assert call("limit", {"annotator": chen, "limit": 12})["ok"]
    (person,) = (person for person in list_annotators(store) if person.id == chen)
    assert (person.paused, person.task_limit) == (True, 12)
    assert claim(store, person, round=1) is None
    assert call("pause", {"annotator": chen, "paused": False})["ok"]
    assert call("limit", {"annotator": chen, "limit": None})["ok"]
    assert _rows(store, "SELECT count(*) FROM events WHERE kind IN ('pause', 'limit')") == [(5,)], "one was there"
    assert verify(store).ok


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("overview", {"round": "0"}),
        ("overview", {"round": 99}),
        ("overview", {"round": True}),
        ("overview", {"round": -1}),
        ("annotators", {"round": 2**70}),
        ("disagreements", {"page": -1}),
        ("disagreements", {"page": 1.5}),
        ("pause", {"annotator": "nobody", "paused": True}),
        ("pause", {"annotator": ["x"], "paused": True}),
        ("limit", {"annotator": "x" * 10_000, "limit": 3}),
        ("decide", {"task_id": "1", "ranks": [1, 2, 3, 4]}),
        ("decide", {"task_id": 1, "ranks": [1, 2, 3, 4] * 9}),
        ("decide", {"task_id": 1, "ranks": [1, 2, "3", 4]}),
        ("decide", {"task_id": 1, "ranks": [1, 2, 3]}),
        ("decide", {"task_id": 1, "ranks": [1, 1, 3, 4]}),
        ("decide", {"task_id": 10_000, "ranks": [1, 2, 3, 4]}),
        ("decide", {"task_id": 1, "ranks": [1, 2, 3, 4], "comment": "x" * 4001}),
        ("decide", {"task_id": 1, "ranks": [1, 2, 3, 4], "comment": "\ud800"}),
        ("close_round", {"round": None, "extra": []} | {"round": 7}),
    ],
)
def test_what_makes_no_sense_is_refused(call, store, name, payload):
    before = _rows(store, "SELECT count(*) FROM answers")
    refused = call(name, payload | ({"page": 0} if name == "disagreements" and "page" not in payload else {}))
    assert refused["ok"] is False
    assert refused["error"]
    assert _rows(store, "SELECT count(*) FROM answers") == before


def test_payloads_that_are_no_objects_are_refused(call):
    for payload in ([], "x", 3):
        assert call("overview", payload)["ok"] is False


def test_an_empty_store_says_what_to_do(tmp_path):
    with open_store(tmp_path / "labels.db", create=True) as opened:
        overview = next(handler for handler in manage_functions(opened) if handler.__name__ == "overview")
        cookies = {COOKIE: manager_session(tmp_path / "labels.db")}
        answer = overview({}, SimpleNamespace(cookies=cookies))
    assert (answer["ok"], answer["error"]) == (
        False,
        "nothing is published yet; publish candidates with `rlhf label init`",
    )


def test_names_stay_out_of_disagreements(call, store):
    found = call("disagreements", {"round": 0, "page": 0})
    assert found["total"] > 10
    assert len(found["tasks"]) == 10
    agreements = [task["agreement"] for task in found["tasks"]]
    assert agreements == sorted(agreements)
    shown = str(found["tasks"])
    assert not [person.name for person in list_annotators(store) if person.name in shown]


def test_closing_and_what_it_names(call, store):
    lost = call("closing", {"round": 0})
    assert lost["working"] == ["Amara Okafor"]
    assert (lost["drafts"], lost["slots"] > 0) == (1, True)
    assert call("close_round", {"round": 0})["closed"] == 160
    after = call("overview", {"round": 0})["progress"]
    assert (after["left"], after["closed"]) == (0, 160)
    (amara,) = (person for person in list_annotators(store) if person.name == "Amara Okafor")
    assert claim(store, amara, round=0) is None


# ---- in a browser ----------------------------------------------------------------------------------------------------


class Desk:
    """The manager pages of a copy of the database, and a browser in front of them."""

    def __init__(self, database: Path, origin: str, open_page: Callable[..., Any]) -> None:
        self.database = database
        self.origin = origin
        self._open = open_page
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.contexts: list[Any] = []

    def calls(self) -> int:
        """Return how often the pages called the server."""
        return sum("component_server" in url for url in self.requests)

    def leave(self) -> None:
        """Close every page."""
        while self.contexts:
            self.contexts.pop().close()

    def visit(self, view: str = "overview", *, still: bool = False, **options: Any) -> Any:
        page = self._open(self, **options)
        if still:
            page.clock.install()
        page.goto(f"{self.origin}/manage/#{view}")
        page.wait_for_selector(f".mg[data-view={view}]")
        return page


@contextmanager
def serving(browser: Any, copy: Path) -> Iterator[Desk]:
    """Serve the manager pages of a database."""
    secret = manager_session(copy)
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(copy)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    def open_page(desk: Desk, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        desk.contexts.append(context)
        context.add_cookies([{"name": COOKIE, "value": secret, "url": desk.origin}])
        page = context.new_page()
        page.on("request", lambda request: desk.requests.append(request.url))
        page.on("pageerror", lambda error: desk.errors.append(str(error)))
        return page

    made = Desk(copy, process.stdout.readline().strip(), open_page)
    try:
        yield made
    finally:
        made.leave()
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def shared(browser: Any, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One server for the tests that do not stand in each other's way (it takes seconds to start)."""
    copy = Path(shutil.copy(labels, tmp_path_factory.mktemp("desk")))
    with serving(browser, copy) as made:
        yield made


@pytest.fixture
def desk(shared: Desk) -> Iterator[Desk]:
    """The shared server, without a trace of what the test before asked for."""
    shared.requests.clear()
    shared.errors.clear()
    yield shared
    shared.leave()


@pytest.fixture
def own_desk(browser: Any, labels: Path, tmp_path: Path) -> Iterator[Desk]:
    """A server whose database the test may change at will."""
    with serving(browser, Path(shutil.copy(labels, tmp_path))) as made:
        yield made


def shoot(page: Any, name: str, **options: Any) -> None:
    """Take a screenshot where RLHF_SCREENSHOTS names a folder, with few colours, so that it stays small."""
    folder = os.environ.get("RLHF_SCREENSHOTS")
    if folder:
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(300)
        image = Image.open(io.BytesIO(page.screenshot(animations="disabled", **options))).convert("RGB")
        few = image.quantize(64, dither=Image.Dither.NONE)
        few.save(Path(folder) / f"manage-{name}.png", optimize=True)


def choose_round(page: Any, number: int) -> None:
    page.select_option(".mg-round select", str(number))
    page.wait_for_function(f"document.querySelector('.mg-round select').value === '{number}'")
    page.wait_for_timeout(300)


def test_overview_draws_what_the_server_says(desk):
    page = desk.visit()
    choose_round(page, 0)
    page.wait_for_function("document.querySelector('.mg-numbers').innerText.includes('480')")
    labels_of = page.eval_on_selector_all(".mg-svg", "nodes => nodes.map(node => node.getAttribute('aria-label'))")
    assert any(label.startswith("Pairs, strict: 0.") for label in labels_of)
    assert any(label.startswith("Slots filled per day") for label in labels_of)
    assert page.locator(".mg-svg .mg-dot").count() >= 10
    shoot(page, "overview", full_page=True)
    outside = [url for url in desk.requests if urlsplit(url).hostname != "127.0.0.1" and not url.startswith("data:")]
    assert outside == []
    assert desk.errors == []


def test_annotators_are_sorted_paused_and_limited(desk):
    page = desk.visit("annotators")
    choose_round(page, 0)
    page.click("text=Tasks >> nth=0")
    page.wait_for_timeout(100)
    counts = page.eval_on_selector_all(
        ".mg-table tbody tr", "rows => rows.map(row => Number(row.cells[1].querySelector('b').innerText))"
    )
    assert counts == sorted(counts, reverse=True)
    shoot(page, "annotators", full_page=True)
    page.click("[aria-label='Pause Chen Yu']")
    page.wait_for_selector("[aria-label='Resume Chen Yu']")
    assert page.inner_text(".mg-notice") == "Chen Yu gets no new tasks now."
    field = page.locator("[data-key^=limit-]").first
    field.fill("40")
    field.press("Enter")
    page.wait_for_function("document.querySelector('.mg-notice').innerText.includes('at most 40 tasks')")
    with open_labels(desk.database) as store:
        people = {person.name: person for person in list_annotators(store)}
    assert people["Chen Yu"].paused
    assert 40 in [person.task_limit for person in people.values()]
    assert desk.errors == []


def test_a_dispute_is_decided_by_keyboard(desk):
    page = desk.visit("disagreements")
    choose_round(page, 0)
    page.wait_for_selector(".mg-dispute-row")
    first = page.inner_text(".mg-dispute-row >> nth=0")
    page.focus(".mg-dispute-row >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector(".mg-ranks")
    assert page.locator(".mg-output").count() == 4
    shoot(page, "disagreement", full_page=True)
    page.focus(".mg-decide")
    page.keyboard.press("Enter")
    assert "Still waiting: A, B, C, D" in page.inner_text(".mg-notice")
    for place, rank in enumerate((1, 3, 3, 4)):
        page.focus(f"[data-key=pick-{place}-{rank}]")
        page.keyboard.press("Space")
    page.fill(".mg-why", "B and C say the same")
    page.focus(".mg-decide")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.mg-notice').innerText === 'Decision stored.'")
    assert page.inner_text(".mg-dispute-row >> nth=0") != first
    page.click("text=Decided")
    page.wait_for_selector(".mg-dispute-row")
    page.click(".mg-dispute-row")
    assert page.locator(".mg-together", has_text="decision").locator("td").all_inner_texts() == ["1", "2", "2", "3"]
    with open_labels(desk.database) as store, store.reading() as connection:
        (row,) = connection.execute(text("SELECT ranks, verdict FROM answers WHERE adjudicates")).all()
        assert (row.ranks, row.verdict) == ("[1,2,2,3]", "ranked")
    assert desk.errors == []


def test_closing_asks_first(own_desk):
    page = own_desk.visit("rounds")
    page.wait_for_selector(".mg-card")
    shoot(page, "rounds")
    page.click("[aria-label='Close round 0']")
    page.wait_for_selector(".mg-dialog[open]")
    said = page.inner_text(".mg-dialog")
    assert "Amara Okafor" in said
    assert "cannot be opened again" in said
    shoot(page, "closing")
    assert page.evaluate("document.activeElement.innerText") == "Keep it open"
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('.mg-dialog').open")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Close round 0", "back where it was"
    page.click("[aria-label='Close round 0']")
    page.click(".mg-danger")
    page.wait_for_function("document.querySelector('.mg-notice').innerText === 'Round 0 is closed.'")
    assert page.locator("[aria-label='Close round 0']").count() == 0
    assert page.locator(".mg-is-closed").count() == 1


def test_the_page_follows_what_happens(desk):
    page = desk.visit(still=True)
    choose_round(page, 1)
    page.wait_for_function("document.querySelector('.mg-numbers').innerText.includes('0 of 24')")
    with open_labels(desk.database) as store:
        person = next(person for person in list_annotators(store) if person.name == "Björn Lindqvist")
        view = claim(store, person, round=1)
        submit(store, person, Submission(view.submission_id, ranks=(1, 2, 3, 4)))
    asked = desk.calls()
    page.clock.fast_forward(4_000)
    page.wait_for_timeout(200)
    assert desk.calls() == asked, "every ten seconds is enough"
    page.clock.fast_forward(11_000)
    page.wait_for_function("document.querySelector('.mg-numbers').innerText.includes('1 of 24')")
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    asked = desk.calls()
    page.clock.fast_forward(60_000)
    page.wait_for_timeout(200)
    assert desk.calls() == asked, "nobody looks, nothing is asked"


HOSTILE = CandidateSet(
    "p-hostile",
    "<script>window.hacked=1</script>What is <b>this</b>?",
    (
        '<img src="http://evil.example/a.png" onerror="window.hacked=2">',
        "![track](http://evil.example/b.png) [click](javascript:window.hacked=3) ${window.hacked=4}",
        "a <style>*{display:none}</style> {{constructor.constructor('window.hacked=5')()}} <svg onload=window.hacked=6>",
    ),
)


def test_hostile_texts_are_shown_and_not_run(desk):
    with open_labels(desk.database) as store:
        publish(store, [HOSTILE], overlap=2, round=2)
        for name, ranks in (("<img src=x onerror=window.hacked=7>", (1, 2, 3)), ("Farah Rahimi", (3, 2, 1))):
            manager_session(desk.database, name, "annotator")
            person = next(person for person in list_annotators(store) if person.name == name)
            view = claim(store, person, round=2)
            order = [HOSTILE.responses.index(response) for response in view.responses]
            said = "<img src=x onerror=window.hacked=8>"
            submit(
                store,
                person,
                Submission(view.submission_id, ranks=tuple(ranks[place] for place in order), comment=said),
            )
    page = desk.visit("disagreements")
    choose_round(page, 2)
    page.click(".mg-dispute-row")
    page.wait_for_selector(".mg-comments")
    assert "<img src=x onerror=window.hacked=8>" in page.inner_text(".mg-comments")
    page.click("[data-go=annotators]")
    page.wait_for_selector(".mg-table")
    assert "<img src=x onerror=window.hacked=7>" in page.inner_text(".mg-table")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert not [url for url in desk.requests if "evil.example" in url]
    assert desk.errors == []


VIEWS = ("overview", "annotators", "disagreements", "rounds")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_every_page_fits_the_screen(desk, scheme, width):
    page = desk.visit(width=width, height=844, color_scheme=scheme)
    choose_round(page, 0)
    for view in VIEWS:
        page.click(f"[data-go={view}]")
        page.wait_for_selector(f".mg[data-view={view}]")
        if view == "disagreements":
            page.click(".mg-dispute-row")
            page.wait_for_selector(".mg-ranks")
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        if view == "overview" and (scheme, width) in (("dark", 1280), ("light", 390)):
            shoot(page, f"{view}-{scheme}-{width}", full_page=width == 1280)
        if (scheme, width) in (("light", 1280), ("dark", 390)):
            _check_accessibility(page, f"{view} {scheme} {width}")
    ink, paper = page.evaluate(
        "(() => { const s = getComputedStyle(document.querySelector('.mg'));"
        " const sum = (c) => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0);"
        " return [sum(s.color), sum(s.backgroundColor)]; })()"
    )
    assert (ink < paper) == (scheme == "light")


def _check_accessibility(page: Any, where: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (rule["id"], [node["html"][:120] for node in rule["nodes"]][:3])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
    assert serious == [], where


def test_only_rendered_text_reaches_inner_html():
    folder = Path(__file__).parents[2] / "labeling_ui" / "widget" / "manage"
    uses = [
        line.strip()
        for path in folder.glob("*.js")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"innerHTML|insertAdjacent|outerHTML|document\.write", line) and not line.startswith("//")
    ]
    assert uses == [
        "body.innerHTML = turn.html; // rendered by the server",
        "body.innerHTML = output.html; // rendered by the server",
    ]
    assert "http" not in stylesheet()
