"""What a reward model is unsure about: the entropy of its preferences, or how far its heads disagree on differences."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf.records import CandidateSet
from rlhf.reward.model import RewardInfo, score_heads
from rlhf.reward.uncertainty import mean_states, measure_doubt, uncertainty_of
from tests.tiny import shake
from tests.unit.reward.planted import reward_base


def entropy(chance: float) -> float:
    return -chance * math.log(chance) - (1 - chance) * math.log(1 - chance)


def test_one_head_is_unsure_where_scores_are_close() -> None:
    assert uncertainty_of(np.array([[1.0], [1.0]]), 1.0) == pytest.approx(math.log(2))
    # Gaps 1, 3 and 2 at temperature 2: sigma(.5), sigma(1.5), sigma(1).
    chances = [1 / (1 + math.exp(-gap / 2)) for gap in (1, 3, 2)]
    expected = sum(map(entropy, chances)) / 3
    assert uncertainty_of(np.array([[3.0], [2.0], [0.0]]), 2.0) == pytest.approx(expected)
    assert uncertainty_of(np.array([[1000.0], [0.0]]), 1.0) == pytest.approx(0.0, abs=1e-12)


def test_a_constant_or_another_order_of_candidates_changes_nothing() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 3))
    assert uncertainty_of(scores[::-1], 1.0) == pytest.approx(uncertainty_of(scores, 1.0))
    # Each head has a free constant of its own.
    assert uncertainty_of(scores + np.array([1.0, -5.0, 30.0]), 1.0) == pytest.approx(uncertainty_of(scores, 1.0))
    assert uncertainty_of(scores[:, :1] + 9, 2.0) == pytest.approx(uncertainty_of(scores[:, :1], 2.0))


def test_several_heads_are_unsure_where_they_disagree() -> None:
    # Differences of the two candidates by head: 1, 3: deviation 1. By the second pair of heads: 2, 2: none.
    assert uncertainty_of(np.array([[1.0, 3.0], [0.0, 0.0]]), 1.0) == pytest.approx(1.0)
    assert uncertainty_of(np.array([[2.0, 5.0], [0.0, 3.0]]), 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("heads", [1, 3])
def test_doubt_of_prompts_is_that_of_their_candidates(tmp_path: Path, heads: int) -> None:
    shared, text = reward_base(tmp_path, heads=heads)
    shake(shared, "reward")
    sets = [CandidateSet("a", "the cat", (" sat", " ran on")), CandidateSet("b", "a dog", (" x", " y and", " zz"))]
    info = RewardInfo("last", heads=heads, temperature=1.5)
    doubt = measure_doubt(shared, text, info, sets, 2)
    items = [(text.encode_prompt("a dog"), text.encode_response("a dog", response)) for response in sets[1].responses]
    scores = np.array(score_heads(shared, text, "last", items, 8))
    assert doubt.uncertainty[1] == pytest.approx(uncertainty_of(scores, 1.5), abs=1e-5)
    assert doubt.features[1] == pytest.approx(mean_states(shared, text, items, 1).mean(axis=0), abs=1e-4)
    turned = measure_doubt(shared, text, info, sets[::-1], 64)
    assert turned.uncertainty[::-1] == pytest.approx(doubt.uncertainty, abs=1e-5)


def test_states_leave_prompt_and_padding_out(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    items = [([5, 6], [7, 8, 9]), ([5, 6, 7, 8], [9])]
    with torch.no_grad():
        hidden = shared.hidden("reward", torch.tensor([[5, 6, 7, 8, 9]]))[0]
    found = mean_states(shared, text, items, 2)
    assert found[0] == pytest.approx(hidden[2:].mean(dim=0).numpy(), abs=1e-5)
    assert found[1] == pytest.approx(hidden[4].numpy(), abs=1e-5)
