"""The labeling page in a real browser: what a person does, and what hostile outputs must not do."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from rlhf.labels.accounts import list_annotators
from rlhf.labels.events import verify
from rlhf.labels.exports import read_export
from rlhf.labels.store import open_store

pytestmark = pytest.mark.ui


def query(path: Path, sql: str) -> list[tuple]:
    with open_store(path) as store, store.reading() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def exported(path: Path, name: str):
    with open_store(path) as store:
        (person,) = [person for person in list_annotators(store) if person.name == name]
        return [ranking for ranking in read_export(store)[0] if ranking.annotator == person.pseudonym]


def answers_of(path: Path, name: str, columns: str) -> list[tuple]:
    return query(
        path, f"SELECT {columns} FROM answers JOIN people USING (annotator_id) WHERE name = '{name}' ORDER BY id"
    )


def summary(page) -> str:
    return " ".join(page.inner_text(".rk-summary").split())


def count(page) -> int:
    return page.locator(".rk-card").count()


def wait_saved(page) -> None:
    page.wait_for_function("document.querySelector('.rk-saved').innerText.startsWith('Draft saved')")


def rank_all(page) -> None:
    for rank in range(1, count(page) + 1):
        page.keyboard.press(str(rank))


def submit_and_wait(page) -> None:
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('.rk-notice').innerText.includes('tored')")


def shoot(page, name: str) -> None:
    folder = os.environ.get("RLHF_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def open_task(page, words: str) -> None:
    """Skip through the queue until the task with these words in its prompt is at hand."""
    for _ in range(3):
        if words in page.inner_text(".rk-prompt"):
            return
        before = page.inner_text(".rk-prompt")
        page.click("[data-act=skip]")
        page.click(".rk-reason >> text=Other")
        page.wait_for_function("before => document.querySelector('.rk-prompt').innerText !== before", arg=before)
    raise AssertionError(f"no task about {words!r}")


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
    page.keyboard.press("s")
    page.keyboard.press("s")
    page.keyboard.press("s")
    page.keyboard.press("f")
    page.keyboard.press("b")
    shoot(page, "ranked")
    submit_and_wait(page)
    (ranking,) = exported(server.database, "Rank submit")
    # Shown places A, B, C, D hold ranks 1, 3, 3, 2; the display order brings them to candidates.
    shown = [ranking.ranks[candidate] for candidate in ranking.display_order]
    assert shown == [1, 3, 3, 2]
    assert ranking.strengths == (0, 3), "the step that was left alone has no grade"
    assert ranking.flags[ranking.display_order[3]] == ("false",)
    assert ranking.all_bad
    assert ranking.annotator.startswith("annotator-")


def test_what_is_typed_after_a_comment_ranks_the_next_task(server, visit):
    page = visit(server, "Comment writer").page
    rank_all(page)
    page.focus(".rk-comment")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.classList.contains('rk-card')")
    page.focus(".rk-comment")
    page.keyboard.type("close call, 2 of 4")
    before = page.inner_text(".rk-prompt")
    submit_and_wait(page)
    assert page.inner_text(".rk-prompt") != before
    page.keyboard.press("1")
    assert len(page.query_selector_all(".rk-card[data-ranked]")) == 1
    assert page.input_value(".rk-comment") == ""


def test_draft_survives_reload_and_a_killed_server(own_server, visit):
    page = visit(own_server, "Draft server").page
    rank_all(page)
    page.keyboard.press("Alt+ArrowUp")
    page.fill(".rk-comment", "close call")
    wait_saved(page)
    page.wait_for_timeout(500)
    expected, prompt = summary(page), page.inner_text(".rk-prompt")
    assert "=" in expected
    page.reload()
    page.wait_for_selector(".rk-card")
    assert (summary(page), page.inner_text(".rk-prompt")) == (expected, prompt)
    own_server.kill()
    page.keyboard.press("1")
    page.wait_for_function("document.querySelector('.rk-saved').innerText.includes('trying again')")
    shoot(page, "server-gone")
    own_server.start()
    page.wait_for_function(
        "document.querySelector('.rk-saved')?.innerText.match(/Draft saved|draft is back/)", timeout=15000
    )
    page.goto(own_server.origin)
    page.wait_for_selector(".rk-card")
    assert page.inner_text(".rk-prompt") == prompt
    assert page.input_value(".rk-comment") == "close call"
    assert count(page) == len(page.query_selector_all(".rk-card[data-ranked]"))
    submit_and_wait(page)
    with open_store(own_server.database) as store:
        assert verify(store).ok


def test_correct_an_earlier_answer(server, visit):
    page = visit(server, "Correct answer").page
    rank_all(page)
    submit_and_wait(page)
    page.click("[data-go=history]")
    shoot(page, "history")
    page.click(".rk-correct")
    page.wait_for_function("document.querySelector('.rk-notice').innerText.includes('correcting')")
    letters = summary(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("1")
    assert summary(page) != letters
    wait_saved(page)
    page.reload()
    page.wait_for_selector(".rk-card")
    assert page.inner_text(".rk-submit-label") == "Submit correction", "a correction under way survives a reload"
    shoot(page, "correcting")
    submit_and_wait(page)
    assert "Correction stored" in page.inner_text(".rk-notice")
    (ranking,) = exported(server.database, "Correct answer")
    assert len(set(ranking.ranks)) == len(ranking.ranks) - 1, "two are tied now"
    assert answers_of(server.database, "Correct answer", "version, supersedes IS NULL") == [(1, 1), (2, 0)]


def test_leave_a_correction_as_it_was(server, visit):
    page = visit(server, "Leave was").page
    rank_all(page)
    submit_and_wait(page)
    prompt = page.inner_text(".rk-prompt")
    page.click(".rk-notice >> text=Correct it")
    page.wait_for_function("document.querySelector('.rk-notice').innerText.includes('correcting')")
    page.click(".rk-notice >> text=Leave it as it was")
    page.wait_for_function("prompt => document.querySelector('.rk-prompt').innerText === prompt", arg=prompt)
    assert page.inner_text(".rk-submit-label") == "Submit"


def test_skip_and_cannot_judge_until_nothing_is_left(server, visit):
    page = visit(server, "Skip left").page
    for verdict in ("skip", "cannot", "skip"):
        before = page.inner_text(".rk-prompt")
        if verdict == "skip":
            page.click("[data-act=skip]")
            page.click(".rk-reason >> text=Not my field")
        else:
            page.click("[data-act=cannot]")
        page.wait_for_function(
            "before => document.querySelector('.rk').dataset.view === 'done'"
            " || document.querySelector('.rk-prompt').innerText !== before",
            arg=before,
        )
    assert page.inner_text(".rk-done h2") == "Nothing left to rank"
    shoot(page, "done")
    rows = answers_of(server.database, "Skip left", "verdict, reason")
    assert rows == [("skipped", "unfamiliar"), ("cannot_judge", ""), ("skipped", "unfamiliar")]


def test_drag_to_the_top_and_onto_another(server, visit):
    page = visit(server, "Drag another").page
    open_task(page, "mountain")
    rank_all(page)
    page.wait_for_timeout(300)

    def drag(source: int, target: int, share: float) -> None:
        grip = page.locator(".rk-grip").nth(source).bounding_box()
        goal = page.locator(".rk-card").nth(target).bounding_box()
        x = grip["x"] + grip["width"] / 2
        page.mouse.move(x, grip["y"] + 10)
        page.mouse.down()
        page.mouse.move(x, goal["y"] + goal["height"] * 0.9, steps=3)
        page.mouse.move(x, goal["y"] + goal["height"] * share, steps=3)
        page.wait_for_timeout(60)
        shoot(page, f"drag-{target}")
        page.mouse.up()
        page.wait_for_timeout(300)

    drag(2, 0, 0.05)
    assert summary(page) == "C > A > B > D"
    drag(2, 1, 0.5)
    assert summary(page) == "C > A = B > D"


def test_hostile_outputs_do_nothing(server, visit):
    seen = visit(server, "Hostile nothing")
    page = seen.page
    open_task(page, "What is")
    for _ in range(count(page)):
        page.keyboard.press("t")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("t")
    page.wait_for_timeout(200)
    shoot(page, "hostile")
    assert page.evaluate("window.hacked") is None
    inside = page.evaluate(
        "[...document.querySelectorAll('.rk-text *')].map(n => n.tagName + n.getAttributeNames().join())"
    )
    assert not [tag for tag in inside if tag.startswith(("IMG", "SCRIPT", "SVG", "STYLE", "A"))]
    assert "<script>window.hacked=1</script>" in page.inner_text(".rk-prompt"), "shown, not run"
    outside = [
        url for url in seen.requests if urlsplit(url).hostname != "127.0.0.1" and not url.startswith(("data:", "blob:"))
    ]
    assert outside == []
    assert seen.errors == []


def test_nothing_is_kept_in_the_browser(server, visit):
    page = visit(server, "Nothing browser").page
    rank_all(page)
    submit_and_wait(page)
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "mountain" not in kept
    assert "Pancakes" not in kept
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""


def test_two_tabs_store_one_answer(server, visit):
    first = visit(server, "Two answer").page
    second = first.context.new_page()
    second.goto(server.origin)
    second.wait_for_selector(".rk-card")
    for page in (first, second):
        rank_all(page)
    submit_and_wait(first)
    submit_and_wait(second)
    assert answers_of(server.database, "Two answer", "version") == [(1,)]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_fits_the_screen(server, visit, scheme, width):
    page = visit(server, f"{scheme} {width}", color_scheme=scheme).page
    page.set_viewport_size({"width": width, "height": 860})
    rank_all(page)
    page.wait_for_timeout(250)
    shoot(page, f"look-{scheme}-{width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The page follows the system's theme: dark text on light, or the other way round.
    ink, paper = page.evaluate(
        "(() => { const s = getComputedStyle(document.querySelector('.rk'));"
        " const sum = (c) => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0);"
        " return [sum(s.color), sum(s.backgroundColor)]; })()"
    )
    assert (ink < paper) == (scheme == "light")


def test_sources_never_reach_the_page(server, visit):
    page = visit(server, "Sources page").page
    assert "sources" not in json.dumps(page.content())
    columns = {row[1] for row in query(server.database, "PRAGMA table_info(tasks)")}
    assert not {"sources", "models"} & columns
