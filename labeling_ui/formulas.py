r"""LaTeX formulas in Markdown, as MathML: $..$, $$..$$, \(..\) and \[..\].

The markup comes from latex2mathml and passes the same sanitising as everything else. What is too long, too deep, defines
commands, moves things about or does not parse stays as text, as it was written.
"""

import re
from functools import lru_cache
from typing import Any, Literal
from xml.etree.ElementTree import Element, tostring

import latex2mathml.exceptions as refusals
from latex2mathml.converter import Converter
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from labeling_ui.unseen import OPEN

MAX_FORMULA = 1500
"""Characters of one formula."""
MAX_DEPTH = 14
MAX_TOGETHER = 20_000
"""Characters of all formulas of a text."""
MAX_LINES = 40
MAX_TRIES = 10
"""Places looked at for the end of one formula."""

MATHML_TAGS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msub", "msup", "msubsup", "mfrac", "msqrt", "mroot",
    "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle",
}  # fmt: skip
# Elements that need just so many children; the library leaves some out where the input does.
_CHILDREN = {"mfrac": 2, "msub": 2, "msup": 2, "mroot": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
_YES_NO = {"true", "false"}
# By value: sizes, shifts, colours, links and styles have no place in somebody else's page.
MATHML_VALUES: dict[str, dict[str, set[str]]] = {
    "math": {"display": {"block", "inline"}},
    "mi": {"mathvariant": {"normal"}},
    "mo": {"stretchy": _YES_NO, "fence": _YES_NO, "movablelimits": _YES_NO, "form": {"prefix", "infix", "postfix"}},
    "mover": {"accent": _YES_NO},
    "mfrac": {"linethickness": {"0"}},
    "mstyle": {"displaystyle": _YES_NO, "scriptlevel": {"0", "1", "2"}},
}

# They define (and can double without end), link, hide, shift or overprint; a comment hides what follows it.
_REFUSED = re.compile(
    r"\\(?:(?:re)?newcommand|def|let|href|class|style|id|mathchoice|verb|[hmv]?phantom|[hv]space|[hm]?skip|m?kern"
    r"|raise|lower|move(?:left|right)|[clr]lap|math[clr]lap|smash|rule|cssId|require|unicode|color(?:box)?|fcolorbox"
    r"|textcolor)(?![a-zA-Z])|(?<!\\)%"
)
_CODE_POINT = re.compile(r"&#x([0-9A-Fa-f]{2,6});")
_REFUSALS = tuple(
    found for found in vars(refusals).values() if isinstance(found, type) and issubclass(found, Exception)
)
# What the library raises on input that it does not expect, besides its own.
_SURPRISES = (IndexError, KeyError, AttributeError, TypeError, ValueError, StopIteration, RuntimeError, AssertionError)

_CLOSING = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}


def add_formulas(markdown: MarkdownIt) -> MarkdownIt:
    """Teach a Markdown parser formulas; returns it."""
    markdown.inline.ruler.before("escape", "formula", _inline_rule)
    markdown.block.ruler.before("fence", "formula", _block_rule, {"alt": ["paragraph", "blockquote", "list"]})
    markdown.add_render_rule("formula", _render)
    return markdown


@lru_cache(maxsize=2048)
def to_mathml(latex: str, display: Literal["inline", "block"]) -> str | None:
    """Return the MathML of a formula, None where it stays text."""
    if len(latex) > MAX_FORMULA or OPEN in latex or _REFUSED.search(latex) or _depth(latex) > MAX_DEPTH:
        return None
    try:
        tree = Converter(display=display).convert_to_element(latex)
    except (*_REFUSALS, *_SURPRISES):
        return None
    if not _readable(tree):
        return None
    return tostring(tree, encoding="unicode")


