"""Characters that cannot be seen, or that turn the text around them: which these are, and how they are shown.

A response may hold them to hide a part of itself, to look like another, or to reverse what a reader sees. Each is shown
as its code point in a small frame. Joiners stay where a script or an emoji needs them, after a character that joins.
"""

import re
from collections.abc import Callable

Ranges = tuple[tuple[int, int], ...]

ALWAYS: Ranges = (
    (0x0000, 0x0008), (0x000B, 0x000C), (0x000E, 0x001F), (0x007F, 0x009F),  # controls, but tab and line ends
    (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C),  # soft hyphen, grapheme joiner, Arabic letter mark
    (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164), (0xFFA0, 0xFFA0),  # fillers
    (0x200B, 0x200B), (0x200E, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F),  # zero width, marks, bidi controls
    (0xD800, 0xDFFF), (0xE000, 0xF8FF), (0xFEFF, 0xFEFF), (0xFFF0, 0xFFFB),  # half pairs, private use, byte order
    (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE00FF), (0xF0000, 0x10FFFD),  # formats, tags, private use
)  # fmt: skip
JOINERS: Ranges = ((0x200C, 0x200D),)
# Scripts that write with joiners (Arabic, Syriac, N'Ko, those of India and its neighbours, Mongolian), and emoji.
JOINING: Ranges = ((0x0600, 0x08FF), (0x0900, 0x0DFF), (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF),
                   (0x1800, 0x18AF), (0x1B00, 0x1BFF), (0xA800, 0xABFF), (0x2190, 0x2BFF), (0xFE0F, 0xFE0F),
                   (0x1F000, 0x1FAFF))  # fmt: skip
# A selector says how the character before it looks; after a space, or after another selector, it can only hide something.
SELECTORS: Ranges = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))

# Two private characters hold a code point's place while Markdown is rendered; the text's own are marked like any other.
OPEN, CLOSE = "\ue000", "\ue001"


def pattern(escape: Callable[[int], str]) -> str:
    """Return the regular expression of all these characters, with code points written by `escape`."""

    def inside(ranges: Ranges) -> str:
        return "".join(f"{escape(first)}-{escape(last)}" for first, last in ranges)

    joiner = f"(?<![{inside(JOINING)}])[{inside(JOINERS)}]"
    selector = rf"(?<![^\s{inside(SELECTORS)}])[{inside(SELECTORS)}]"
    return f"[{inside(ALWAYS)}]|{joiner}|{selector}"


def script_pattern() -> str:
    """Return the same expression as a literal of the page's scripts."""
    body = pattern(lambda code: rf"\u{{{code:x}}}")
    return f"/{body}/gu"


_UNSEEN = re.compile(pattern(lambda code: f"\\U{code:08x}"))
_HELD = re.compile(f"{OPEN}([0-9A-F]{{4,6}}){CLOSE}")


def name_of(character: str) -> str:
    """Return the code point as people write it: U+202E."""
    return f"U+{ord(character):04X}"


def hold(text: str) -> str:
    """Replace each unseen character by a placeholder that survives Markdown; line ends become plain ones."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNSEEN.sub(lambda match: f"{OPEN}{ord(match[0]):04X}{CLOSE}", text)


def reveal(markup: str) -> str:
    """Turn the placeholders in sanitised markup into marks."""
    return _HELD.sub(r"<mark>U+\1</mark>", markup)
