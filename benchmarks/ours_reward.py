"""Our side of the reward benchmark: the real trainer on whole rankings.

Reads a job as JSON from its first argument and prints one JSON line. The program is run alone, so that its peak memory
is its own.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.peak import peak_bytes
from benchmarks.rankings import RankedIds, read_rankings
from benchmarks.shapes import LORA_ALPHA, LORA_RANK
from rlhf.config.base import BaseConfig, LoraSection
from rlhf.config.training import RewardConfig
from rlhf.models.base import describe_base, load_base
from rlhf.models.roles import RoleSource, build_shared_base
from rlhf.records import PreferencePair
from rlhf.reward.trainer import train_reward
from rlhf.runtime import start_runtime
from rlhf.tracking import Tracker


class Watch(Tracker):
    """Notes the time, the processor time of this program and its peak memory at the start and when optimiser steps end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, bars=False)
        self.times: list[float] = []
        self.cpu_times: list[float] = []
        self.peak = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the start, which is the end of the first evaluation, and the end of each step."""
        super().log(step, metrics)
        if step == 0 or "reward/loss_nats" in metrics:
            self.times.append(time.perf_counter())
            self.cpu_times.append(time.process_time())
            self.peak = peak_bytes("cpu")


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train as the job says and return what was measured."""
    imported = peak_bytes("cpu")
    torch.set_num_threads(job["threads"])
    source, folder = Path(job["model"]), Path(job["folder"])
    settings = BaseConfig(model=str(source), prompt_format="plain")
    (folder / "base").mkdir(parents=True)
    describe_base(settings, folder / "base")
    base = load_base(folder / "base", settings, "fp32")
    lora = LoraSection(rank=LORA_RANK, alpha=LORA_ALPHA)
    roles = {"reward": RoleSource(fresh=lora, head=True, trainable=True)}
    shared = build_shared_base(base, roles, seed=job["seed"])
    train, held_out = (as_pairs(side, name) for side, name in zip(read_rankings(source), "th", strict=True))
    watch = Watch(folder)
    outcome = train_reward(
        shared, base.text, train, held_out, reward_config(job), job["seed"], folder, watch, start_runtime()
    )
    return {
        "step_times": watch.times,
        "step_cpu_times": watch.cpu_times,
        "optimizer_steps": outcome.steps,
        "accuracy": outcome.calibration.accuracy.value,
        "held_out_pairs": outcome.held_out_pairs,
        "peak_bytes": watch.peak,
        "imported_bytes": imported,
        "trainable_parameters": sum(p.numel() for p in shared.parameters() if p.requires_grad),
    }


def as_pairs(rankings: Sequence[RankedIds], name: str) -> list[PreferencePair]:
    """Return all pairs of some rankings as texts, without the end token, which our prompt format adds."""

    def words(ids: Sequence[int]) -> str:
        return " ".join(f"w{token}" for token in ids)

    return [
        PreferencePair(f"{name}{number}", words(ranking.prompt), f" {words(better[:-1])}", f" {words(worse[:-1])}")
        for number, ranking in enumerate(rankings)
        for place, better in enumerate(ranking.responses)
        for worse in ranking.responses[place + 1 :]
    ]


def reward_config(job: dict[str, Any]) -> RewardConfig:
    """Return the `reward` section of a job. The peer knows one learning rate, and is not evaluated while it trains."""
    return RewardConfig(
        init="fresh",
        pooling="last",
        learning_rate=job["learning_rate"],
        head_learning_rate=job["learning_rate"],
        epochs=job["epochs"],
        batch_prompts=job["batch"],
        micro_batch_tokens=job["micro_batch"],
        centering=job["centering"],
        warmup_share=job["warmup_share"],
        evaluations=1,
    )


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
