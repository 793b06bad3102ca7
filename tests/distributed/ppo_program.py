"""The tiny PPO task under a launcher: folder, ZeRO stage, jobs. Each job writes a folder of its name.

A stage such as `3:all` also says what to offload.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rlhf.config.training import PpoConfig
from rlhf.models.adapters import is_adapter_weight
from rlhf.models.base import hash_weights
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.ppo import loop
from rlhf.ppo.loop import learning_rates, make_engine, train_ppo
from rlhf.ppo.optimise import make_targets, optimise
from rlhf.ppo.rollout import Rollout, examine, sample_episodes, score_samples
from rlhf.runtime import Runtime, start_runtime
from rlhf.sampling import Samples
from rlhf.text import TextFormat
from rlhf.tracking import Tracker
from tests.tiny import tiny_base, tiny_roles
from tests.unit.ppo.world import TINY, even_share, prompts

# One minibatch per epoch, so that every number of processes takes the same steps.
SETTINGS = {**TINY, "minibatch_size": TINY["batch_size"], "updates": 3, "checkpoint_every": 1, "keep_checkpoints": 3}
ROLLOUT = "rollout.pt"
WHOLE = ("sampler_gap", "compared_scores", "score_parts")


def main(folder: Path, stage: str, jobs: list[str]) -> None:
    """Do the jobs: `windows`, `head`, or any other name, which trains from the checkpoint in its folder if there is one."""
    zero, _, offload = stage.partition(":")
    runtime = start_runtime(zero=int(zero), offload=offload or "none")  # pyright: ignore[reportArgumentType]
    for job in jobs:
        if job == "windows":
            take_windows(folder, runtime)
        else:
            train(folder, job, runtime)


def train(folder: Path, job: str, runtime: Runtime) -> None:
    """Train for three updates, the first of them critic warm-up; the job `head` with a critic that is only a head.

    `gathered` holds the whole base while it decodes, and writes down in what state it found the output layer then.
    """
    changes = {"critic": "head" if job == "head" else "adapter", "gather_to_decode": job == "gathered"}
    config = PpoConfig(**{**SETTINGS, **changes})
    shared, text = load(folder, config)
    out = folder / job
    seen: list[tuple[bool, int]] = []
    decode = loop.sample_episodes

    def watched(*arguments: Any, in_step: Any, **options: Any) -> Samples:
        seen.append((in_step is None, shared.lm_head.weight.numel()))
        return decode(*arguments, in_step=in_step, **options)

    loop.sample_episodes = watched
    if runtime.is_main:
        out.mkdir(exist_ok=True)
    runtime.wait()
    tracker = Tracker(out, active=runtime.is_main, bars=False)
    outcome = train_ppo(shared, text, prompts(), prompts(4), even_share, config, 1, out, tracker, runtime)
    loop.sample_episodes = decode
    if runtime.is_main:
        (out / "decoded.json").write_text(json.dumps(seen), encoding="utf-8")
        (out / "hash.txt").write_text(outcome.base_hash, encoding="utf-8")


def load(folder: Path, config: PpoConfig) -> tuple[SharedBase, TextFormat]:
    """Return a shared base, and a text format in which a third of the vocabulary ends a response: lengths differ."""
    base = tiny_base(folder, scale=3.0)
    shared = build_shared_base(base, tiny_roles(config.critic))
    base.text.end_token_ids = tuple(range(0, len(base.text.tokenizer), 3))
    return shared, base.text


def take_windows(folder: Path, runtime: Runtime) -> None:
    """Optimise three times over one recorded rollout, first in critic warm-up; the first process alone records it."""
    config, out = PpoConfig(**SETTINGS), folder / "windows"
    shared, text = load(folder, config)
    if runtime.is_main:
        out.mkdir(exist_ok=True)
    engine = make_engine(shared, config, runtime)
    if not (folder / ROLLOUT).exists():
        torch.save(dataclasses.asdict(_record(shared, text, config, runtime)), folder / ROLLOUT)
    rollout = _share(Rollout(**torch.load(folder / ROLLOUT, weights_only=True)), runtime)
    targets = make_targets(rollout, config, runtime)
    before = hash_weights(shared.model)
    _save(shared, out / "before", runtime)
    for window in (1, 2, 3):
        engine.set_learning_rates(learning_rates(config, window))
        weight = 0.0 if window == 1 else 1.0
        optimise(engine, rollout, targets, config, runtime, seed=(1, window), policy_weight=weight)
        _save(shared, out / f"after-{window}", runtime)
    state = engine.state()
    facts = {"hash_before": before, "hash_after": hash_weights(shared.model), "shards": _shards(shared)}
    if runtime.zero:
        kept = (engine.module.zero_offload_optimizer(), engine.module.zero_offload_param())
        facts["offloaded_to"] = [settings and settings.device for settings in kept]
    facts["bf16_loads_as"] = str(tiny_base(folder, precision="bf16", scale=3.0).model.dtype)
    if runtime.is_main:
        save_file(state, out / "optimizer.safetensors")
        (out / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _record(shared: SharedBase, text: TextFormat, config: PpoConfig, runtime: Runtime) -> Rollout:
    ids = [text.encode_prompt(prompt.prompt) for prompt in prompts(config.batch_size)]
    samples = sample_episodes(shared, text, ids, range(len(ids)), config, seed=5)
    return examine(shared, samples, score_samples(even_share, samples), config, runtime)


def _share(rollout: Rollout, runtime: Runtime) -> Rollout:
    """Return every n-th episode."""
    rows = slice(runtime.process_index, None, runtime.process_count)
    own = {name: value[rows] for name, value in vars(rollout).items() if name not in WHOLE}
    return dataclasses.replace(rollout, **own)


def _save(shared: SharedBase, folder: Path, runtime: Runtime) -> None:
    for role in ("policy", "critic"):
        shared.save_role(role, folder / role, write=runtime.is_main)


def _shards(shared: SharedBase) -> dict[str, tuple[int, int, int]]:
    """Return (numbers in the whole, numbers in this process's shard, numbers that are whole here) of base weights."""
    return {
        name: (parameter.ds_numel, parameter.ds_tensor.numel(), parameter.numel())
        for name, parameter in shared.model.named_parameters()
        if not is_adapter_weight(name) and hasattr(parameter, "ds_id")
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
