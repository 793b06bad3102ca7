"""From pairs to examples: candidates once, prompts whole, controls balanced."""

from pathlib import Path

import pytest
import torch

from rlhf.errors import DataError
from rlhf.records import PreferencePair
from rlhf.reward.examples import check_disjoint, collate, encode_pairs, shuffle_labels
from rlhf.text import TextFormat
from tests.tiny import tiny_base
from tests.unit.reward.planted import planted_pairs


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextFormat:
    """Text format of the tiny base."""
    return tiny_base(tmp_path_factory.mktemp("tiny")).text


def pair(prompt_id: str, prompt: str, chosen: str, rejected: str, **more: float) -> PreferencePair:
    return PreferencePair(prompt_id, prompt, chosen, rejected, **more)  # pyright: ignore[reportArgumentType]


def test_each_candidate_appears_once_and_ends(text: TextFormat) -> None:
    pairs = [pair("p", "the", " a", " b"), pair("p", "the", " b", " c"), pair("p", "the", " a", " c")]
    (prompt,) = encode_pairs(text, pairs, 64, "training")
    assert len(prompt.response_ids) == 3
    assert [text.decode_response(ids) for ids in prompt.response_ids] == [" a", " b", " c"]
    assert all(ids[-1] == text.end_token_ids[0] for ids in prompt.response_ids)
    assert (prompt.chosen, prompt.rejected) == ([0, 1, 0], [1, 2, 2])
    assert prompt.prompt_ids == text.encode_prompt("the")


def test_pairs_of_a_prompt_come_together_from_anywhere_in_the_file(text: TextFormat) -> None:
    pairs = [pair("p", "the", " a", " b"), pair("q", "cat", " a", " b"), pair("p", "the", " c", " b")]
    prompts = encode_pairs(text, pairs, 64, "training")
    assert [(prompt.prompt_id, len(prompt.chosen)) for prompt in prompts] == [("p", 2), ("q", 1)]


def test_batch_names_positions_among_all_candidates(text: TextFormat) -> None:
    pairs = [pair("p", "the", " a", " b", weight=0.5), pair("q", "cat", " c", " dog dog", probability=0.8)]
    batch = collate(encode_pairs(text, pairs, 64, "training"), text.pad_token_id, torch.device("cpu"))
    assert batch.pairs.chosen.tolist() == [0, 2]
    assert batch.pairs.rejected.tolist() == [1, 3]
    assert batch.pairs.prompt.tolist() == [0, 1]
    assert batch.pairs.weight.tolist() == [0.5, 1.0]
    assert batch.pairs.probability.tolist() == [1.0, pytest.approx(0.8)]
    assert batch.input_ids.shape == batch.response_mask.shape
    assert len(batch.input_ids) == 4


def test_one_id_for_two_prompts_is_refused(text: TextFormat) -> None:
    with pytest.raises(DataError, match="prompt p: its id stands for different prompts"):
        encode_pairs(text, [pair("p", "the", " a", " b"), pair("p", "cat", " a", " b")], 64, "training")


def test_long_candidate_is_refused_by_name(text: TextFormat) -> None:
    with pytest.raises(DataError, match="training prompt p: .*the limit is 64"):
        encode_pairs(text, [pair("p", "the", " a" * 80, " b")], 64, "training")


def test_no_pairs_is_refused(text: TextFormat) -> None:
    with pytest.raises(DataError, match="no held-out pairs"):
        encode_pairs(text, [], 64, "held-out")


def test_a_prompt_on_both_sides_is_found_under_another_id(text: TextFormat) -> None:
    train = encode_pairs(text, [pair("p", "the", " a", " b")], 64, "training")
    check_disjoint(train, encode_pairs(text, [pair("q", "cat", " a", " b")], 64, "held-out"))
    with pytest.raises(DataError, match="held-out prompt q is also trained on \\(as p\\)"):
        check_disjoint(train, encode_pairs(text, [pair("q", "the", " c", " d")], 64, "held-out"))


def test_shuffling_turns_exactly_half_of_the_pairs(text: TextFormat, tmp_path: Path) -> None:
    prompts = encode_pairs(text, planted_pairs(40, 5), 64, "training")
    shuffled = shuffle_labels(prompts, 1)
    same = [
        before == after
        for old, new in zip(prompts, shuffled, strict=True)
        for before, after in zip(old.chosen, new.chosen, strict=True)
    ]
    assert abs(2 * sum(same) - len(same)) <= 1
    assert shuffled == shuffle_labels(prompts, 1)
    assert shuffled != shuffle_labels(prompts, 2)
    for old, new in zip(prompts, shuffled, strict=True):
        sides = [set(side) for side in zip(old.chosen, old.rejected, strict=True)]
        assert sides == [set(side) for side in zip(new.chosen, new.rejected, strict=True)]


def test_candidates_of_different_rounds_are_never_one_order(text: TextFormat) -> None:
    pairs = [pair("p", "the", " a", " b"), pair("p", "the", " a", " c", round=2)]
    first, second = encode_pairs(text, pairs, 64, "training")
    assert (len(first.response_ids), len(second.response_ids)) == (2, 2)
    assert first.prompt_id == second.prompt_id == "p"
