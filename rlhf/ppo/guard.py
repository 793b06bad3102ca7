"""The collapse guard: which batches are too bad to learn from.

A bad batch is written to disk and left out; several in a row stop the run, whose message names the batch and the last
checkpoint that was seen to sample a good one. One bad batch may be an outlier; a collapsed policy samples only such.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from rlhf.config.training import GuardConfig
from rlhf.ppo.checkpoint import Progress, last_good_checkpoint


def find_fault(numbers: Mapping[str, float], progress: Progress, guard: GuardConfig) -> str | None:
    """Say what is wrong with a batch, or None.

    Args:
        numbers: `score_mean`, `kl_nats`, `length_tokens` and `eos_rate` of the batch, over all processes.
        progress: Remembers the first batch's length and end rate.
        guard: The limits.
    """
    broken = [name for name in ("score_mean", "kl_nats") if not math.isfinite(numbers[name])]
    if broken:
        return f"{' and '.join(broken)} not finite"
    if numbers["kl_nats"] > guard.max_kl_nats:
        return f"KL {numbers['kl_nats']:.3g} nats per response is above ppo.guard.max_kl_nats {guard.max_kl_nats:g}"
    # Where most responses are cut, as with short limits, the share that ends says little.
    ends = progress.first_eos_rate if progress.first_eos_rate >= 0.5 else 0.0
    for name, first, share, setting in (
        ("length_tokens", progress.first_length, guard.min_length_share, "min_length_share"),
        ("eos_rate", ends, guard.min_eos_share, "min_eos_share"),
    ):
        if numbers[name] < share * first:
            return (
                f"{name} {numbers[name]:.3g} is below {share:g} (ppo.guard.{setting}) of the first batch's {first:.3g}"
            )
    return None


def find_ratio_fault(ratio: float, loss: float, guard: GuardConfig) -> str | None:
    """Say what is wrong with a minibatch's mean probability ratio or loss, or None."""
    if not (math.isfinite(ratio) and math.isfinite(loss)):
        return "a loss is not finite"
    if not 1 / guard.max_ratio <= ratio <= guard.max_ratio:
        return f"mean ratio {ratio:.3g} of a minibatch is further from 1 than ppo.guard.max_ratio {guard.max_ratio:g}"
    return None


def stop_message(update: int, fault: str, batch: Path, folder: Path) -> str:
    """Return what a person needs to know when the guard stops a run."""
    good = last_good_checkpoint(folder)
    return (
        f"update {update}: {fault}; the batch is in {batch}, the last good checkpoint is {good or 'none'}; lower "
        "ppo.learning_rate or ppo.critic_learning_rate, raise ppo.kl_coef, or look at the scores of the batch"
    )
