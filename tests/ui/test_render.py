"""Hostile text to HTML: what survives is an allow-list of bare tags."""

import re

import pytest

from labeling_ui.render import ALLOWED_TAGS, render, render_page

ATTACKS = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "![a](http://evil.example/a.png)",
    "![a](data:image/svg+xml;base64,PHN2Zz4=)",
    "[a](javascript:alert(1))",
    "[a](http://evil.example)",
    "<http://evil.example>",
    "[a]: http://evil.example\n\n[a] ![a]",
    "<a href='//evil.example' onclick=alert(1)>x</a>",
    "<svg><script>alert(1)</script></svg>",
    "<style>*{display:none}</style>",
    "<iframe src=//evil.example></iframe>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)>",
    "`<img src=x onerror=alert(1)>`",
    "```html\n<img src=x onerror=alert(1)>\n```",
    "```x\" onmouseover=alert(1) y=\"\ncode\n```",
    "# <b id=rk class=rk-submit>x</b>",
    "| a |\n|---|\n| <td onclick=alert(1)> |",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{constructor.constructor('alert(1)')()}} ${alert(1)}",
    "</div></template><script>alert(1)</script>",
    "\x00<scr\x00ipt>alert(1)</script>",
]  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS)
@pytest.mark.parametrize("renderer", [render, render_page])
def test_only_bare_allowed_tags_survive(renderer, text):
    tags = re.findall(r"<([^>]*)>", renderer(text))
    assert all(tag.strip("/ ") in ALLOWED_TAGS for tag in tags), tags


def test_markdown_is_readable():
    markup = render("A **bold** move\nsecond line\n\n1. one\n\n```python\nx < 1\n```\n\n| a |\n|---|\n| b |")
    for expected in ("<strong>bold</strong>", "<br>", "<ol>", "x &lt; 1", "<td>b</td>"):
        assert expected in markup
    assert "<br>" not in render_page("one\ntwo"), "guidelines are wrapped as their author likes"


def test_text_is_shown_in_full():
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in render("<script>alert(1)</script>")
