"""Reading and judging: pairs, formulas, comparison, full view, better answers, guidelines, training, my work."""

import pytest

from rlhf.labels.accounts import list_annotators, set_guidelines, set_paused, set_task_limit
from rlhf.labels.store import open_store
from tests.ui.lessons import LETTER, WATER
from tests.ui.person import (
    answers_of,
    exported,
    learn,
    open_task,
    prompt,
    query,
    rank_all,
    shown,
    skip,
    submit,
    summary,
    wait_saved,
)

pytestmark = pytest.mark.ui


@pytest.fixture
def pupil(school, visit):
    """Return a function that lets somebody in and through training, to the task about these words."""

    def enter(name, words, **options):
        page = visit(school, name, **options).page
        learn(page)
        open_task(page, words)
        return page

    return enter


def test_two_responses_stand_side_by_side_and_take_one_key(school, pupil):
    page = pupil("Pair keys", "Australia")
    left, right = (page.locator(f".rk-card[data-place='{place}']").bounding_box() for place in (0, 1))
    assert left["y"] == right["y"]
    assert right["x"] > left["x"] + left["width"]
    for key, expected in (("ArrowRight", "B > A"), ("=", "A = B"), ("ArrowLeft", "A > B"), ("e", "A = B")):
        page.keyboard.press(key)
        assert summary(page) == expected
    page.keyboard.press("ArrowRight")
    page.keyboard.press("3")
    assert page.inner_text(".rk-verdict-bar .rk-choice[aria-pressed=true]").startswith("much better")
    page.keyboard.press("3")
    page.keyboard.press("2")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("f")
    submit(page)
    ranking = exported(school.database, "Pair keys")[-1]
    assert [ranking.ranks[candidate] for candidate in ranking.display_order] == [2, 1]
    assert ranking.strengths == (2,)


def test_pair_buttons_do_what_the_keys_do(school, pupil):
    page = pupil("Pair mouse", "Australia")
    page.click("text=B is better")
    assert summary(page) == "B > A"
    page.click(".rk-equal")
    assert summary(page) == "A = B"
    assert page.get_attribute(".rk-equal", "aria-pressed") == "true"


def test_two_responses_stack_on_a_phone(school, pupil):
    page = pupil("Pair phone", "Australia")
    page.set_viewport_size({"width": 390, "height": 844})
    top, bottom = (page.locator(f".rk-card[data-place='{place}']").bounding_box() for place in (0, 1))
    assert bottom["y"] >= top["y"] + top["height"]


def test_formulas_are_drawn(school, pupil):
    page = pupil("Formula reader", "Solve")
    assert page.locator(".rk-prompt math msup").count() == 1
    fraction = page.locator(".rk-list mfrac").first.bounding_box()
    assert fraction["height"] > 20, "numerator above denominator"
    assert page.evaluate("document.querySelector('.rk-list math').namespaceURI") == "http://www.w3.org/1998/Math/MathML"


def test_compare_two_responses_word_by_word(school, pupil):
    page = pupil("Compare words", "Australia")
    page.keyboard.press("d")
    page.wait_for_selector(".rk-diff ins")
    words = {kind: " ".join(page.locator(f".rk-diff {kind}").all_inner_texts()) for kind in ("del", "ins")}
    first, second = (shown(page, place) for place in (0, 1))
    # One says Canberra in bold and why, the other Sydney: each name stands in the response that has it.
    assert ("Canberra" in words["del"], "Canberra" in words["ins"]) == ("Canberra" in first, "Canberra" in second), (
        words,
        first,
        second,
    )
    assert words["del"].startswith("−")
    assert words["ins"].startswith("+")
    for kind, line in (("del", "line-through"), ("ins", "underline")):
        style = f"getComputedStyle(document.querySelector('.rk-diff {kind}')).textDecorationLine"
        assert page.evaluate(style) == line, "not by colour alone"
    page.select_option(".rk-compare select >> nth=1", "0")
    page.wait_for_selector("text=These two are alike")
    page.keyboard.press("Escape")
    assert not page.is_visible(".rk-compare")
    page.wait_for_selector(".rk-card:focus")


