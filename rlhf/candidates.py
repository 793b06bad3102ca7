"""From many samples of one prompt to K distinct candidates: near-duplicates count as one."""

from collections.abc import Sequence

from rlhf.records import MIN_CANDIDATES


def distinct_responses(texts: Sequence[str], threshold: float, count: int) -> list[int]:
    """Return the indices of the first `count` texts that are not near-duplicates of an earlier one.

    Two texts are near-duplicates if the Jaccard overlap of their word sets is at least `threshold`, word order and
    case ignored. Empty texts are never kept.

    Args:
        texts: Samples of one prompt, in the order in which they were drawn.
        threshold: From 0 (exclusive) to 1; 1 merges only texts with exactly the same words.
        count: How many to keep at most.
    """
    kept: list[int] = []
    words: list[frozenset[str]] = []
    for index, text in enumerate(texts):
        own = frozenset(text.lower().split())
        if own and all(_overlap(own, other) < threshold for other in words):
            kept.append(index)
            words.append(own)
        if len(kept) == count:
            break
    return kept


def enough(indices: Sequence[int]) -> bool:
    """Say whether there is something to rank."""
    return len(indices) >= MIN_CANDIDATES


def _overlap(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)
