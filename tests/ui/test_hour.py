"""The hour of an annotator, in small: ten tasks by keyboard alone, with everything that happens in an hour."""

import pytest

from rlhf.labels.accounts import list_annotators
from rlhf.labels.events import verify
from rlhf.labels.exports import read_export
from rlhf.labels.store import open_store
from rlhf.records import CandidateSet
from tests.ui.conftest import TeamServer, Visit, open_context
from tests.ui.doors import make_team
from tests.ui.person import (
    answers_of,
    count,
    outside,
    prompt,
    rank_all,
    settle,
    sign_in,
    submit,
    summary,
    wait_saved,
)
from tests.ui.test_page import drag

pytestmark = pytest.mark.ui

SETS = [
    CandidateSet(f"hour-{number}", f"Question {number}?", tuple(f"Answer {letter} to question {number}." for letter in "abcd"[: 2 + number % 3]))
    for number in range(12)
]  # fmt: skip


@pytest.fixture
def workplace(tmp_path, certificate):
    running = TeamServer(make_team(tmp_path, SETS, {"Ada": "admin", "Hour": "annotator"}), certificate=certificate)
    running.start()
    yield running
    running.kill()


@pytest.fixture
def seat(browser, workplace):
    context = open_context(
        browser, base_url=workplace.origin, viewport={"width": 1280, "height": 860}, ignore_https_errors=True
    )
    seen = Visit(context.new_page())
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    yield seen
    context.close()


def tab_to(page, selector: str) -> None:
    """Reach an element by the Tab key alone."""
    for _ in range(80):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached by Tab")


def go_on(page, before: str) -> None:
    """Wait for the task after `before`, or for the end."""
    page.wait_for_function(
        "before => document.querySelector('.rk').dataset.view === 'done'"
        " || document.querySelector('.rk-prompt').innerText !== before",
        arg=before,
    )


def answer(page) -> None:
    """Rank and submit the task at hand."""
    before = prompt(page)
    rank_all(page)
    submit(page)
    go_on(page, before)


def answer_with_everything(page, number: int) -> None:
    """Ties, strength, flags, confidence and a reason on the way."""
    before = prompt(page)
    rank_all(page)
    if count(page) > 2:
        page.keyboard.press("Alt+ArrowDown")
        assert "=" in summary(page)
    for key in ("s", "f", "c", "b")[: number + 1]:
        page.keyboard.press(key)
    page.keyboard.press("w")
    page.keyboard.type(f"reason {number}")
    submit(page)
    go_on(page, before)


def answer_through_a_crash(page, server) -> None:
    """A draft outlives a reload and the server's death, with what was typed meanwhile."""
    rank_all(page)
    wait_saved(page)
    order, before = summary(page), prompt(page)
    page.reload()
    page.wait_for_selector(".rk-card")
    assert (summary(page), prompt(page)) == (order, before)
    server.kill()
    page.keyboard.press("w")
    page.keyboard.type("typed in the dark")
    page.wait_for_function("document.querySelector('.rk-saved').innerText.includes('trying again')")
    server.start()
    page.wait_for_timeout(2500)
    page.goto(f"{server.origin}/label/")
    page.wait_for_selector(".rk-card")
    assert (summary(page), prompt(page)) == (order, before)
    assert page.input_value(".rk-comment") == "typed in the dark"
    submit(page)
    go_on(page, before)


def answer_after_a_slip(page) -> None:
    """Submitted too early, taken back, sent again."""
    before = prompt(page)
    rank_all(page)
    submit(page)
    go_on(page, before)
    page.keyboard.press("u")
    page.wait_for_function("before => document.querySelector('.rk-prompt').innerText === before", arg=before)
    submit(page)
    go_on(page, before)


def answer_by_mouse(page) -> None:
    """One of the longer tasks, its order changed by dragging."""
    while count(page) == 2:
        answer(page)
    before = prompt(page)
    rank_all(page)
    settle(page)
    order = summary(page)
    drag(page, 2, 0, 0.05)
    assert summary(page) != order
    submit(page)
    go_on(page, before)


def correct_the_oldest(page) -> None:
    """An old answer, found and corrected by keyboard alone."""
    tab_to(page, "[data-go=work]")
    page.keyboard.press("Enter")
    page.wait_for_selector(".rk-past")
    tab_to(page, ".rk-past:last-child .rk-correct")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.rk-notice').innerText.includes('correcting')")
    tab_to(page, ".rk-card")
    page.keyboard.press("Alt+ArrowDown" if count(page) > 2 else "=")
    submit(page)


def test_an_hour(workplace, seat):
    page = seat.page
    sign_in(page, "Hour")
    for number in range(4):
        answer_with_everything(page, number)
    page.keyboard.press("d")
    page.wait_for_selector(".rk-diff :is(ins, del)")
    page.keyboard.press("Escape")
    before = prompt(page)
    page.keyboard.press("n")
    go_on(page, before)
    answer_through_a_crash(page, workplace)
    answer_after_a_slip(page)
    before = prompt(page)
    page.keyboard.press("k")
    page.keyboard.press("4")
    go_on(page, before)
    answer_by_mouse(page)
    while not page.is_visible(".rk-done"):
        answer(page)
    correct_the_oldest(page)
    tab_to(page, "[data-act=signout]")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    assert outside(seat.requests) == []
    assert [error for error in seat.errors if "fetch" not in error.lower()] == []
    # Of twelve tasks one was skipped and one could not be judged.
    check_store(workplace.database, len(SETS) - 2)


def check_store(database, done: int) -> None:
    verdicts = [row[0] for row in answers_of(database, "Hour", "verdict")]
    assert verdicts.count("undone") == 1
    assert verdicts.count("skipped") == 1
    assert verdicts.count("cannot_judge") == 1
    with open_store(database) as store:
        assert verify(store).ok
        (person,) = [person for person in list_annotators(store) if person.name == "Hour"]
        rankings = [ranking for ranking in read_export(store, round=1)[0] if ranking.annotator == person.pseudonym]
    assert len(rankings) == len({ranking.prompt_id for ranking in rankings}) == done
    assert ("ranked", 2) in answers_of(database, "Hour", "verdict, version")
