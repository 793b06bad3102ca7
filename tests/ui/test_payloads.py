"""Every hostile text in a real browser: shown as text, nothing run, nothing loaded, and the page still usable."""

import re

import pytest

from labeling_ui.unseen import hold, reveal
from rlhf.records import CandidateSet
from tests.ui.conftest import make_database, run_server
from tests.ui.payloads import PAYLOADS
from tests.ui.person import count, outside, prompt, rank_all, shoot, submit

pytestmark = pytest.mark.ui

AT_ONCE = 8


def hostile_sets() -> list[CandidateSet]:
    """Return tasks of eight payloads each, the first of them also as the prompt; a giant is no prompt."""
    texts = list(PAYLOADS.values())
    texts.sort(key=len)
    groups = [texts[start :: -(-len(texts) // AT_ONCE)] for start in range(-(-len(texts) // AT_ONCE))]
    return [CandidateSet(f"h-{number}", group[0], tuple(group)) for number, group in enumerate(groups)]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    yield from run_server(make_database(tmp_path_factory.mktemp("hostile"), hostile_sets()))


def see_all(page) -> list[str]:
    """Look at every response in every way; return the texts as the page shows them plain."""
    texts = []
    for place in range(count(page)):
        card = page.locator(f".rk-card[data-place='{place}']")
        card.focus()
        page.keyboard.press("t")
        texts.append(card.locator(".rk-text").text_content())
        page.keyboard.press("t")
    return texts


def reachable(page) -> bool:
    """Say whether the submit button can be pressed where it stands."""
    page.locator(".rk-submit[data-act=submit]").scroll_into_view_if_needed()
    return page.evaluate(
        "(() => { const b = document.querySelector('.rk-send .rk-submit'), r = b.getBoundingClientRect();"
        " const hit = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);"
        " return b.contains(hit) && r.width > 40 && r.height > 20; })()"
    )


def test_nothing_runs_and_nothing_breaks(hostile, visit):
    seen = visit(hostile, "Attacked")
    page = seen.page
    texts: list[str] = []
    for number in range(len(hostile_sets())):
        before = prompt(page)
        texts += see_all(page)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"task {number} at {width}"
            assert reachable(page), f"task {number} at {width}"
        page.set_viewport_size({"width": 1280, "height": 860})
        inside = page.evaluate(
            "[...document.querySelectorAll('.rk-text *')].flatMap(n => n.getAttributeNames().map(a => n.tagName + ' ' + a))"
        )
        allowed = {"display", "stretchy", "fence", "form", "accent", "linethickness", "mathvariant", "movablelimits",
                   "displaystyle", "scriptlevel", "tabindex"}  # fmt: skip
        assert {name.split()[1] for name in inside} <= allowed
        assert (
            page.locator(
                ".rk-text :is(img, script, svg, style, a, iframe, form, input, link, meta, base, video)"
            ).count()
            == 0
        )
        page.keyboard.press("d")
        page.wait_for_function("!document.querySelector('.rk-compare-text').innerText.includes('Comparing')")
        page.keyboard.press("Escape")
        rank_all(page)
        submit(page)
        page.wait_for_function(
            "before => document.querySelector('.rk').dataset.view === 'done'"
            " || document.querySelector('.rk-prompt').innerText !== before",
            arg=before,
        )
    assert page.evaluate("window.hacked") is None
    assert outside(seen.requests) == []
    assert seen.errors == []
    expected = [re.sub("</?mark>", "", reveal(hold(text))) for text in PAYLOADS.values()]
    assert sorted(texts) == sorted(expected), "every text is shown in full, and marked by the page as by the server"


def test_what_cannot_be_seen_is_marked(hostile, visit):
    page = visit(hostile, "Marked").page
    marks = set()
    for _ in range(len(hostile_sets())):
        marks |= set(page.locator(".rk-list mark").all_inner_texts())
        before = page.inner_text(".rk-list")
        page.keyboard.press("n")
        page.wait_for_function(
            "before => document.querySelector('.rk').dataset.view === 'done'"
            " || document.querySelector('.rk-list').innerText !== before",
            arg=before,
        )
        if page.is_visible(".rk-done"):
            break
    assert {"U+202E", "U+2067", "U+200B", "U+00AD", "U+E0067", "U+001B", "U+2028", "U+FEFF"} <= marks


def test_a_bidi_control_turns_nothing_around(hostile, visit):
    """The letters stand from left to right as they were typed, whatever the control says."""
    page = visit(hostile, "Turned").page
    found = page.locator(".rk-list .rk-text", has_text="elif.exe")
    for _ in range(len(hostile_sets())):
        if found.count():
            break
        page.keyboard.press("n")
        page.wait_for_timeout(150)
    order = found.first.evaluate(
        "(box) => { const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT); const xs = [];"
        " for (let node; (node = walker.nextNode()); ) { const at = node.data.indexOf('elif');"
        " if (at < 0) continue; for (const i of [at, at + 3]) { const r = document.createRange();"
        " r.setStart(node, i); r.setEnd(node, i + 1); xs.push(r.getBoundingClientRect().x); } } return xs; }"
    )
    assert order[0] < order[1]
    shoot(page, "hostile")
