"""Word differences between two responses, by difflib, with bounded work whatever the texts are."""

import re
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Literal

MAX_CHARACTERS = 100_000
"""Of each text; longer ones are not compared."""
MAX_STEPS = 2_000_000
"""Of difflib's inner loop, about half a second; texts that need more are compared line by line, or not at all."""

Kind = Literal["same", "first", "second"]
Part = tuple[Kind, str]

# Chinese, Japanese and Korean write without spaces: there each character is a word.
_DENSE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORDS = re.compile(rf"\s+|[{_DENSE}]\s*|[^\s{_DENSE}]+\s*")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


class TooDifferentError(Exception):
    """The texts would take too long to compare."""


class _Bounded(SequenceMatcher[str]):
    """A matcher that stops when it has looked at too many pairs of words."""

    def __init__(self, first: list[str], second: list[str]) -> None:
        super().__init__(None, first, second, autojunk=False)
        places = getattr(self, "b2j")  # noqa: B009  (typeshed does not know it)
        self._cost = [0, *accumulate(1 + len(places.get(word, ())) for word in first)]
        self._left = MAX_STEPS
        self._words = len(first)

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None):
        self._left -= self._cost[self._words if ahi is None else ahi] - self._cost[alo]
        if self._left < 0:
            raise TooDifferentError
        return super().find_longest_match(alo, ahi, blo, bhi)


def compare(first: str, second: str) -> list[Part]:
    """Return the parts of both texts in reading order: what they share, what only the first or the second has.

    Differences in white space alone do not count; what is shared is given as the second text has it. The parts are plain
    text: whoever shows them must escape them.

    Raises:
        TooDifferentError: The texts are too long, or nothing like each other and long.
    """
    if max(len(first), len(second)) > MAX_CHARACTERS:
        raise TooDifferentError
    try:
        return _compare(_WORDS.findall(first), _WORDS.findall(second))
    except TooDifferentError:
        return _compare(_LINES.findall(first), _LINES.findall(second))


def _compare(first: list[str], second: list[str]) -> list[Part]:
    matcher = _Bounded([_plain(word) for word in first], [_plain(word) for word in second])
    parts: list[Part] = []
    for tag, i, j, m, n in matcher.get_opcodes():
        if tag == "equal":
            parts.append(("same", "".join(second[m:n])))
            continue
        if i < j:
            parts.append(("first", "".join(first[i:j])))
        if m < n:
            parts.append(("second", "".join(second[m:n])))
    return parts


def _plain(word: str) -> str:
    return word.rstrip() or " "
