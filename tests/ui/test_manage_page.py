"""The manager pages in a real browser: what they draw, what a manager does, how they look."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from labeling_ui.app import COOKIE
from labeling_ui.manage import stylesheet
from rlhf.labels.accounts import list_annotators
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.publishing import publish
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet
from tests.ui.conftest import open_context
from tests.ui.labels_of_a_team import list_tasks_for_the_model, manager_session, open_labels
from tests.ui.person import is_light, shoot, violations

pytestmark = pytest.mark.ui

SERVER = """
import sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI
from labeling_ui.manage import build_manage, stylesheet
from tests.ui.labels_of_a_team import open_labels
import gradio as gr
web = FastAPI()
database = Path(sys.argv[1])
page = build_manage(open_labels(database), run=database.parent)
gr.mount_gradio_app(web, page, path="/manage", css=stylesheet(), theme=gr.themes.Base(font="system-ui"), footer_links=[],
                    run_history=False, ssr_mode=False)
config = uvicorn.Config(web, port=0, log_level="warning")
server = uvicorn.Server(config)
listener = config.bind_socket()
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
server.run(sockets=[listener])
"""


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
        context = open_context(browser, viewport={"width": width, "height": height}, **options)
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
    shoot(page, "manage-overview", full_page=True)
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
    shoot(page, "manage-annotators", full_page=True)
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
    shoot(page, "manage-disagreement", full_page=True)
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
    page.wait_for_function("first => document.querySelector('.mg-dispute-row').innerText !== first", arg=first)
    page.click("text=Decided")
    page.wait_for_selector(".mg-dispute-row")
    page.click(".mg-dispute-row")
    assert page.locator(".mg-together", has_text="decision").locator("td").all_inner_texts() == ["1", "2", "2", "3"]
    with open_labels(desk.database) as store, store.reading() as connection:
        (row,) = connection.execute(text("SELECT ranks, verdict FROM answers WHERE adjudicates")).all()
        assert (row.ranks, row.verdict) == ("[1,2,2,3]", "ranked")
    assert desk.errors == []


def test_tasks_that_the_reward_model_sees_otherwise_are_listed(own_desk):
    list_tasks_for_the_model(own_desk.database, count=12)
    page = own_desk.visit("disagreements")
    choose_round(page, 0)
    page.click("text=Reward model")
    page.wait_for_function(
        "document.querySelector('[data-page=disagreements]').innerText.includes('orders otherwise than people')"
    )
    rows = page.locator(".mg-dispute-row")
    assert rows.count() == 10
    assert "95 % apart" in rows.first.inner_text().replace("\u00a0", " ")
    rows.first.click()
    own = page.locator(".mg-ranks tr", has_text="reward model")
    assert own.locator("td").all_inner_texts() == ["4", "3", "2", "1"]
    shoot(page, "manage-model", full_page=True)
    page.click("text=Later")
    page.wait_for_function("document.querySelectorAll('.mg-dispute-row').length === 2")
    page.click("text=To decide")
    page.wait_for_selector(".mg-dispute-row >> text=agree")
    assert own_desk.errors == []


def test_closing_asks_first(own_desk):
    page = own_desk.visit("rounds")
    page.wait_for_selector(".mg-card")
    shoot(page, "manage-rounds")
    page.click("[aria-label='Close round 0']")
    page.wait_for_selector(".mg-dialog[open]")
    said = page.inner_text(".mg-dialog")
    assert "Amara Okafor" in said
    assert "cannot be opened again" in said
    shoot(page, "manage-closing")
    assert page.evaluate("document.activeElement.innerText") == "Keep it open"
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('.mg-dialog').open")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Close round 0", "back where it was"
    page.click("[aria-label='Close round 0']")
    page.click(".mg-danger")
    page.wait_for_function("document.querySelector('.mg-notice').innerText === 'Round 0 is closed.'")
    assert page.locator("[aria-label='Close round 0']").count() == 0
    assert page.locator(".mg-is-closed").count() == 1
    page.click("text=Overview")
    page.wait_for_selector(".mg-numbers")
    choose_round(page, 0)
    page.wait_for_selector(".mg-numbers >> text=the rest is given out no more")


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
            shoot(page, f"manage-{view}-{scheme}-{width}", full_page=width == 1280)
        if (scheme, width) in (("light", 1280), ("dark", 390)):
            assert violations(page) == [], f"{view} {scheme} {width}"
    assert is_light(page, ".mg") == (scheme == "light")


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