def _readable(tree: Element) -> bool:
    """Write code points as characters; return whether the tree is one that a page can show, with nothing unknown."""
    todo: list[tuple[Element, int]] = [(tree, 0)]
    shown = False
    while todo:
        node, depth = todo.pop()
        if depth > 4 * MAX_DEPTH or len(node) != _CHILDREN.get(node.tag, len(node)):
            return False
        node.text = _CODE_POINT.sub(_character, node.text or "")
        shown = shown or bool(node.text.strip())
        # A command that the library does not know comes back as it is.
        if node.text.startswith("\\") and node.text[1:2].isalpha():
            return False
        todo += [(child, depth + 1) for child in node]
    return shown


def _character(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else match[0]


def _depth(latex: str) -> int:
    """Return how deep groups nest; commands that take what follows count as well."""
    depth = deepest = 0
    for token in re.finditer(r"\\left|\\right|\\begin|\\end|[{}]", latex):
        depth += 1 if token[0] in ("{", "\\left", "\\begin") else -1
        deepest = max(deepest, depth)
    # \sqrt\sqrt\sqrt nests without a brace.
    bare = max((len(run[0]) // 2 for run in re.finditer(r"(?:\\[a-zA-Z]+\s*|[_^]){3,}", latex)), default=0)
    return max(deepest, 0 if bare < 8 * MAX_DEPTH else bare)


def _inline_rule(state: StateInline, silent: bool) -> bool:
    source, start = state.src, state.pos
    opening = source[start : start + 2]
    if opening not in _CLOSING:
        opening = source[start : start + 1]
        if opening != "$":
            return False
    body = start + len(opening)
    end = _find_end(source, body, opening, state.posMax)
    if end < 0:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.markup = source[body:end], opening
        token.meta = {"raw": source[start : end + len(opening)], "counted": _count(state.env, end - body)}
    state.pos = end + len(opening)
    return True


def _find_end(source: str, body: int, opening: str, stop: int) -> int:
    """Return where the closing delimiter stands, -1 where the text is no formula; looks no further than one may be long."""
    closing = _CLOSING[opening]
    stop = min(stop, body + MAX_FORMULA + len(closing))
    if opening == "$" and (body >= stop or source[body].isspace()):
        return -1
    position = body
    for _ in range(MAX_TRIES):
        position = source.find(closing, position, stop)
        if position < 0:
            return -1
        escaped = closing[0] == "$" and source[position - 1] == "\\"
        # "$5 and $6" is money: no formula ends after a space or before a digit.
        money = opening == "$" and (source[position - 1].isspace() or source[position + 1 : position + 2].isdigit())
        if position > body and not escaped and not money:
            return position
        position += 1
    return -1


def _block_rule(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    start = state.bMarks[first] + state.tShift[first]
    opening = state.src[start : start + 2]
    if opening not in ("$$", r"\[") or state.is_code_block(first):
        return False
    closing = _CLOSING[opening]
    lines: list[str] = []
    for line in range(first, min(last, first + MAX_LINES)):
        if line > first and state.sCount[line] < state.blkIndent:
            return False
        begin = state.bMarks[line] + state.tShift[line]
        text = state.src[begin : state.eMarks[line]].rstrip()
        text = text[2:] if line == first else text
        if closing in text:
            if not text.endswith(closing) or text.index(closing) != len(text) - 2:
                return False
            lines.append(text[:-2])
            break
        lines.append(text)
    else:
        return False
    if silent:
        return True
    content = "\n".join(lines)
    state.line = first + len(lines)
    token = state.push("formula", "", 0)
    token.content, token.markup, token.block, token.map = content, opening, True, [first, state.line]
    token.meta = {"raw": f"{opening}{content}{closing}", "counted": _count(state.env, len(content))}
    return True


def _count(env: Any, characters: int) -> bool:
    """Add to the characters of all formulas of a text; return whether there is room."""
    env["formulas"] = env.get("formulas", 0) + characters
    return env["formulas"] <= MAX_TOGETHER


def _render(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    display = "block" if token.markup in ("$$", r"\[") else "inline"
    markup = to_mathml(token.content.strip(), display) if token.meta["counted"] else None
    if markup is None:
        markup = token.meta["raw"].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        markup = markup.replace("\n", "<br>")
    return f"<p>{markup}</p>" if token.block else markup
