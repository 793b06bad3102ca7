"""Splits: by content, in proportion, without leaks."""

from collections import Counter

import pytest

from rlhf.config.data import SplitShares
from rlhf.data.splits import (
    assign_splits,
    choose_holdout,
    choose_split,
    fraction_of,
    prompt_id_of,
    prompt_key,
    require_filled,
    require_no_overlap,
)
from rlhf.errors import DataError
from rlhf.records import CandidateSet, Message, Prompt

SHARES = SplitShares()
TEXTS = [f"question number {index} about thing {index * 7919 % 10007}" for index in range(4000)]


def test_shares_are_met() -> None:
    counts = Counter(choose_split(text, SHARES) for text in TEXTS)
    for split, share in (("sft", 0.3), ("label", 0.25), ("ppo", 0.25), ("validation", 0.05), ("test", 0.15)):
        # Three standard deviations of a binomial share of 4000.
        assert counts[split] / 4000 == pytest.approx(share, abs=3 * (share * (1 - share) / 4000) ** 0.5)


def test_shares_are_relative() -> None:
    doubled = SplitShares(sft=0.6, label=0.5, ppo=0.5, validation=0.1, test=0.3)
    assert [choose_split(text, doubled) for text in TEXTS] == [choose_split(text, SHARES) for text in TEXTS]


def test_split_without_a_share_stays_empty() -> None:
    only = SplitShares(sft=0, label=1, ppo=1, validation=0, test=0)
    assert {choose_split(text, only) for text in TEXTS} == {"label", "ppo"}
    with pytest.raises(DataError, match="all prompts.shares are 0"):
        choose_split("x", SplitShares(sft=0, label=0, ppo=0, validation=0, test=0))


def test_near_duplicates_share_a_split() -> None:
    twins = [f"{text} and please do tell me very much more about all of it" for text in TEXTS[:300]]
    splits = assign_splits([*TEXTS[:300], *twins], [False] * 600, SHARES, 0.2)
    assert splits[:300] == splits[300:]
    alone = assign_splits([*TEXTS[:300], *twins], [False] * 600, SHARES, 0.9)
    assert alone[:300] != alone[300:]


def test_splits_do_not_depend_on_order() -> None:
    forward = assign_splits(TEXTS, [False] * len(TEXTS), SHARES, 0.5)
    backward = assign_splits(TEXTS[::-1], [False] * len(TEXTS), SHARES, 0.5)
    assert forward == backward[::-1]


def test_demonstrating_prompts_pull_their_likes_into_sft() -> None:
    keys = [text for text in TEXTS[:1000] for _ in range(2)]
    splits = assign_splits(keys, [False, True] * 1000, SHARES, 0.9)
    assert set(splits) == {"sft", "validation"}
    assert splits[::2] == splits[1::2]
    # One in twenty, within three standard deviations.
    assert splits[::2].count("validation") / 1000 == pytest.approx(0.05, abs=0.021)


def test_ids_and_keys_follow_the_content() -> None:
    turn = (Message("user", "Hi?"),)
    # printf '"Hi?"' | sha256sum
    assert prompt_id_of("Hi?") == "p-81c135b7c6fe"
    assert prompt_id_of("Hi?") != prompt_id_of(turn)
    assert prompt_key("  HI? ") == prompt_key(turn) == "hi?"
    assert prompt_key((*turn, Message("assistant", "x"), Message("user", "y"))) != "hi?"


def test_fractions_are_uniform() -> None:
    numbers = sorted(fraction_of(text) for text in TEXTS)
    # Kolmogorov-Smirnov: the 1 % bound for 4000 numbers is 1.63 / sqrt(4000).
    assert max(abs(number - (rank + 0.5) / 4000) for rank, number in enumerate(numbers)) < 1.63 / 4000**0.5


def test_empty_split_is_named() -> None:
    with pytest.raises(DataError, match="3 prompts leave label, ppo, validation, test empty"):
        require_filled({"sft": 3}, SHARES)
    require_filled({"sft": 3}, SplitShares(label=0, ppo=0, validation=0, test=0))


def test_overlap_with_another_split_is_refused() -> None:
    prompts = [Prompt("p-1", "Hi?", "test"), Prompt("p-2", "Ho?", "label")]
    outside = [CandidateSet("a", "hi?", ("x", "y")), CandidateSet("b", "Ho?", ("x", "y"))]
    with pytest.raises(DataError, match="prompt a: the same text is prompt p-1 of split test"):
        require_no_overlap(outside, prompts, ["label"])
    require_no_overlap(outside, prompts, ["label", "test"])


def test_holdout_is_a_seeded_share_and_leaves_something() -> None:
    sets = [CandidateSet(f"p-{index}", f"What is {index}?", ("x", "y")) for index in range(100)]
    held = choose_holdout(sets, 0.1, 1)
    assert len(held) == 10
    assert set(held) < {item.prompt_id for item in sets}
    assert held == choose_holdout([*sets[::-1], *sets], 0.1, 1)
    assert held != choose_holdout(sets, 0.1, 2)
    assert len(choose_holdout(sets[:2], 0.01, 1)) == 1
    assert len(choose_holdout(sets[:2], 0.89, 1)) == 1
    with pytest.raises(DataError, match="at least 2 are needed"):
        choose_holdout(sets[:1], 0.1, 1)


def test_ids_of_one_prompt_are_held_out_together() -> None:
    # Published sets give each comparison its own id: 100 ids of 20 prompts, and 2 prompts are a tenth.
    sets = [CandidateSet(f"p-{index}", f"What is {index % 20}?", ("x", "y")) for index in range(100)]
    held = choose_holdout(sets, 0.1, 1)
    asked = {item.prompt for item in sets if item.prompt_id in held}
    assert len(asked) == 2
    assert {item.prompt_id for item in sets if item.prompt in asked} == set(held)
    same = [CandidateSet("a", "Hi?", ("x", "y")), CandidateSet("b", " hi? ", ("x", "z"))]
    with pytest.raises(DataError, match="1 prompt with pairs"):
        choose_holdout(same, 0.5, 1)
