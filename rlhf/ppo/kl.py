"""Estimators of KL(policy || reference) from sampled tokens (Schulman 2020, "Approximating KL divergence").

With d = log policy - log reference at a token drawn from the policy:

    k1 = d                     unbiased; the only one that belongs into the reward, unclamped
    k3 = exp(-d) - 1 + d       never negative, low variance; for display
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kl_k1(logprobs: Float[Tensor, "*shape"], reference_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return k1 per token, in nats; it may be negative, and clamping it would bias the optimum."""
    return logprobs - reference_logprobs


def kl_k3(logprobs: Float[Tensor, "*shape"], reference_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return k3 per token, in nats."""
    difference = logprobs - reference_logprobs
    return torch.expm1(-difference) + difference
