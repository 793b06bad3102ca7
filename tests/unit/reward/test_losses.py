"""The preference losses: their arithmetic and their symmetries."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf.reward.losses import (
    PairBatch,
    centering_penalty,
    cross_entropy,
    davidson_log_probabilities,
    davidson_loss,
    pair_logits,
    plackett_luce_loss,
    preference_loss,
    prompt_balanced_weights,
    smooth,
)

LIKELIHOODS = ("bradley_terry", "davidson", "plackett_luce")
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
        "ties": torch.zeros(4),
        "candidates": torch.tensor([[0, 1, 2], [3, 4, 3]]),
        "levels": torch.tensor([[1, 2, 3], [1, 2, 0]]),
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


@pytest.mark.parametrize("likelihood", LIKELIHOODS[:2])
def test_swapping_a_pair_negates_its_logit_and_keeps_its_loss(likelihood) -> None:
    pairs = make_pairs(probability=torch.tensor([1.0, 0.8, 0.6, 0.5]), margin=torch.tensor([0.0, 1.0, 0.5, 2.0]))
    assert torch.equal(pair_logits(SCORES, pairs.swap(), margins=True), -pair_logits(SCORES, pairs, margins=True))
    options = {"label_smoothing": 0.1, "margins": True, "centering": 0.01, "likelihood": likelihood}
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


def part_of(pairs: PairBatch, some: slice, prompt: int) -> PairBatch:
    """Return the pairs of one prompt of two."""
    names = ("chosen", "rejected", "weight", "probability", "margin", "ties")
    columns = {name: getattr(pairs, name)[some] for name in names}
    alone = {name: getattr(pairs, name)[prompt : prompt + 1] for name in ("candidates", "levels")}
    return PairBatch(**columns, **alone, prompt=torch.zeros(len(columns["chosen"]), dtype=torch.long))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_cutting_a_step_between_prompts_leaves_the_gradient(likelihood) -> None:
    pairs = make_pairs(weight=torch.tensor([1.0, 0.5, 1.0, 0.8]))
    options = {"centering": 0.01, "likelihood": likelihood}
    whole = SCORES.clone().requires_grad_()
    numerator, denominator = preference_loss(whole, pairs, **options)
    (numerator / denominator).backward()
    cut = SCORES.clone().requires_grad_()
    for part in (part_of(pairs, slice(3), 0), part_of(pairs, slice(3, None), 1)):
        (preference_loss(cut, part, **options)[0] / denominator).backward()
    torch.testing.assert_close(cut.grad, whole.grad)


def test_davidson_by_hand() -> None:
    """Worths 4 and 1, nu 1: of 4 + 1 + 2, the better wins 4, they tie 2, the other wins 1."""
    win, tie, loss = davidson_log_probabilities(torch.tensor([math.log(4.0)]), 1.0)
    assert [math.exp(value.item()) for value in (win, tie, loss)] == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    # Two of four votes for the better, one tie, one against: chance 2.5 / 4.
    found = davidson_loss(torch.tensor([math.log(4.0)]), torch.tensor([0.625]), torch.tensor([0.25]), 1.0)
    assert found.item() == pytest.approx(-(2 * math.log(4 / 7) + math.log(2 / 7) + math.log(1 / 7)) / 4)


def test_davidson_without_ties_tends_to_bradley_and_terry() -> None:
    gaps, target = torch.tensor([1.5, -0.3]), torch.tensor([1.0, 0.7])
    found = davidson_loss(gaps, target, torch.zeros(2), 1e-7)
    torch.testing.assert_close(found, cross_entropy(gaps, target))


def test_davidson_pulls_a_tie_together_and_bradley_and_terry_does_so_less() -> None:
    """A pair that everybody ties is fitted by a gap of 0; the pull there grows with the strength of ties."""
    gaps = torch.tensor([2.0], requires_grad=True)
    davidson_loss(gaps, torch.tensor([0.5]), torch.tensor([1.0]), 0.5).sum().backward()
    assert gaps.grad is not None
    assert gaps.grad.item() > 0
    level = torch.zeros(1, requires_grad=True)
    davidson_loss(level, torch.tensor([0.5]), torch.tensor([1.0]), 0.5).sum().backward()
    assert level.grad is not None
    assert level.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_plackett_luce_by_hand() -> None:
    """Worths 3, 2, 1 in that order: 3 / 6, then 2 / 3; two choices."""
    scores = torch.tensor([[3.0, 2.0, 1.0]]).log()
    found = plackett_luce_loss(scores, torch.tensor([[1, 2, 3]]))
    assert found.item() == pytest.approx(-(math.log(3 / 6) + math.log(2 / 3)) / 2)
    # The first two tied (Efron): 3 x 2 / (6 x (6 - 5 / 2)); the last one is no choice.
    tied = plackett_luce_loss(scores, torch.tensor([[1, 1, 2]]))
    assert tied.item() == pytest.approx(-(math.log(6) - math.log(6) - math.log(6 - 5 / 2)) / 2)


def test_plackett_luce_of_two_is_bradley_and_terry() -> None:
    pairs = make_pairs()
    two = part_of(pairs, slice(3, None), 1)
    orders, couples = (preference_loss(SCORES, two, likelihood=name)[0] for name in ("plackett_luce", "bradley_terry"))
    torch.testing.assert_close(orders, couples)


def test_rows_of_different_length_do_not_touch_each_other() -> None:
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    levels = torch.tensor([[2, 1, 0, 0], [1, 3, 2, 2]])
    both = plackett_luce_loss(scores, levels)
    alone = plackett_luce_loss(scores[:1, :2], levels[:1, :2])
    torch.testing.assert_close(both[:1], alone)
    both.sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 2:].tolist() == [0.0, 0.0]
    torch.testing.assert_close(scores.grad.sum(dim=1), torch.zeros(2), msg="only differences of scores matter")


def test_plackett_luce_finds_the_worths_that_choix_finds() -> None:
    choix = pytest.importorskip("choix", reason="no choix: `pip install choix`")
    rng = np.random.default_rng(4)
    worth = np.array([1.0, 0.4, 0.0, -0.6, -0.8])
    orders = [np.argsort(-(worth + rng.gumbel(size=5))) for _ in range(400)]
    expected = choix.ilsr_rankings(5, [tuple(order) for order in orders])
    levels = torch.tensor(np.array([np.argsort(order) + 1 for order in orders]))
    scores = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scores], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = plackett_luce_loss(scores.expand(len(levels), 5), levels).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    found = scores.detach().numpy()
    assert found - found.mean() == pytest.approx(expected - expected.mean(), abs=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_extreme_scores_stay_finite(likelihood) -> None:
    scores = torch.tensor([1e4, -1e4, 0.0, -1e4, 1e4], requires_grad=True)
    loss = preference_loss(scores, make_pairs(), likelihood=likelihood)[0]
    loss.backward()
    assert scores.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()
