"""Hostile text to HTML: what survives is an allow-list of bare tags, formulas, and marks for what cannot be seen."""

import re
import time
import unicodedata

import pytest

from labeling_ui.formulas import MATHML_TAGS, MATHML_VALUES, to_mathml
from labeling_ui.render import ALLOWED_TAGS, MAX_FORMATTED, render, render_page
from labeling_ui.unseen import hold, script_pattern
from tests.ui.payloads import PAYLOADS, UNSEEN

TAG = re.compile(r"<(/?)([a-z0-9]+)((?: [a-z]+=\"[^\"]*\")*) ?/?>")


def leftovers(markup: str) -> list[str]:
    """Return what looks like a tag and is none that may be there, with the attributes that it may have."""
    found = []
    for text in re.findall(r"<[^>]*>?", markup):
        match = TAG.fullmatch(text)
        if match is None or match[2] not in ALLOWED_TAGS | MATHML_TAGS | {"mark"}:
            found.append(text)
            continue
        allowed = MATHML_VALUES.get(match[2], {})
        pairs = re.findall(r" ([a-z]+)=\"([^\"]*)\"", match[3])
        found += [text for name, value in pairs if value not in allowed.get(name, ())]
    return found


def test_there_are_sixty_payloads():
    assert len(PAYLOADS) >= 60
    assert len(set(PAYLOADS.values())) == len(PAYLOADS)


@pytest.mark.parametrize("renderer", [render, render_page])
@pytest.mark.parametrize("name", PAYLOADS)
def test_only_allowed_tags_survive(renderer, name):
    assert leftovers(renderer(PAYLOADS[name])) == []


def test_the_check_itself_sees_what_it_must():
    assert leftovers("<p onclick=x>") == ["<p onclick=x>"]
    assert leftovers('<math display="block"><mi href="x">') == ['<mi href="x">']
    assert leftovers('<mo stretchy="9"></mo><img>') == ['<mo stretchy="9">', "<img>"]


def test_no_payload_takes_long():
    # Two seconds for one output is what a hostile one costs at worst, once: the result is kept.
    for name, text in PAYLOADS.items():
        render.cache_clear()
        started = time.process_time()
        render(text)
        assert time.process_time() - started < 4, name


def test_markdown_is_readable():
    markup = render("A **bold** move\nsecond line\n\n1. one\n\n```python\nx < 1\n```\n\n| a |\n|---|\n| b |")
    for expected in ("<strong>bold</strong>", "<br>", "<ol>", "x &lt; 1", "<td>b</td>"):
        assert expected in markup
    assert "<br>" not in render_page("one\ntwo"), "guidelines are wrapped as their author likes"


def test_text_is_shown_in_full():
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in render("<script>alert(1)</script>")


def test_what_is_too_long_is_shown_as_typed():
    assert "<strong>" in render("**a** " + "b\n\n" * 100)
    text = "**a**\n\n" + "b c\n\n" * (MAX_FORMATTED // 4)
    assert render(text).startswith("<div>**a**<br><br>b c")
    assert render("**a** " * 2000).startswith("<div>**a**"), "one line of 12,000 characters"


@pytest.mark.parametrize(
    "text", ["A" * 50_000, "long " * 20_000, "x\n" * 30_000, "a\u202e" * 25_000, "\n\n\n" * 20_000]
)
def test_a_long_text_comes_in_blocks(text):
    """One block of it would keep a browser busy for a minute; and nothing is lost at the cuts."""
    blocks = re.findall("<div>(.*?)</div>", render(text))
    assert max(len(re.sub("<mark>.*?</mark>|<br>", ".", block)) for block in blocks) <= 2_000
    assert "".join(blocks) == text.replace("\n", "<br>").replace("\u202e", "<mark>U+202E</mark>")
    assert len(blocks) < 2 + 2 * len(text) / 2_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$x^2$", "<msup><mi>x</mi><mn>2</mn></msup>"),
        (r"\(\alpha \le \beta\)", "<mi>α</mi><mo>≤</mo><mi>β</mi>"),
        (r"\[\frac{a}{b}\]", '<math display="block"><mrow><mfrac>'),
        ("$$\na\n- b\n$$", "<mi>a</mi><mo>−</mo><mi>b</mi>"),
        ("text\n$$a$$\nmore", '<math display="block">'),
        ("- $x$", "<li><math"),
        (r"$\sqrt{2}$ and $y$", "<msqrt>"),
        (r"$a < b$", "<mo>&lt;</mo>"),
    ],
)
def test_formulas_become_mathml(text, expected):
    assert expected in render(text)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.", "`$x$`", "$ x $", "a $ b", r"\$x\$", r"$\unknown{x}$", r"$\frac{a}$", r"$\left( x$",
        "$$never closed", r"\[ never closed", "$a % hidden$", r"$\href{x}{y}$", r"$\color{white} x$", "$" + "x" * 2000 + "$",
        "$a\u200bb$",
    ],
)  # fmt: skip
def test_what_is_no_formula_stays_text(text):
    markup = render(text)
    assert "<math" not in markup
    shown = re.sub(r"</?(?:p|code|mark)>|\n", "", markup).replace("&amp;", "&")
    # A backslash before a bracket or a dollar is Markdown's escape.
    assert shown == re.sub(r"\\(?=[$\[])", "", text).replace("\u200b", "U+200B").replace("`", "")


def test_one_bad_formula_spoils_no_other():
    markup = render(r"$\bad{x}$ and $y$ and $\frac{1}{2}$")
    assert r"$\bad{x}$" in markup
    assert markup.count("<math") == 2


def test_a_formula_is_converted_once():
    to_mathml.cache_clear()
    render.cache_clear()
    render("$q_1$ and $q_1$")
    assert to_mathml.cache_info().hits == 1


def test_unseen_characters_are_marked():
    assert render("a\u202eb") == "<p>a<mark>U+202E</mark>b</p>\n"
    assert "<mark>U+0000</mark>" in render("`a\x00b`")
    assert render("one\r\ntwo") == "<p>one<br>\ntwo</p>\n", "line ends of all systems are line ends"
    for name, text in UNSEEN.items():
        assert ("<mark>" in render(text)) == (name != "zalgo"), name


def test_nobody_can_forge_a_mark():
    assert render("\ue000202E\ue001") == "<p><mark>U+E000</mark>202E<mark>U+E001</mark></p>\n"
    assert "&lt;mark&gt;" in render("<mark>U+202E</mark>")


@pytest.mark.parametrize("text", ["👩‍🚀", "می‌خواهم", "क्‍ष", "✔️", "1️⃣", "日本語 Ελληνικά ŕ", "tab\there"])
def test_what_scripts_need_is_left_alone(text):
    assert hold(text) == text


def test_every_format_character_is_marked():
    """Those that Unicode calls Cf (format), but for joiners in their place, and a few that are written visibly."""
    written = {0x0600, 0x0601, 0x0602, 0x0603, 0x0604, 0x0605, 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD}
    missed = [
        f"U+{code:04X}"
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cf", "Cc", "Zl", "Zp", "Co")
        and code not in written
        and not 0x13430 <= code <= 0x1343F  # Egyptian hieroglyphs are arranged by format characters
        and chr(code) not in "\t\n\r"
        and hold(f"a{chr(code)}") == f"a{chr(code)}"
    ]
    assert missed == []


def test_the_page_marks_the_same_characters():
    assert script_pattern().startswith("/[\\u{0}-\\u{8}")
    assert script_pattern().endswith("/gu")
