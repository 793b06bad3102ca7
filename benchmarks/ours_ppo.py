"""Our side of the PPO benchmark: one shared base with four roles, trained by the real loop.

Reads a job as JSON from its first argument and prints one JSON line. The program is run alone, so that its peak memory
is its own.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.peak import peak_bytes
from benchmarks.shapes import EPOCHS, LEARNING_RATE, LORA_ALPHA, LORA_RANK, bias_parameter, shape_of
from rlhf.config.base import BaseConfig, LoraSection
from rlhf.config.training import PpoConfig
from rlhf.models.base import describe_base, load_base
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.ppo.loop import train_ppo
from rlhf.ppo.rollout import sample_episodes
from rlhf.records import Prompt
from rlhf.reward.model import RewardInfo, score_ids
from rlhf.runtime import start_runtime
from rlhf.text import TextFormat
from rlhf.tracking import Tracker, read_metrics

PHASES = ("rollout", "score", "examine", "optimise")
MATCH, TRIES = 0.03, 40


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train as the job says and return what was measured."""
    shape = shape_of(job["shape"], job["batch"])
    imported = peak_bytes(shape.device)
    torch.set_num_threads(job["threads"])
    folder = Path(job["folder"])
    shared, text = build(job)
    ids = json.loads((Path(job["model"]) / "prompts.json").read_text())
    prompts = [Prompt(f"p{row}", " ".join(f"w{token}" for token in tokens), "ppo") for row, tokens in enumerate(ids)]
    config = ppo_config(job)
    seed = job["seed"] if job.get("match") is None else matching_seed(shared, text, ids, config, job)
    lengths: list[int] = []
    cpu_times: list[float] = []
    info = RewardInfo(pooling="last")

    def score(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> torch.Tensor:
        lengths.extend(map(len, response_ids))
        cpu_times.append(time.process_time())
        items = list(zip(prompt_ids, response_ids, strict=True))
        return torch.tensor(score_ids(shared, text, info, items, job["micro_batch"]))

    outcome = train_ppo(
        shared, text, prompts, [], score, config, seed, folder, Tracker(folder, bars=False), start_runtime()
    )
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["step"] > job["warmup"]]
    # From scoring to scoring is an update too.
    spans = pairwise(cpu_times)
    return {
        "update_seconds": [row["time/update_s"] for row in rows],
        "update_cpu_seconds": [after - before for before, after in spans][-job["updates"] :],
        "phase_seconds": {name: [row[f"time/{name}_s"] for row in rows] for name in PHASES},
        "optimizer_steps": outcome.optimizer_steps,
        "response_lengths": lengths[shape.batch * job["warmup"] :],
        "peak_bytes": peak_bytes(shape.device),
        "imported_bytes": imported,
        "trainable_parameters": sum(p.numel() for p in shared.parameters() if p.requires_grad),
        "seed": seed,
        "sampler_gap_nats": rows[-1].get("ppo/sampler_gap_nats"),
    }


def build(job: dict[str, Any]) -> tuple[SharedBase, TextFormat]:
    """Load the base with the logit bias of the job, and attach the roles."""
    source, shape = Path(job["model"]), shape_of(job["shape"], job["batch"])
    settings = BaseConfig(model=str(source), prompt_format="plain")
    artifact = Path(job["folder"]) / "base"
    artifact.mkdir(parents=True, exist_ok=True)
    describe_base(settings, artifact)
    base = load_base(artifact, settings, job["dtype"])
    base.model.lm_head.bias = bias_parameter(job["logit_bias"], shape.vocabulary, base.model.dtype)
    base.model.to(shape.device)
    lora = LoraSection(rank=LORA_RANK, alpha=LORA_ALPHA)
    critic = RoleSource(copy_of="reward", head=True, trainable=True)
    if job["critic"] == "head":
        critic = RoleSource(trunk_of="policy", head=True, trainable=True)
    roles = {
        "reference": RoleSource(fresh=lora),
        "policy": RoleSource(copy_of="reference", trainable=True),
        "reward": RoleSource(fresh=lora, head=True),
        "critic": critic,
    }
    return build_shared_base(base, roles), base.text


def ppo_config(job: dict[str, Any]) -> PpoConfig:
    """Return the `ppo` section of a job. No critic warm-up: it would skip half of the work."""
    shape = shape_of(job["shape"], job["batch"])
    return PpoConfig(
        critic=job["critic"],
        updates=job["warmup"] + job["updates"],
        batch_size=shape.batch,
        minibatch_size=shape.batch,
        micro_batch_size=job["micro_batch"],
        rollout_batch_size=shape.rollout_batch,
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        critic_learning_rate=LEARNING_RATE,
        critic_warmup_updates=0,
        max_new_tokens=shape.response,
        checkpoint_every=job["warmup"] + job["updates"],
    )


def matching_seed(
    shared: SharedBase, text: TextFormat, ids: list[list[int]], config: PpoConfig, job: dict[str, Any]
) -> int:
    """Return a seed whose measured rollouts have the peer's mean length.

    The mean of some 64 lengths has a standard error of 10 %, and the sides are to be compared at equal lengths. How
    long an episode gets depends on its uniform numbers alone: the end token is as likely after every prompt, and the
    learning rate is low.
    """
    batch = shape_of(job["shape"], job["batch"]).batch
    first, count = batch * job["warmup"], batch * job["updates"]
    errors: dict[int, float] = {}
    for seed in range(job["seed"], job["seed"] + TRIES):
        samples = sample_episodes(shared, text, ids[:count], range(first, first + count), config, seed)
        errors[seed] = abs(sum(map(len, samples.response_ids)) / count / job["match"] - 1)
        if errors[seed] < MATCH:
            break
    return min(errors, key=lambda seed: errors[seed])


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
