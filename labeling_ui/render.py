"""Hostile text to safe HTML, on the server: Markdown with raw HTML off, formulas, then a short allow-list of tags."""

import html
import re
from functools import lru_cache

import nh3
from markdown_it import MarkdownIt

from labeling_ui.formulas import MATHML_TAGS, MATHML_VALUES, add_formulas
from labeling_ui.unseen import CLOSE, OPEN, hold, reveal

ALLOWED_TAGS = {
    "p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li",
    "div", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
MAX_FORMATTED = 40_000
"""Characters; what is longer is shown as it was typed. Markdown in Python takes a second for so much in the worst case."""
MAX_PARAGRAPH = 10_000
"""Characters of one line or paragraph that is formatted: what is inside is parsed in more than linear time."""
MAX_MARKUP = 250_000
"""Characters of what Markdown makes of a text: a small table can ask for a hundred times its size."""
PIECE = 2_000
"""Characters of one block of what is shown as typed: a browser lays out one long line in more than linear time."""
PIECE = 2_000
"""Characters of one block of a text that is shown as typed; browsers take far more than linear time for a long line."""
KEPT = 256

# Cut after a line end, else after a space, else wherever no placeholder is cut in two.
_ANY = rf"[\s\S]{{1,{PIECE}}}"
_PIECES = re.compile(rf"{_ANY}\Z|{_ANY}(?<=\n)|{_ANY}(?<= )|(?:[^{OPEN}]|{OPEN}[0-9A-F]+{CLOSE}){{1,{PIECE}}}")

# No link and no image survives: a link's text stays, its address does not, and nothing is ever loaded.
_DISABLED = ["image", "html_block", "html_inline"]
_page = add_formulas(
    MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(_DISABLED),
)
# A model's line break is meant as one.
_response = add_formulas(
    MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable(_DISABLED)
)


@lru_cache(maxsize=KEPT)
def render(text: str) -> str:
    """Return safe HTML of a prompt or response: tags of `ALLOWED_TAGS`, bare, and formulas as MathML.

    Characters that cannot be seen are marked; what is too long for Markdown is shown as it was typed.
    """
    return _safe(_response, text)


@lru_cache(maxsize=KEPT)
def render_page(text: str) -> str:
    """Return safe HTML of the guidelines: as `render`, but single line breaks do not count."""
    return _safe(_page, text)


def _safe(markdown: MarkdownIt, text: str) -> str:
    held = hold(text)
    if len(held) > MAX_FORMATTED or max(map(len, held.split("\n\n"))) > MAX_PARAGRAPH:
        return _as_typed(held)
    markup = markdown.render(held)
    if len(markup) > MAX_MARKUP:
        return _as_typed(held)
    clean = nh3.clean(
        markup,
        tags=ALLOWED_TAGS | MATHML_TAGS,
        attributes={},
        tag_attribute_values=MATHML_VALUES,
        link_rel=None,
        url_schemes=set(),
    )
    return reveal(clean)


def _as_typed(held: str) -> str:
    blocks = (html.escape(piece).replace("\n", "<br>") for piece in _PIECES.findall(held))
    return reveal("".join(f"<div>{block}</div>" for block in blocks))
