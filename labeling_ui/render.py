"""Hostile text to safe HTML, on the server: Markdown with raw HTML off, then a short allow-list of tags."""

import nh3
from markdown_it import MarkdownIt

ALLOWED_TAGS = {
    "p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip

# No link and no image survives: a link's text stays, its address does not, and nothing is ever loaded.
_DISABLED = ["image", "html_block", "html_inline"]
_page = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(_DISABLED)
# A model's line break is meant as one.
_response = (
    MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable(_DISABLED)
)


def render(text: str) -> str:
    """Return safe HTML of a prompt or response: tags of `ALLOWED_TAGS`, no attributes at all."""
    return _clean(_response.render(text))


def render_page(text: str) -> str:
    """Return safe HTML of the guidelines: as `render`, but single line breaks do not count."""
    return _clean(_page.render(text))


def _clean(markup: str) -> str:
    return nh3.clean(markup, tags=ALLOWED_TAGS, attributes={}, link_rel=None, url_schemes=set())