def test_long_text_unfolds_and_fills_the_screen(school, pupil):
    page = pupil("Long reader", "bake bread")
    long = page.locator(".rk-card[data-long]").first
    long.focus()
    before = long.bounding_box()["height"]
    page.keyboard.press("x")
    assert long.bounding_box()["height"] > 2 * before
    page.keyboard.press("x")
    page.keyboard.press("v")
    box = page.locator(".rk-reading").bounding_box()
    assert (box["width"], box["height"]) == (1280, 860)
    title = page.inner_text("#rk-reading-title")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#rk-reading-title") != title
    page.keyboard.press("2")
    assert page.inner_text(".rk-reading-rank") == "rank 2"
    page.keyboard.press("t")
    assert page.get_attribute(".rk-reading-text .rk-text", "data-plain") is not None
    page.keyboard.press("Escape")
    page.wait_for_selector(".rk-card:focus")
    assert page.locator(".rk-card[data-ranked]").count() == 1


def test_a_better_answer_begins_from_a_response(school, pupil):
    page = pupil("Better writer", "Solve")
    page.locator(".rk-card[data-place='1']").focus()
    page.keyboard.press("i")
    raw = page.input_value(".rk-edit")
    assert raw
    assert "$" in raw or "\\" in raw or raw == "x = 1", "the raw text, not what is drawn"
    page.keyboard.press("End")
    page.keyboard.type(" Check: it fits.")
    wait_saved(page)
    page.reload()
    page.wait_for_selector(".rk-card")
    assert "Check: it fits." in page.input_value(".rk-edit")
    page.select_option(".rk-better-of", "0")
    assert "is replaced" in page.inner_text(".rk-notice")
    page.click("text=Keep what I wrote")
    assert page.input_value(".rk-better-of") == "1"
    rank_all(page)
    submit(page)
    ((edit_of, order),) = answers_of(school.database, "Better writer", "edit_of, display_order")[-1:]
    assert edit_of == int(order.strip("[]").split(",")[1])
    written = query(
        school.database, "SELECT text FROM edits JOIN people USING (annotator_id) WHERE name = 'Better writer'"
    )
    assert "Check: it fits." in written[0][0]


def test_an_unchanged_response_is_no_better_answer(school, pupil):
    page = pupil("Better not", "Solve")
    page.keyboard.press("i")
    page.keyboard.press("Escape")
    rank_all(page)
    submit(page)
    assert answers_of(school.database, "Better not", "edit_of")[-1] == (None,)


def test_guidelines_stand_beside_the_task_and_say_what_changed(own_server, visit):
    page = visit(own_server, "Guide reader").page
    assert page.inner_text(".rk-news") == "not read yet"
    page.keyboard.press("g")
    page.wait_for_selector(".rk-guide-version >> text=As delivered")
    guide, card = page.locator(".rk-guide").bounding_box(), page.locator(".rk-card").first.bounding_box()
    assert guide["x"] + guide["width"] <= card["x"], "beside, not over"
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector(".rk-card")
    assert not page.is_visible(".rk-news")
    with open_store(own_server.database) as store:
        set_guidelines(store, "# Ours\n\nBe **kind**.")
    skip(page)
    assert page.inner_text(".rk-news") == "changed"
    page.keyboard.press("g")
    page.wait_for_selector(".rk-guide-version >> text=Version 1")
    assert "Changed since you last read them" in page.inner_text(".rk-guide")
    assert page.locator(".rk-guide strong").inner_text() == "kind"
    assert not page.is_visible(".rk-news")


def test_every_key_is_listed(school, pupil):
    page = pupil("Key reader", "Australia")
    page.keyboard.press("?")
    text = page.inner_text(".rk-keylist")
    for words in ("undo the answer just given", "word by word", "cannot judge", "guidelines beside the task"):
        assert words in text
    page.keyboard.press("Escape")
    assert not page.is_visible(".rk-keylist")


