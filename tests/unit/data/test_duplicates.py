"""Near-duplicates: the fast search finds what comparing all pairs finds."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.duplicates import Groups, group_near_duplicates, normalise, similar_sets, word_grams

GRAMS = st.frozensets(st.tuples(st.integers(0, 12).map(str)), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What  is\nthis?", "what is THIS?", True),
        ("ﬁve", "five", True),  # a ligature
        ("2+2", "2*2", False),
    ],
)
def test_normal_form(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) is same


def test_grams_are_of_words_signs_or_the_whole() -> None:
    assert word_grams("A fox, a dog!") == {("a", "fox", "a"), ("fox", "a", "dog")}
    assert word_grams("Hi") == {("hi",)}
    assert word_grams("?!") == {("?!",)}
    assert word_grams("天气好吗") == {("天", "气", "好"), ("气", "好", "吗")}


@settings(max_examples=200, deadline=None)
@given(st.lists(GRAMS, unique=True, max_size=25), st.sampled_from([0.1, 0.3, 0.5, 0.75, 0.9, 1.0]))
def test_search_equals_comparing_all_pairs(sets: list[frozenset[tuple[str, ...]]], threshold: float) -> None:
    expected = [
        (i, j) for (i, a), (j, b) in combinations(enumerate(sets), 2) if len(a & b) / len(a | b) >= threshold - 1e-12
    ]
    assert similar_sets(sets, threshold) == expected


def test_chains_are_one_group() -> None:
    # Three grams of four in common, 3 / 5 = 0.6, between neighbours; 2 / 6 between the ends.
    texts = ["a b c d e f", "b c d e f g", "c d e f g h", "x y z"]
    assert group_near_duplicates(texts, 0.6) == [0, 0, 0, 3]
    assert group_near_duplicates(texts, 0.61) == [0, 1, 2, 3]


def test_groups_do_not_depend_on_the_order_of_the_texts() -> None:
    draw = random.Random(1)
    texts = [" ".join(draw.choices("abcd", k=6)) for _ in range(60)]
    shuffled = draw.sample(range(60), 60)

    def partition(groups: list[int], names: list[int]) -> set[frozenset[int]]:
        members: dict[int, set[int]] = {}
        for name, group in zip(names, groups, strict=True):
            members.setdefault(group, set()).add(name)
        return {frozenset(group) for group in members.values()}

    straight = partition(group_near_duplicates(texts, 0.5), list(range(60)))
    assert partition(group_near_duplicates([texts[i] for i in shuffled], 0.5), shuffled) == straight
    assert 1 < len(straight) < 60


def test_smallest_member_names_a_group() -> None:
    groups = Groups(5)
    groups.join(4, 3)
    groups.join(3, 1)
    assert [groups.find(member) for member in range(5)] == [0, 1, 2, 1, 1]
