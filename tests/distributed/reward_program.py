"""A tiny reward training under a launcher, with one head and with several: folder, ZeRO stage, and `own` for a base of its own.

It writes what it learned, and how it cut its steps.
"""

import json
import sys
from pathlib import Path

import torch

from rlhf.models.roles import RoleSource, build_shared_base
from rlhf.reward.model import RewardModel, finish_reward, publish_reward
from rlhf.reward.own_base import build_own_model, save_own_model
from rlhf.reward.trainer import train_model, train_reward
from rlhf.runtime import Runtime, start_runtime
from rlhf.tracking import Tracker
from tests.tiny import TINY_LORA, tiny_base, tiny_classifier
from tests.unit.reward.planted import planted_config, planted_pairs

# Steps of 8, 8 and 1 prompts: in the last one, the second of two processes has none of its own.
LONG, SHORT, HELD_OUT = 6, 11, 5
BUDGET = 150


def train_role(folder: Path, runtime: Runtime, name: str, heads: int = 1) -> None:
    """Train for one epoch with a token budget."""
    base = tiny_base(folder)
    fresh = RoleSource(fresh=TINY_LORA, head=True, heads=heads, trainable=True)
    shared = build_shared_base(base, {"reward": fresh}, seed=3)
    pairs = planted_pairs(SHORT, 1, words=4) + planted_pairs(LONG, 3, words=12)
    held_out = planted_pairs(HELD_OUT, 2)
    out = folder / name
    if runtime.is_main:
        out.mkdir()
    runtime.wait()
    passes: list[bool] = []
    forward = RewardModel.forward

    def counted(self: RewardModel, *arguments: torch.Tensor) -> torch.Tensor:
        passes.append(torch.is_grad_enabled())
        return forward(self, *arguments)

    RewardModel.forward = counted  # pyright: ignore[reportAttributeAccessIssue]
    config = planted_config(epochs=1, evaluations=1, micro_batch_tokens=BUDGET, heads=heads)
    tracker = Tracker(out, active=runtime.is_main, bars=False)
    outcome = train_reward(shared, base.text, pairs, held_out, config, 1, out, tracker, runtime)
    publish_reward(shared, outcome.info, out, runtime)
    facts = {"passes": passes, "initial_loss": outcome.initial_loss, "held_out_loss": outcome.held_out_loss}
    (out / f"facts-{runtime.process_index}.json").write_text(json.dumps(facts), encoding="utf-8")


def train_own(folder: Path, runtime: Runtime, name: str, tuning: str = "full") -> None:
    """Train a model with a base of its own on the same pairs, and save it."""
    out = folder / name
    if runtime.is_main:
        out.mkdir()
        if not (folder / "source").exists():
            tiny_classifier(folder / "source")
    runtime.wait()
    own = {"base": {"model": str(folder / "source")}, "lora": TINY_LORA, "tuning": tuning}
    config = planted_config(epochs=1, evaluations=1, micro_batch_tokens=BUDGET, **own)
    model, text, info = build_own_model(config, "fp32", 3)
    pairs = planted_pairs(SHORT, 1, words=4) + planted_pairs(LONG, 3, words=12)
    tracker = Tracker(out, active=runtime.is_main, bars=False)
    held_out = planted_pairs(HELD_OUT, 2)
    outcome = train_model(model, info, text, pairs, held_out, config, 1, out, tracker, runtime)
    save_own_model(model, text, out, runtime)
    finish_reward(outcome.info, out, runtime)
    facts = {"initial_loss": outcome.initial_loss, "held_out_loss": outcome.held_out_loss}
    (out / f"facts-{runtime.process_index}.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    here, group = Path(sys.argv[1]), start_runtime(zero=int(sys.argv[2]))  # pyright: ignore[reportArgumentType]
    train_role(here, group, "role")
    train_role(here, group, "ensemble", heads=3)
    if "own" in sys.argv[3:]:
        train_own(here, group, "own")