def test_the_theme_is_chosen_and_kept(school, pupil):
    page = pupil("Theme chooser", "Australia", color_scheme="light")
    for expected in ("Light", "Dark"):
        page.click("[data-act=theme]")
        assert page.inner_text(".rk-theme-name") == expected
    dark = page.evaluate("getComputedStyle(document.querySelector('.rk')).backgroundColor")
    page.reload()
    page.wait_for_selector(".rk-card")
    assert page.evaluate("getComputedStyle(document.querySelector('.rk')).backgroundColor") == dark == "rgb(19, 21, 24)"


def test_training_teaches_before_real_tasks(school, visit):
    page = visit(school, "New pupil").page
    assert "Training, 2 to go" in page.inner_text(".rk-training")
    key = dict(zip(WATER.candidates.responses, WATER.ranks, strict=True))
    for place in range(3):
        page.locator(f".rk-card[data-place='{place}']").focus()
        page.keyboard.press(str(key[shown(page, place)]))
    page.keyboard.press("Control+Enter")
    if "exactly the order" in page.inner_text(".rk-notice"):
        page.keyboard.press("Control+Enter")
    page.wait_for_selector(".rk[data-view=feedback]")
    assert page.inner_text(".rk-feedback-title") == "3 of 3 pairs as in the key"
    assert "says when it is different" in page.inner_text(".rk-feedback-why")
    assert not page.is_visible(".rk-undo"), "the key was shown"
    ranks = page.locator(".rk-lesson-ranks dd").all_inner_texts()
    assert ranks == ["1", "1", "2", "2", "3", "3"]
    page.click("text=Go on")
    page.wait_for_selector(".rk-training >> text=the last one")
    for _ in LETTER.ranks:
        page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".rk[data-view=feedback]")
    # All tied: each of the three pairs, which the key orders, counts half.
    assert page.inner_text(".rk-feedback-title") == "1.5 of 3 pairs as in the key"
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".rk[data-view=task]")
    assert not page.is_visible(".rk-training")


def test_my_work_lists_filters_and_explains(school, pupil):
    page = pupil("Work reader", "Australia")
    rank_all(page)
    submit(page)
    page.keyboard.press("n")
    page.wait_for_function("document.querySelector('.rk-count').innerText.startsWith('2 done')")
    page.click("[data-go=work]")
    page.wait_for_selector(".rk-figure")
    assert page.locator(".rk-past").count() >= 2
    page.select_option(".rk-past-verdict", "ranked")
    assert page.locator(".rk-past .rk-excerpt").all_inner_texts() == ["What is the capital of Australia?"]
    page.select_option(".rk-past-verdict", "")
    page.fill(".rk-past-search", "AUSTRALIA")
    assert page.locator(".rk-past").count() == 1
    page.fill(".rk-past-search", "nothing of the kind")
    assert page.inner_text(".rk-none") == "No answer fits."
    assert "2 tasks" in page.locator(".rk-day").last.text_content()
    text = page.inner_text(".rk-figures")
    assert "Agreement with others" in text
    assert "because no task came a second time" in text
    totals = dict(
        zip(
            page.locator(".rk-totals dt").all_inner_texts(),
            page.locator(".rk-totals dd").all_inner_texts(),
            strict=True,
        )
    )
    assert (totals["ranked"], totals["cannot judge"]) == ("1", "1")


@pytest.mark.parametrize(("why", "words"), [("paused", "You are paused"), ("limit", "You have reached your limit")])
def test_the_page_says_why_there_is_nothing(own_server, visit, why, words):
    page = visit(own_server, f"Nothing {why}").page
    before = prompt(page)
    with open_store(own_server.database) as store:
        (person,) = [person for person in list_annotators(store) if person.name == f"Nothing {why}"]
        if why == "paused":
            set_paused(store, person, True)
        else:
            set_task_limit(store, person, 1)
    assert prompt(page) == before, "what one holds may be finished"
    rank_all(page)
    submit(page)
    assert page.inner_text(".rk-done h2") == words
