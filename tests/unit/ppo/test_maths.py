"""Rewards, advantages, KL estimators and losses: arithmetic and properties."""

import math

import pytest
import torch
from torch import Tensor

from rlhf.ppo.advantages import gae, preference_scores, rloo, shape_scores, token_rewards
from rlhf.ppo.kl import adapt_kl_coef, kl_k1, kl_k2, kl_k3
from rlhf.ppo.losses import policy_loss, value_loss
from rlhf.tensors import lengths_to_mask

MASK = lengths_to_mask(torch.tensor([4, 2, 1]), 4)


def _random(seed: int = 0, shape: tuple[int, ...] = (3, 4)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_scores_are_clipped_before_the_penalty() -> None:
    shaped = shape_scores(torch.tensor([9.0, 9.0, -0.5]), torch.tensor([True, False, False]), 5.0, 1.0)
    assert shaped.tolist() == [5.0, 4.0, -1.5]


def test_the_score_lands_on_the_last_token_and_kl_on_every_token() -> None:
    kl = torch.tensor([[0.5, -0.25, 7.0]])
    mask = torch.tensor([[True, True, False]])
    # -.1 * .5, then -.1 * -.25 + 2, then nothing
    assert token_rewards(torch.tensor([2.0]), kl, mask, 0.1).tolist()[0] == pytest.approx([-0.05, 2.025, 0.0])


def test_rewards_of_a_row_sum_to_the_score_less_the_kl() -> None:
    scores, kl = _random(1, (3,)), _random(2)
    rewards = token_rewards(scores, kl, MASK, 0.3)
    assert torch.allclose(rewards.sum(1), scores - 0.3 * (kl * MASK).sum(1), atol=1e-5)


def test_gae_by_hand() -> None:
    # delta = [1 + .9 * .5 - .2, 2 - .5] = [1.25, 1.5]; A_1 = 1.5, A_0 = 1.25 + .9 * .8 * 1.5 = 2.33
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.2, 0.5]])
    advantages, returns = gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), 0.9, 0.8)
    assert torch.allclose(advantages, torch.tensor([[2.33, 1.5]]))
    assert torch.allclose(returns, torch.tensor([[2.53, 2.0]]))


def test_lambda_one_is_monte_carlo() -> None:
    rewards, values = _random(1) * MASK, _random(2)
    advantages, returns = gae(rewards, values, MASK, 1.0, 1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(returns[MASK], to_go[MASK], atol=1e-5)
    assert torch.allclose(advantages[MASK], (to_go - values)[MASK], atol=1e-5)


def test_lambda_zero_is_one_step_td() -> None:
    rewards, values = _random(1) * MASK, _random(2) * MASK
    advantages, _ = gae(rewards, values, MASK, 0.9, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros(3, 1)], dim=1)
    assert torch.allclose(advantages[MASK], (rewards + 0.9 * following - values)[MASK], atol=1e-6)


def test_padding_changes_nothing() -> None:
    rewards, values = _random(1), _random(2)
    expected = gae(rewards, values, MASK, 0.95, 0.9)
    wide_rewards, wide_values = (torch.nn.functional.pad(tensor, (0, 3), value=99.0) for tensor in (rewards, values))
    found = gae(wide_rewards, wide_values, torch.nn.functional.pad(MASK, (0, 3)), 0.95, 0.9)
    for left, right in zip(expected, found, strict=True):
        assert torch.equal(left[MASK], right[:, :4][MASK])
        assert (right[:, 4:] == 0).all()


def test_rloo_by_hand() -> None:
    # Returns 3, 1 | 5, 0: the first prompt's advantages are 3 - 1 and 1 - 3, the second's 5 and -5.
    rewards = torch.tensor([[1.0, 2.0], [1.0, 9.0], [2.0, 3.0], [0.0, 9.0]])
    mask = lengths_to_mask(torch.tensor([2, 1, 2, 1]), 2)
    assert rloo(rewards, mask, 2).tolist() == [[2.0, 2.0], [-2.0, 0.0], [5.0, 5.0], [-5.0, 0.0]]


def test_rloo_of_a_prompt_sums_to_zero_whatever_is_added_to_its_rewards() -> None:
    rewards, mask = _random(3, (6, 4)), lengths_to_mask(torch.tensor([4, 2, 1, 3, 3, 2]), 4)
    found = rloo(rewards, mask, 3)
    assert torch.allclose(found[:, 0].view(2, 3).sum(1), torch.zeros(2), atol=1e-5)
    shifted = rewards.clone()
    shifted[:, 0] += 7.0
    assert torch.allclose(rloo(shifted, mask, 3), found, atol=1e-5)


