"""Estimators of KL(policy || reference) from sampled tokens, and the controller of its coefficient.

The estimators are those of Schulman (2020, "Approximating KL divergence").

With d = log policy - log reference at a token drawn from the policy:

    k1 = d                     unbiased; the only one that belongs into the reward, unclamped
    k2 = d^2 / 2               never negative, biased; for display
    k3 = exp(-d) - 1 + d       never negative, low variance; for display
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kl_k1(logprobs: Float[Tensor, "*shape"], reference_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return k1 per token, in nats; it may be negative, and clamping it would bias the optimum."""
    return logprobs - reference_logprobs


def kl_k2(logprobs: Float[Tensor, "*shape"], reference_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return k2 per token, in nats."""
    return 0.5 * (logprobs - reference_logprobs).square()


def kl_k3(logprobs: Float[Tensor, "*shape"], reference_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return k3 per token, in nats."""
    difference = logprobs - reference_logprobs
    return torch.expm1(-difference) + difference


def adapt_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """Return the coefficient of the next update (Ziegler et al. 2019, section 2.2).

        error = clip(kl / target - 1, -.2, .2),    kl_coef <- kl_coef * (1 + error * episodes / horizon)

    Args:
        kl_coef: The coefficient of this update.
        kl: Mean KL of this update's responses to the reference, in nats per response.
        target: Wanted KL, in nats per response.
        episodes: Episodes of this update.
        horizon: Episodes in which an error of the clipped size changes the coefficient by about a fifth.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * episodes / horizon)
