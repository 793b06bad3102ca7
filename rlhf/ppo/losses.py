"""The clipped losses of PPO (Schulman et al. 2017), as sums over tokens.

Sums, not means: the caller divides by the number of response tokens of the whole minibatch, over all micro-batches
and processes, so that neither accumulation nor the process count changes the gradient. Pure functions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.tensors import masked_sum


class PolicyLoss(NamedTuple):
    """Sums over the True tokens of the mask.

    Attributes:
        loss: The clipped surrogate, to be minimised.
        clipped: Number of tokens where the clipped term was the larger loss.
        ratio: Sum of probability ratios.
        approx_kl: Sum of the k3 estimate of KL(old || new), in nats.
        deviation: Largest |ratio - 1|; the only entry that is no sum.
    """

    loss: Float[Tensor, ""]
    clipped: Float[Tensor, ""]
    ratio: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    deviation: Float[Tensor, ""]


class ValueLoss(NamedTuple):
    """Sums over the True tokens of the mask: the clipped loss, and the number of tokens where the clip decided."""

    loss: Float[Tensor, ""]
    clipped: Float[Tensor, ""]


def policy_loss(
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    clip_range: float,
) -> PolicyLoss:
    """Return the sum over tokens of max(-A * ratio, -A * clip(ratio, 1 - c, 1 + c)) (Schulman et al. 2017, eq. 7)."""
    log_ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    with torch.no_grad():
        statistics = (
            masked_sum((clipped > plain).float(), mask),
            masked_sum(ratio, mask),
            masked_sum(ratio - 1.0 - log_ratio, mask),
            (ratio - 1.0).abs().amax(),
        )
    return PolicyLoss(masked_sum(torch.maximum(plain, clipped), mask), *statistics)


def value_loss(
    values: Float[Tensor, "*shape"],
    old_values: Float[Tensor, "*shape"],
    returns: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    clip_range: float,
) -> ValueLoss:
    """Return the sum over tokens of half the larger squared error, of the value and of the clipped value.

    The clipped value moves at most `clip_range` from its old estimate (Ziegler et al. 2019, code).
    """
    near = old_values + (values - old_values).clamp(-clip_range, clip_range)
    plain, clipped = (values - returns).square(), (near - returns).square()
    return ValueLoss(
        0.5 * masked_sum(torch.maximum(plain, clipped), mask),
        masked_sum((clipped > plain).detach().float(), mask),
    )
