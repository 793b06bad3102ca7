"""Ranking in a real browser: by keys, by mouse, with corrections, skips and nothing left."""

import json

import pytest

from tests.ui.person import (
    answers_of,
    count,
    exported,
    open_task,
    prompt,
    query,
    rank_all,
    shoot,
    submit,
    summary,
    wait_saved,
)

pytestmark = pytest.mark.ui


def test_rank_with_ties_by_keyboard_then_submit(server, visit):
    page = visit(server, "Rank submit").page
    open_task(page, "mountain")
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("2")
    assert summary(page) == "A > B = C D"
    page.keyboard.press("Control+Enter")
    assert "Still waiting: D" in page.inner_text(".rk-notice")
    page.keyboard.press("4")
    assert summary(page) == "A > B = C > D", "numbers 1, 2, 2, 4 close up to ranks 1, 2, 2, 3"
    page.keyboard.press("Alt+ArrowUp")
    assert summary(page) == "A > B = C = D"
    page.keyboard.press("Alt+ArrowUp")
    assert summary(page) == "A > D > B = C"
    for key in "sssfbcc":
        page.keyboard.press(key)
    assert page.inner_text(".rk-sure [aria-pressed=true]") == "fairly sure"
    submit(page)
    (ranking,) = exported(server.database, "Rank submit")
    # Shown places A, B, C, D hold ranks 1, 3, 3, 2; the display order brings them to candidates.
    shown = [ranking.ranks[candidate] for candidate in ranking.display_order]
    assert shown == [1, 3, 3, 2]
    assert ranking.strengths == (0, 3), "the step that was left alone has no grade"
    assert ranking.flags[ranking.display_order[3]] == ("false",)
    assert ranking.all_bad
    assert ranking.annotator.startswith("annotator-")
    assert answers_of(server.database, "Rank submit", "confidence")[-1] == (2,)


def test_an_order_as_shown_is_asked_about_once(server, visit):
    page = visit(server, "As shown").page
    open_task(page, "mountain")
    for rank in range(1, count(page) + 1):
        page.keyboard.press(str(rank))
    page.keyboard.press("Control+Enter")
    assert "exactly the order in which they were shown" in page.inner_text(".rk-notice")
    page.keyboard.press("f")
    page.keyboard.press("Control+Enter")
    assert "exactly the order" in page.inner_text(".rk-notice"), "a change asks again"
    assert exported(server.database, "As shown") == []
    submit(page)
    assert len(exported(server.database, "As shown")) == 1


