"""Preference pairs with a planted truth: the response with more cats is better."""

import random
from pathlib import Path
from typing import Any

from torch import nn

from rlhf.config.training import RewardConfig
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.records import PreferencePair
from rlhf.reward.trainer import RewardOutcome, train_reward
from rlhf.runtime import Runtime, start_runtime
from rlhf.tracking import Tracker
from tests.tiny import TINY_LORA, tiny_base

WORDS = ("cat", "the", "and", "ran")


def planted_pairs(prompts: int, seed: int, *, candidates: int = 3, words: int = 5) -> list[PreferencePair]:
    """Return all pairs of random responses whose numbers of cats differ; prompt ids carry the seed."""
    generator = random.Random(seed)
    pairs: list[PreferencePair] = []
    for number in range(prompts):
        texts: set[str] = set()
        while len(texts) < candidates:
            texts.add("".join(f" {generator.choice(WORDS)}" for _ in range(words)))
        ranked = sorted(texts, key=lambda text: (-text.count("cat"), text))
        name = f"{seed}-{number}"
        pairs += [
            PreferencePair(name, f"the {name} sat", chosen, rejected)
            for index, chosen in enumerate(ranked)
            for rejected in ranked[index + 1 :]
            if chosen.count("cat") > rejected.count("cat")
        ]
    return pairs


def planted_config(**changes: Any) -> RewardConfig:
    """Return hyper-parameters that learn the planted truth in a few seconds."""
    settings = {
        "epochs": 2,
        "batch_prompts": 8,
        "micro_batch_prompts": 8,
        "learning_rate": 2e-2,
        "head_learning_rate": 2e-2,
        "max_tokens": 64,
        "evaluations": 2,
    }
    return RewardConfig(**(settings | changes))


def count_passes(model: nn.Module, layer: tuple[str, ...]) -> list[int]:
    """Return a list that grows with each forward pass of the one module whose name ends so."""
    passes: list[int] = []
    (found,) = (module for name, module in model.named_modules() if name.endswith(layer))
    found.register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


def reward_base(tmp_path: Path, *, seed: int = 3, heads: int = 1) -> tuple[SharedBase, Any]:
    """Return a shared base with a fresh reward role that learns, and its text format."""
    base = tiny_base(tmp_path)
    roles = {"reward": RoleSource(fresh=TINY_LORA, head=True, heads=heads, trainable=True)}
    return build_shared_base(base, roles, seed=seed), base.text


def train_planted(
    tmp_path: Path,
    config: RewardConfig,
    *,
    prompts: int = 64,
    name: str = "out",
    tracker: Tracker | None = None,
    seed: int = 1,
) -> tuple[RewardOutcome, SharedBase, Any, Path, Runtime]:
    """Train on planted pairs; return the outcome, the base, its text format, the output folder and the runtime."""
    shared, text = reward_base(tmp_path, seed=seed + 2, heads=config.heads)
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    runtime = start_runtime()
    tracker = tracker or Tracker(folder, bars=False)
    train, held_out = planted_pairs(prompts, 1), planted_pairs(24, 2)
    outcome = train_reward(shared, text, train, held_out, config, seed, folder, tracker, runtime)
    return outcome, shared, text, folder, runtime
