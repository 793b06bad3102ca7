"""Numbers of an update and of a look at the validation prompts, over all processes."""

import resource
from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.config.training import PpoConfig
from rlhf.models.roles import SharedBase
from rlhf.ppo.kl import kl_k1, kl_k2, kl_k3
from rlhf.ppo.optimise import STATISTICS, Optimised, Targets
from rlhf.ppo.rollout import Rollout, ScoreFn, examine, sample_episodes, score_samples
from rlhf.runtime import Runtime
from rlhf.tensors import masked_sum
from rlhf.text import TextFormat

SHOWN_SAMPLES = 8
# Validation episodes draw from keys that no rollout reaches, the same at every look: looks are paired.
VALIDATION_KEYS = 1 << 40


def measure_update(rollout: Rollout, targets: Targets, done: Optimised, runtime: Runtime) -> dict[str, float]:
    """Return the `ppo/*` numbers of one update's targets and optimiser steps."""
    total = dict(zip(STATISTICS, runtime.sum(done.total.double()).tolist(), strict=True))
    first = dict(zip(STATISTICS, runtime.sum(done.first.double()).tolist(), strict=True))
    mask = rollout.response_mask
    rewards = _means({"reward": (targets.rewards * mask).sum(1)}, torch.ones(len(rollout)), runtime)
    return {
        "ppo/reward_sum": rewards["reward"],
        "ppo/ratio_first": first["ratio"] / first["tokens"],
        "ppo/clip_fraction_first": first["clipped"] / first["tokens"],
        "ppo/clip_fraction": total["clipped"] / total["tokens"],
        "ppo/approx_kl_nats": total["approx_kl"] / total["tokens"],
        "ppo/policy_loss": total["policy_loss"] / total["tokens"],
        "ppo/value_loss": total["value_loss"] / total["tokens"],
        "ppo/value_clip_fraction": total["value_clipped"] / total["tokens"],
        "ppo/explained_variance": _explained_variance(rollout, targets, runtime),
        "ppo/grad_norm": float(done.grad_norms.mean()),
        "ppo/optimizer_steps": float(len(done.grad_norms)),
        "ppo/sampler_gap_nats": rollout.sampler_gap,
    }


def describe(rollout: Rollout, runtime: Runtime, weights: Tensor | None = None) -> dict[str, float]:
    """Return means over episodes: score and what its sources gave, KL (sum per sequence), length, share that ended, entropy (per token).

    Args:
        rollout: This process's episodes.
        runtime: Processes.
        weights: 0 for episodes that only fill up a process's share.
    """
    mask, weights = rollout.response_mask, torch.ones(len(rollout)) if weights is None else weights
    columns = {
        "score_mean": rollout.scores,
        "score_square": rollout.scores.square(),
        "kl_nats": (kl_k1(rollout.logprobs, rollout.reference_logprobs) * mask).sum(1),
        "kl_k2_nats": (kl_k2(rollout.logprobs, rollout.reference_logprobs) * mask).sum(1),
        "kl_k3_nats": (kl_k3(rollout.logprobs, rollout.reference_logprobs) * mask).sum(1),
        "length_tokens": mask.sum(1).float(),
        "eos_rate": rollout.ended.float(),
        "entropy_sum": (rollout.entropies * mask).sum(1),
        **{f"score_{name}": part for name, part in rollout.score_parts.items()},
    }
    means = _means(columns, weights, runtime)
    means["score_std"] = max(0.0, means.pop("score_square") - means["score_mean"] ** 2) ** 0.5
    means["entropy_nats"] = means.pop("entropy_sum") / means["length_tokens"]
    return means


def measure_validation(
    shared: SharedBase,
    text: TextFormat,
    prompts: Sequence[list[int]],
    score_fn: ScoreFn,
    config: PpoConfig,
    seed: int,
    runtime: Runtime,
) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Sample the policy on validation prompts; return the `validation/*` numbers and some texts.

    Every process takes the same number of prompts; the last ones may be repeated with weight 0.
    """
    share = -(-len(prompts) // runtime.process_count)
    rows = [runtime.process_index * share + index for index in range(share)]
    weights = torch.tensor([float(row < len(prompts)) for row in rows])
    local = [prompts[min(row, len(prompts) - 1)] for row in rows]
    keys = [VALIDATION_KEYS + row for row in rows]
    samples = sample_episodes(shared, text, local, keys, config, seed, in_step=runtime.in_step)
    rollout = examine(shared, samples, score_samples(score_fn, samples), config, runtime)
    numbers = describe(rollout, runtime, weights)
    parts = rollout.score_parts
    numbers["score_error"] = numbers["score_std"] / max(1, len(prompts) - 1) ** 0.5
    shown = [
        {
            "prompt": text.tokenizer.decode(samples.prompt_ids[row]),
            "response": text.decode_response(samples.response_ids[row]),
            "score": float(rollout.scores[row]),
            "ended": samples.ended[row],
            **({"scores": {name: float(part[row]) for name, part in parts.items()}} if parts else {}),
        }
        for row in range(min(SHOWN_SAMPLES, len(local)))
    ]
    return {f"validation/{name}": value for name, value in numbers.items()}, shown


def measure_memory(runtime: Runtime) -> dict[str, float]:
    """Return this process's peak memory, in bytes."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    numbers = {"memory/peak_resident_bytes": float(resident)}
    if runtime.device.type == "cuda":
        numbers["memory/peak_device_bytes"] = float(torch.cuda.max_memory_allocated(runtime.device))
    return numbers


def _means(columns: dict[str, Tensor], weights: Tensor, runtime: Runtime) -> dict[str, float]:
    sums = torch.stack([(column.double() * weights.double()).sum() for column in columns.values()])
    total = runtime.sum(torch.cat([sums, weights.double().sum()[None]]))
    return dict(zip(columns, (total[:-1] / total[-1]).tolist(), strict=True))


def _explained_variance(rollout: Rollout, targets: Targets, runtime: Runtime) -> float:
    """Return 1 - Var(returns - values) / Var(returns) over all response tokens; 0 where returns do not vary."""
    mask = rollout.response_mask
    error, returns = (targets.returns - rollout.values).double(), targets.returns.double()
    parts = [mask.double(), error, error.square(), returns, returns.square()]
    count, *sums = runtime.sum(torch.stack([masked_sum(part, mask) for part in parts])).tolist()
    mean_error, square_error, mean_return, square_return = (value / count for value in sums)
    variance = square_return - mean_return**2
    return 1.0 - (square_error - mean_error**2) / variance if variance > 1e-12 else 0.0