def test_what_is_typed_after_a_reason_ranks_the_next_task(server, visit):
    page = visit(server, "Comment writer").page
    rank_all(page)
    page.keyboard.press("w")
    assert page.evaluate("document.activeElement.classList.contains('rk-comment')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".rk-card:focus")
    page.keyboard.press("w")
    page.keyboard.type("close call, 2 of 4")
    before = prompt(page)
    submit(page)
    assert prompt(page) != before
    page.keyboard.press("1")
    assert len(page.query_selector_all(".rk-card[data-ranked]")) == 1
    assert page.input_value(".rk-comment") == ""
    rows = query(
        server.database, "SELECT text FROM texts JOIN people USING (annotator_id) WHERE name = 'Comment writer'"
    )
    assert rows == [("close call, 2 of 4",)]


def test_correct_an_earlier_answer(server, visit):
    page = visit(server, "Correct answer").page
    rank_all(page)
    submit(page)
    page.click("[data-go=work]")
    page.click(".rk-correct")
    page.wait_for_function("document.querySelector('.rk-notice').innerText.includes('correcting')")
    letters = summary(page)
    page.locator(".rk-card").nth(1).focus()
    page.keyboard.press("1")
    assert summary(page) != letters
    wait_saved(page)
    page.reload()
    page.wait_for_selector(".rk-card")
    assert page.inner_text(".rk-submit-label") == "Submit correction", "a correction under way survives a reload"
    submit(page)
    assert "Correction stored" in page.inner_text(".rk-toast")
    (ranking,) = exported(server.database, "Correct answer")
    assert len(set(ranking.ranks)) == len(ranking.ranks) - 1, "two are tied now"
    assert answers_of(server.database, "Correct answer", "version, supersedes IS NULL") == [(1, 1), (2, 0)]


def test_leave_a_correction_as_it_was(server, visit):
    page = visit(server, "Leave was").page
    rank_all(page)
    submit(page)
    next_prompt = prompt(page)
    page.click(".rk-toast >> text=Correct")
    page.wait_for_function("document.querySelector('.rk-notice').innerText.includes('correcting')")
    page.click(".rk-notice >> text=Leave it as it was")
    page.wait_for_function("prompt => document.querySelector('.rk-prompt').innerText === prompt", arg=next_prompt)
    assert page.inner_text(".rk-submit-label") == "Submit"


def test_undo_takes_an_answer_back(server, visit):
    page = visit(server, "Undo answer").page
    rank_all(page)
    page.fill(".rk-comment", "too quick")
    before, order = prompt(page), summary(page)
    submit(page)
    assert prompt(page) != before
    page.wait_for_function("/5\\d s/.test(document.querySelector('.rk-undo').innerText)")
    page.keyboard.press("u")
    page.wait_for_function("before => document.querySelector('.rk-prompt').innerText === before", arg=before)
    assert (summary(page), page.input_value(".rk-comment")) == (order, "too quick")
    assert exported(server.database, "Undo answer") == []
    page.keyboard.press("u")
    page.wait_for_timeout(150)
    assert prompt(page) == before, "there is nothing more to take back"
    submit(page)
    assert answers_of(server.database, "Undo answer", "verdict") == [("ranked",), ("undone",), ("ranked",)]


def test_skip_and_cannot_judge_until_nothing_is_left(server, visit):
    page = visit(server, "Skip left").page
    for verdict in ("skip", "cannot", "skip"):
        before = prompt(page)
        if verdict == "skip":
            page.keyboard.press("k")
            page.keyboard.press("2")
        else:
            page.keyboard.press("n")
        page.wait_for_function(
            "before => document.querySelector('.rk').dataset.view === 'done'"
            " || document.querySelector('.rk-prompt').innerText !== before",
            arg=before,
        )
    assert page.inner_text(".rk-done h2") == "Nothing left to rank"
    rows = answers_of(server.database, "Skip left", "verdict, reason")
    assert rows == [("skipped", "unfamiliar"), ("cannot_judge", ""), ("skipped", "unfamiliar")]
    page.keyboard.press("u")
    page.wait_for_selector(".rk[data-view=task]")


def drag(page, source: int, target: int, share: float) -> None:
    grip = page.locator(".rk-grip").nth(source).bounding_box()
    goal = page.locator(".rk-card").nth(target).bounding_box()
    x = grip["x"] + grip["width"] / 2
    page.mouse.move(x, grip["y"] + 10)
    page.mouse.down()
    page.mouse.move(x, goal["y"] + goal["height"] * 0.9, steps=3)
    page.mouse.move(x, goal["y"] + goal["height"] * share, steps=3)
    page.wait_for_timeout(60)
    shoot(page, f"drag-{target}") if target else None
    page.mouse.up()
    page.wait_for_timeout(300)


def test_drag_to_the_top_and_onto_another(server, visit):
    page = visit(server, "Drag another").page
    open_task(page, "mountain")
    for rank in range(1, 5):
        page.keyboard.press(str(rank))
    page.wait_for_timeout(300)
    drag(page, 2, 0, 0.05)
    assert summary(page) == "C > A > B > D"
    drag(page, 2, 1, 0.5)
    assert summary(page) == "C > A = B > D"


def test_sources_never_reach_the_page(server, visit):
    page = visit(server, "Sources page").page
    assert "sources" not in json.dumps(page.content())
    columns = {row[1] for row in query(server.database, "PRAGMA table_info(tasks)")}
    assert not {"sources", "models"} & columns