def test_preference_scores_are_probabilities_of_winning() -> None:
    # sigmoid(0) = .5; sigmoid(log 3) = 3/4 and sigmoid(-log 3) = 1/4
    found = preference_scores(torch.tensor([1.0, math.log(3.0)]), torch.tensor([[1.0, 1.0], [0.0, 2 * math.log(3.0)]]))
    assert found.tolist() == pytest.approx([0.5, 0.5])
    assert preference_scores(torch.tensor([math.log(3.0)]), torch.tensor([[0.0]])).item() == pytest.approx(0.75)


def test_the_kl_coefficient_moves_by_a_clipped_share_of_the_error() -> None:
    # KL twice its target: error clipped to .2; half of the horizon: .1 * (1 + .2 * .5) = .11
    assert adapt_kl_coef(0.1, 12.0, 6.0, 500, 1000) == pytest.approx(0.11)
    assert adapt_kl_coef(0.1, 0.0, 6.0, 500, 1000) == pytest.approx(0.09)
    # 10 % above: error .1
    assert adapt_kl_coef(0.1, 6.6, 6.0, 1000, 1000) == pytest.approx(0.11)
    assert adapt_kl_coef(0.1, 6.0, 6.0, 1000, 1000) == 0.1


def test_k1_may_be_negative_and_k3_never_is() -> None:
    policy, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0])
    assert kl_k1(policy, reference).tolist() == [1.0, -1.0]
    # exp(-1) - 1 + 1 and exp(1) - 1 - 1
    assert kl_k3(policy, reference).tolist() == pytest.approx([0.36788, 0.71828], abs=1e-4)
    assert (kl_k3(_random(1), _random(2)) >= 0).all()
    assert kl_k2(policy, torch.tensor([-2.0, -4.0])).tolist() == [0.5, 2.0]


def test_both_estimators_have_the_exact_kl_as_their_mean() -> None:
    policy, reference = _random(1, (6,)).log_softmax(0), _random(2, (6,)).log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    for estimator in (kl_k1, kl_k3):
        assert torch.isclose((policy.exp() * estimator(policy, reference)).sum(), exact, atol=1e-6)


def test_the_policy_loss_clips_only_what_moved_too_far_in_its_own_favour() -> None:
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    mask = torch.ones(5, dtype=torch.bool)
    found = policy_loss(ratios.log(), torch.zeros(5), advantages, mask, 0.2)
    # max(-A r, -A clip(r)): -1.2, 1.5, -.5, .8, -2.2; the clip decides in the first and the fourth
    assert found.loss.item() == pytest.approx(-1.2 + 1.5 - 0.5 + 0.8 - 2.2)
    assert found.clipped == 2
    assert found.ratio.item() == pytest.approx(5.1)
    assert found.deviation.item() == pytest.approx(0.5)


def test_at_ratio_one_the_gradient_is_the_policy_gradient() -> None:
    old, advantages = _random(1), _random(2)
    logprobs = old.clone().requires_grad_()
    found = policy_loss(logprobs, old, advantages, MASK, 0.2)
    found.loss.backward()
    assert torch.allclose(logprobs.grad, (-advantages).masked_fill(~MASK, 0.0))  # pyright: ignore[reportArgumentType]
    assert found.clipped == 0
    assert found.approx_kl == 0


def test_the_value_loss_takes_the_larger_error() -> None:
    values, old, returns = torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    found = value_loss(values, old, returns, torch.ones(2, dtype=torch.bool), 0.2)
    # clipped values .2 and .1: errors max(0, .64) and max(.81, .81), halved
    assert found.loss.item() == pytest.approx((0.64 + 0.81) / 2)
    assert found.clipped == 1


def test_losses_ignore_what_the_mask_leaves_out() -> None:
    noise = _random(9) * 1e6
    for loss in (policy_loss, value_loss):
        first, second, third = (_random(seed) for seed in range(3))
        found = loss(
            *(torch.where(MASK, tensor, noise) for tensor in (first, second, third)), mask=MASK, clip_range=0.2
        )
        expected = loss(first * MASK, second * MASK, third * MASK, MASK, 0.2)
        assert torch.equal(found.loss, expected.loss)
