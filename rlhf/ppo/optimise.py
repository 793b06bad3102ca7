"""The optimisation phase of an update: epochs of clipped policy and value losses over one rollout."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlhf.batching import even_out, micro_batches
from rlhf.config.training import PpoConfig
from rlhf.engine import TrainingEngine
from rlhf.models.logprobs import frozen_head_logprobs, predicting
from rlhf.models.roles import SharedBase
from rlhf.ppo.advantages import gae, preference_scores, rloo, shape_scores, token_rewards
from rlhf.ppo.guard import find_ratio_fault
from rlhf.ppo.kl import kl_k1
from rlhf.ppo.losses import ValueLoss, policy_loss, value_loss
from rlhf.ppo.rollout import Rollout, lay_out
from rlhf.runtime import Runtime
from rlhf.tensors import masked_sum, whiten

STATISTICS = ("tokens", "policy_loss", "value_loss", "clipped", "approx_kl", "ratio", "value_clipped", "deviation")


@dataclass
class Targets:
    """What the losses aim at; (batch, response), 0 outside the response.

    Attributes:
        rewards: Per-token rewards, as they enter the estimator.
        advantages: Advantages, whitened where configured.
        returns: Advantage estimates plus values.
    """

    rewards: Float[Tensor, "batch response"]
    advantages: Float[Tensor, "batch response"]
    returns: Float[Tensor, "batch response"]


def make_targets(rollout: Rollout, config: PpoConfig, runtime: Runtime, *, kl_coef: float | None = None) -> Targets:
    """Turn scores and KL into rewards, and rewards into advantages; moments are taken over all processes.

    `kl_coef` is the coefficient of this update, where a controller moves it.
    """
    mask = rollout.response_mask
    scores = rollout.scores
    if rollout.compared_scores is not None:
        scores = preference_scores(scores, rollout.compared_scores)
    scores = shape_scores(scores, rollout.ended, config.score_clip, config.missing_eos_penalty)
    kl = kl_k1(rollout.logprobs, rollout.reference_logprobs)
    rewards = token_rewards(scores, kl, mask, config.kl_coef if kl_coef is None else kl_coef)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, *moments(rewards, mask, runtime), shift_mean=False)
    if config.advantage == "rloo":
        advantages = rloo(rewards, mask, config.samples_per_prompt)
        returns = advantages
    else:
        advantages, returns = gae(rewards, rollout.values, mask, config.discount, config.gae_lambda)
    if config.whiten_advantages:
        advantages = whiten(advantages, mask, *moments(advantages, mask, runtime))
    return Targets(rewards, advantages, returns)


def moments(
    values: Float[Tensor, "batch response"], mask: Bool[Tensor, "batch response"], runtime: Runtime
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return mean and population variance over the response tokens of all processes, in two passes."""
    values, count = values.double(), runtime.sum(mask.sum().double())
    mean = runtime.sum(masked_sum(values, mask)) / count
    variance = runtime.sum(masked_sum((values - mean).square(), mask)) / count
    return mean.float(), variance.float()


class PpoLosses(nn.Module):
    """The one module that is trained: its forward pass is the summed loss of a micro-batch.

    Policy and critic meet in a single loss, so that every trainable parameter takes part in every backward pass. With
    a head critic the value's gradient also reaches the policy's adapter (as with a value head in Ziegler et al. 2019),
    except in critic warm-up, where the trunk is detached.
    """

    def __init__(self, shared: SharedBase, config: PpoConfig) -> None:
        super().__init__()
        self.shared = shared
        self.config = config

    def forward(
        self,
        input_ids: Int[Tensor, "batch sequence"],
        response_mask: Bool[Tensor, "batch sequence"],
        old_logprobs: Float[Tensor, " tokens"],
        old_values: Float[Tensor, " tokens"],
        advantages: Float[Tensor, " tokens"],
        returns: Float[Tensor, " tokens"],
        policy_weight: float,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " statistics"]]:
        """Return the loss, summed over tokens, and the statistics named in `STATISTICS`.

        Args:
            input_ids: Prompts and responses, padded on the right.
            response_mask: True on response tokens.
            old_logprobs: One entry per True of the mask, row after row; so are the next three.
            old_values: Values under the rollout's weights.
            advantages: Advantages.
            returns: Returns.
            policy_weight: 1, or 0 in critic warm-up.
        """
        config, shared = self.config, self.shared
        states = predicting(shared.hidden("policy", input_ids), response_mask)
        logprobs, _ = frozen_head_logprobs(shared.lm_head, states, input_ids[response_mask], config.temperature)
        mask = torch.ones_like(logprobs, dtype=torch.bool)
        policy = policy_loss(logprobs, old_logprobs, advantages, mask, config.clip_range)
        loss, value = policy_weight * policy.loss, ValueLoss(logprobs.new_zeros(()), logprobs.new_zeros(()))
        if config.advantage == "gae":
            if config.critic == "adapter":
                states = predicting(shared.hidden("critic", input_ids), response_mask)
            elif policy_weight == 0:
                states = states.detach()
            value = value_loss(shared.read_head("critic", states), old_values, returns, mask, config.value_clip_range)
            loss = loss + config.value_coef * value.loss
        statistics = torch.stack(
            [
                mask.sum().float(),
                policy.loss.detach(),
                value.loss.detach(),
                policy.clipped,
                policy.approx_kl,
                policy.ratio,
                value.clipped,
                policy.deviation,
            ]
        )
        return loss, statistics


