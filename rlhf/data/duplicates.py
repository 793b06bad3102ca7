"""Equal and nearly equal texts.

Near-duplicates are found by Jaccard overlap of word 3-gram sets. The search is exact: All-Pairs with prefix and length
filters (Bayardo et al. 2007, section 4; Chaudhuri et al. 2006) looks only at pairs that share one of their rarest
3-grams, so its cost grows with the number of near-duplicates, not with the square of the number of texts.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

GRAM_WORDS = 3

# Chinese and Japanese are written without spaces: there each sign counts as a word.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def normalise(text: str) -> str:
    """Return the form in which two texts count as the same: Unicode NFKC, case folded, single spaces.

    Punctuation stays, because 2+2 is not 2*2.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def word_grams(text: str) -> frozenset[tuple[str, ...]]:
    """Return the 3-grams of a text's words; of a shorter text, its words as one gram."""
    normal = normalise(text)
    words = _WORD.findall(normal) or [normal]
    if len(words) < GRAM_WORDS:
        return frozenset([tuple(words)])
    return frozenset(zip(words, words[1:], words[2:], strict=False))


class Groups:
    """Disjoint groups of 0..n-1, merged by `join` (union-find with path halving)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, member: int) -> int:
        """Return the smallest member of the group."""
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def join(self, one: int, other: int) -> None:
        """Merge the groups of two members."""
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low


def group_near_duplicates(texts: Sequence[str], threshold: float) -> list[int]:
    """Return for each text the index of the first text of its group.

    Texts with a Jaccard overlap of at least `threshold` are in one group, and so are texts that a chain of such pairs
    connects.
    """
    groups = Groups(len(texts))
    first: dict[frozenset[tuple[str, ...]], int] = {}
    for index, text in enumerate(texts):
        grams = word_grams(text)
        groups.join(first.setdefault(grams, index), index)
    indices = list(first.values())
    for one, other in similar_sets(list(first), threshold):
        groups.join(indices[one], indices[other])
    return [groups.find(index) for index in range(len(texts))]


def similar_sets(sets: Sequence[frozenset[tuple[str, ...]]], threshold: float) -> list[tuple[int, int]]:
    """Return all pairs (i, j) of different, non-empty sets with |a & b| / |a | b| >= threshold > 0.

    Two such sets share an element among the first |a| - ceil(threshold |a|) + 1 of a, and likewise of b, in any common
    order; with the rarest elements first, few other pairs do.
    """
    frequency = Counter(gram for grams in sets for gram in grams)
    by_size = sorted(range(len(sets)), key=lambda index: len(sets[index]))
    index_of: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    found: list[tuple[int, int]] = []
    for current in by_size:
        grams = sets[current]
        ordered = sorted(grams, key=lambda gram: (frequency[gram], gram))
        least = _at_least(threshold, len(grams))
        prefix = ordered[: len(grams) - least + 1]
        candidates = {other for gram in prefix for other in index_of[gram] if len(sets[other]) >= least}
        for other in candidates:
            shared = len(grams & sets[other])
            if shared >= threshold * (len(grams) + len(sets[other]) - shared) - 1e-9:
                found.append((min(current, other), max(current, other)))
        for gram in prefix:
            index_of[gram].append(current)
    return sorted(found)


def _at_least(threshold: float, size: int) -> int:
    """Return ceil(threshold * size), not thrown off by rounding: 0.9 * 10 is 9."""
    return max(1, math.ceil(threshold * size - 1e-9))
