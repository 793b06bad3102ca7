"""The preference losses: their arithmetic and their symmetries."""

import math

import pytest
import torch
from torch import Tensor

from rlhf.reward.losses import (
    PairBatch,
    centering_penalty,
    cross_entropy,
    pair_logits,
    preference_loss,
    prompt_balanced_weights,
    smooth,
)

SCORES = torch.tensor([2.0, 0.5, -1.0, 0.0, 1.0])


def make_pairs(**changes: Tensor) -> PairBatch:
    """Prompt 0 has candidates 0-2 and three pairs, prompt 1 has candidates 3-4 and one pair."""
    columns = {
        "chosen": torch.tensor([0, 0, 1, 3]),
        "rejected": torch.tensor([1, 2, 2, 4]),
        "prompt": torch.tensor([0, 0, 0, 1]),
        "weight": torch.ones(4),
        "probability": torch.ones(4),
        "margin": torch.zeros(4),
    }
    return PairBatch(**(columns | changes))


def softplus(value: float) -> float:
    """-log sigma(-value)."""
    return math.log1p(math.exp(value))


def test_loss_is_the_mean_over_prompts_of_the_mean_over_their_pairs() -> None:
    # gaps: 2 - .5 = 1.5, 2 + 1 = 3, .5 + 1 = 1.5; 0 - 1 = -1
    first = (softplus(-1.5) + softplus(-3.0) + softplus(-1.5)) / 3
    second = softplus(1.0)
    numerator, denominator = preference_loss(SCORES, make_pairs())
    assert denominator.item() == pytest.approx(2.0)
    assert numerator.item() / denominator.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_weights_count_between_prompts_too() -> None:
    pairs = make_pairs(weight=torch.tensor([1.0, 1.0, 1.0, 0.5]))
    # Prompt 0: three pairs of weight 1 / 3 each; prompt 1: one pair of weight .5 / 1.
    assert prompt_balanced_weights(pairs).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.5])


def test_swapping_a_pair_negates_its_logit_and_keeps_its_loss() -> None:
    pairs = make_pairs(probability=torch.tensor([1.0, 0.8, 0.6, 0.5]), margin=torch.tensor([0.0, 1.0, 0.5, 2.0]))
    assert torch.equal(pair_logits(SCORES, pairs.swap(), margins=True), -pair_logits(SCORES, pairs, margins=True))
    options = {"label_smoothing": 0.1, "margins": True, "centering": 0.01}
    there, back = preference_loss(SCORES, pairs, **options), preference_loss(SCORES, pairs.swap(), **options)
    torch.testing.assert_close(there, back)


def test_margin_is_subtracted_only_where_asked() -> None:
    pairs = make_pairs(margin=torch.tensor([1.0, 0.0, 0.0, 0.5]))
    assert pair_logits(SCORES, pairs).tolist() == pytest.approx([1.5, 3.0, 1.5, -1.0])
    assert pair_logits(SCORES, pairs, margins=True).tolist() == pytest.approx([0.5, 3.0, 1.5, -1.5])


def test_soft_label_is_the_mixture_of_both_hard_ones() -> None:
    logits = torch.tensor([0.7])
    # .8 of the loss if w wins and .2 of the loss if l wins
    expected = 0.8 * softplus(-0.7) + 0.2 * softplus(0.7)
    assert cross_entropy(logits, torch.tensor([0.8])).item() == pytest.approx(expected, rel=1e-6)


def test_soft_label_is_fitted_by_its_own_logit() -> None:
    logits = torch.tensor([math.log(0.8 / 0.2)], requires_grad=True)
    cross_entropy(logits, torch.tensor([0.8])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_smoothing_moves_towards_the_opposite() -> None:
    # 1 -> .9; .8 -> .8 * .9 + .2 * .1 = .74; .5 stays
    assert smooth(torch.tensor([1.0, 0.8, 0.5]), 0.1).tolist() == pytest.approx([0.9, 0.74, 0.5])


def test_centering_penalises_the_sum_and_not_the_gap() -> None:
    assert centering_penalty(SCORES, make_pairs()).tolist() == pytest.approx([6.25, 1.0, 0.25, 1.0])
    shifted = preference_loss(SCORES + 3, make_pairs())[0]
    torch.testing.assert_close(shifted, preference_loss(SCORES, make_pairs())[0])
    assert preference_loss(SCORES + 3, make_pairs(), centering=0.1)[0] > preference_loss(SCORES, make_pairs())[0]


def test_cutting_a_step_between_prompts_leaves_the_gradient() -> None:
    whole = SCORES.clone().requires_grad_()
    numerator, denominator = preference_loss(whole, make_pairs(), centering=0.01)
    (numerator / denominator).backward()
    cut = SCORES.clone().requires_grad_()
    first = PairBatch(*(getattr(make_pairs(), name)[:3] for name in make_pairs().__dataclass_fields__))
    second = PairBatch(*(getattr(make_pairs(), name)[3:] for name in make_pairs().__dataclass_fields__))
    for part in (first, second):
        (preference_loss(cut, part, centering=0.01)[0] / denominator).backward()
    torch.testing.assert_close(cut.grad, whole.grad)


def test_extreme_scores_stay_finite() -> None:
    scores = torch.tensor([1e4, -1e4, 0.0, -1e4, 1e4], requires_grad=True)
    loss = preference_loss(scores, make_pairs())[0]
    loss.backward()
    assert scores.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()
