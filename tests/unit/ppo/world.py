"""A tiny task for the PPO loop: responses score by their share of even token ids. Also run as a program to be killed."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.training import PpoConfig
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.ppo.loop import PpoOutcome, train_ppo
from rlhf.records import Prompt
from rlhf.runtime import start_runtime
from rlhf.tracking import Tracker
from tests.tiny import tiny_base, tiny_roles

TINY = {
    "updates": 4,
    "batch_size": 16,
    "minibatch_size": 8,
    "micro_batch_size": 4,
    "rollout_batch_size": 16,
    "epochs": 2,
    "learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "critic_warmup_updates": 1,
    "max_new_tokens": 6,
    "evaluate_every": 2,
    "evaluation_prompts": 4,
    "checkpoint_every": 1,
}

# What it takes to learn this task in a few updates.
LEARNS: dict[str, Any] = {"batch_size": 32, "minibatch_size": 32, "epochs": 4, "kl_coef": 0.02, "learning_rate": 1e-2}


def prompts(count: int = 12) -> list[Prompt]:
    """Return prompts of different lengths."""
    return [Prompt(f"p{index}", "the cat" + " on a dog" * (index % 3) + str(index), "ppo") for index in range(count)]


def even_share(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
    """Score a response by its share of even token ids, roughly normalised."""
    return torch.tensor([(sum(token % 2 == 0 for token in row) / len(row) - 0.5) * 4 for row in response_ids])


def train(
    folder: Path,
    *,
    shared: SharedBase | None = None,
    score: Any = even_share,
    score_identity: str | None = None,
    seed: int = 1,
    **changes: Any,
) -> tuple[PpoOutcome, SharedBase]:
    """Train in `folder/ppo` with a base in `folder/base`."""
    config = PpoConfig(**{**TINY, **changes})
    base = tiny_base(folder, scale=3.0)
    shared = shared or build_shared_base(base, tiny_roles(config.critic))
    out = folder / "ppo"
    out.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(out, bars=False)
    outcome = train_ppo(
        shared,
        base.text,
        prompts(),
        prompts(12),
        score,
        config,
        seed,
        out,
        tracker,
        start_runtime(),
        score_identity=score_identity,
    )
    return outcome, shared


if __name__ == "__main__":

    def slow(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
        """Score slowly, so that there is time to be killed."""
        time.sleep(float(sys.argv[2]))
        return even_share(prompt_ids, response_ids)

    train(Path(sys.argv[1]), score=slow, updates=int(sys.argv[3]))
