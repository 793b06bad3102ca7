"""From scores to advantages: the KL term inside the reward, and generalised advantage estimation.

All tensors are (batch, response), padded on the right; `response_mask` is True on response tokens, the end token
included. Pure functions: tensors and numbers in, tensors out.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.tensors import last_true_index


def shape_scores(
    scores: Float[Tensor, " batch"], ended: Bool[Tensor, " batch"], clip: float, missing_eos_penalty: float
) -> Float[Tensor, " batch"]:
    """Clip normalised scores, then subtract the penalty from responses that did not end by themselves.

    Huang et al. 2024 put a constant in the score's place; subtracting keeps the order of unfinished responses.
    """
    return scores.clamp(-clip, clip) - missing_eos_penalty * (~ended).float()


def token_rewards(
    scores: Float[Tensor, " batch"],
    kl: Float[Tensor, "batch response"],
    response_mask: Bool[Tensor, "batch response"],
    kl_coef: float,
) -> Float[Tensor, "batch response"]:
    """Return r_t = -kl_coef * k1_t, plus the score on the last response token (Ziegler et al. 2019, eq. 2).

    The rewards of a row sum to score - kl_coef * sum of k1.
    """
    rewards = (-kl_coef * kl).masked_fill(~response_mask, 0.0)
    last = last_true_index(response_mask)[:, None]
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def gae(
    rewards: Float[Tensor, "batch response"],
    values: Float[Tensor, "batch response"],
    response_mask: Bool[Tensor, "batch response"],
    discount: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "batch response"], Float[Tensor, "batch response"]]:
    """Return advantages and returns by generalised advantage estimation (Schulman et al. 2016, eq. 16).

        delta_t = r_t + discount * V_{t+1} - V_t,    A_t = delta_t + discount * lambda * A_{t+1},    returns = A + V

    The value after the last response token is 0. Lambda 1 is Monte-Carlo, lambda 0 is one-step TD.
    """
    values = values.masked_fill(~response_mask, 0.0)
    rewards = rewards.masked_fill(~response_mask, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + discount * following - values
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in range(deltas.shape[1] - 1, -1, -1):
        running = deltas[:, t] + discount * gae_lambda * running
        advantages[:, t] = running
    # Beyond the last token every delta is 0, so the padding adds nothing to what comes before it.
    return advantages, advantages + values