@dataclass
class Optimised:
    """What the optimisation phase saw.

    Attributes:
        total: Statistics summed over all micro-batches of this process, in the order of `STATISTICS`.
        first: The same of the first minibatch, before any step of this update.
        largest_deviation: Largest |ratio - 1| in the first minibatch.
        grad_norms: Gradient norm of each minibatch, before clipping.
        fault: What ended the phase early for the collapse guard, if anything did.
    """

    total: Float[Tensor, " statistics"]
    first: Float[Tensor, " statistics"]
    largest_deviation: Float[Tensor, ""]
    grad_norms: Float[Tensor, " steps"]
    fault: str | None = None


def optimise(
    engine: TrainingEngine,
    rollout: Rollout,
    targets: Targets,
    config: PpoConfig,
    runtime: Runtime,
    *,
    seed: tuple[int, int],
    policy_weight: float,
) -> Optimised:
    """Take `epochs` passes over the rollout, one optimiser step per minibatch.

    Every loss is divided by the response tokens of its whole minibatch, over all processes. All processes take the same
    number of micro-steps, and leave early at the same minibatch.

    Args:
        engine: Holds the module and the optimiser.
        rollout: This process's episodes.
        targets: What the losses aim at.
        config: The `ppo` section.
        runtime: Processes.
        seed: (run seed, update): decides the order of episodes.
        policy_weight: 0 in critic warm-up, 1 afterwards.
    """
    share = runtime.share(config.minibatch_size, "ppo.minibatch_size")
    plan = list(_plan(len(rollout), share, config.epochs, (*seed, runtime.process_index)))
    widths = [len(sequence) for sequence in rollout.sequences]
    batches = even_out(
        [list(micro_batches(widths, rows, config.micro_batch_size, config.micro_batch_tokens)) for rows in plan],
        runtime,
    )
    seen: list[Tensor] = []
    norms: list[Tensor] = []
    fault: str | None = None
    lengths = rollout.response_mask.sum(dim=1)
    # All token counts in one exchange, before the first step.
    tokens = runtime.sum(torch.stack([lengths[rows].sum() for rows in plan]).double()).tolist()
    for parts, count in zip(batches, tokens, strict=True):
        found: list[Tensor] = []
        for number, (part, weight) in enumerate(parts, start=1):
            batch = _micro_batch(rollout, targets, part, runtime.device)
            loss, statistics = engine.forward(*batch, policy_weight, last=number == len(parts))
            engine.backward(loss * (weight / count), last=number == len(parts))
            if weight:
                found.append(statistics)
        norms.append(engine.step())
        seen.append(_add_up(found))
        fault, stop = _judge(seen[-1], norms[-1], config, runtime)
        if fault or stop:
            break
    everything = torch.stack(seen)
    return Optimised(everything.sum(0).cpu(), seen[0].cpu(), seen[0][-1].cpu(), torch.stack(norms).cpu(), fault)


def _add_up(found: list[Tensor]) -> Tensor:
    """Sum the statistics of a minibatch's micro-batches; of the last one, `deviation`, take the largest."""
    stacked = torch.stack(found)
    return torch.cat([stacked[:, :-1].sum(0), stacked[:, -1:].amax(0)])


def _judge(statistics: Tensor, norm: Tensor, config: PpoConfig, runtime: Runtime) -> tuple[str | None, bool]:
    """Return what is wrong with a minibatch, and whether the policy is far enough from the rollout's to stop here."""
    total = dict(zip(STATISTICS, runtime.sum(statistics.double().cpu()).tolist(), strict=True))
    fault = find_ratio_fault(total["ratio"] / total["tokens"], total["policy_loss"] + total["value_loss"], config.guard)
    if fault is None and not bool(torch.isfinite(norm)):
        fault = "a gradient is not finite"
    limit = config.stop_epochs_kl
    return fault, limit is not None and total["approx_kl"] / total["tokens"] > limit


def _plan(count: int, share: int, epochs: int, seed: tuple[int, ...]) -> Iterator[list[int]]:
    """Yield the rows of each minibatch of each epoch: every episode once per epoch, in a new order."""
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(count).tolist()
        for start in range(0, count, share):
            yield order[start : start + share]


def _micro_batch(rollout: Rollout, targets: Targets, rows: list[int], device: torch.device) -> tuple[Tensor, ...]:
    ids, response = lay_out(rollout.sequences, rollout.prompt_lengths, rows, device)
    mask = rollout.response_mask[rows]
    flat = (rollout.logprobs, rollout.values, targets.advantages, targets.returns)
    return ids, response, *(tensor[rows][mask].to(device) for tensor in flat)
