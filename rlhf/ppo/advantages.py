"""From scores to advantages: shaping, the KL term inside the reward, and two estimators (GAE, RLOO).

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


def preference_scores(
    scores: Float[Tensor, " batch"], reference_scores: Float[Tensor, "batch samples"]
) -> Float[Tensor, " batch"]:
    """Return the mean over reference samples of sigmoid(score - reference score), between 0 and 1 (PAR).

    Under the Bradley-Terry model this is the probability that the response is preferred to one of the reference's; it
    stops paying for ever higher scores, which is where reward hacking starts (Fu et al. 2025, eq. 7).
    """
    return torch.sigmoid(scores[:, None] - reference_scores).mean(dim=1)


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


def rloo(
    rewards: Float[Tensor, "batch response"], response_mask: Bool[Tensor, "batch response"], samples_per_prompt: int
) -> Float[Tensor, "batch response"]:
    """Return the sequence's return less the mean return of the prompt's other samples, on every token of the row.

    A_i = R_i - mean over j != i of R_j, with R the sum of a row's rewards (Kool et al. 2019; Ahmadian et al. 2024, eq.
    6). Rows of one prompt follow one another. There is no critic, and no discount.
    """
    count = samples_per_prompt
    assert count >= 2, f"{count} sample per prompt has no others to compare with"
    returns = rewards.masked_fill(~response_mask, 0.0).sum(dim=1).view(-1, count)
    advantages = (returns - returns.mean(dim=1, keepdim=True)) * (count / (count - 1))
    return advantages.view(-1, 1).expand_as(rewards).masked_fill(~response_mask, 0.0)
