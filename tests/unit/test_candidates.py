"""Candidates: near-duplicates count as one."""

from rlhf.candidates import distinct_responses, enough

TEXTS = ["the tea is warm", "Warm the tea is", "the tea is cold", "", "the tea is warm now", "no idea"]


def test_same_words_in_another_order_are_one() -> None:
    # {the, tea, is, warm} against {the, tea, is, cold}: 3 of 5 words in common, 0.6.
    assert distinct_responses(TEXTS, 1.0, 9) == [0, 2, 4, 5]


def test_threshold_merges_what_overlaps_enough() -> None:
    # {the, tea, is, warm} against {the, tea, is, warm, now}: 4 of 5, 0.8; against cold: 0.6.
    assert distinct_responses(TEXTS, 0.8, 9) == [0, 2, 5]
    assert distinct_responses(TEXTS, 0.6, 9) == [0, 5]


def test_count_is_the_limit_and_empty_never_counts() -> None:
    assert distinct_responses(TEXTS, 1.0, 2) == [0, 2]
    assert distinct_responses(["", " "], 1.0, 4) == []
    assert not enough([0])
    assert enough([0, 3])
