"""Train the tiny PPO task under a launcher: folder, ZeRO stage, number of updates."""

import sys
from pathlib import Path

from torch import Tensor

from rlhf.config.training import PpoConfig
from rlhf.models.roles import build_shared_base
from rlhf.ppo.loop import train_ppo
from rlhf.runtime import start_runtime
from rlhf.tracking import Tracker
from tests.tiny import tiny_base, tiny_roles
from tests.unit.ppo.world import TINY, even_share, prompts


def main(folder: Path, zero: int, updates: int) -> None:
    """Train; one minibatch per epoch, so that every number of processes takes the same steps."""
    runtime = start_runtime(zero=zero)  # pyright: ignore[reportArgumentType]
    config = PpoConfig(**{**TINY, "minibatch_size": TINY["batch_size"], "updates": 3, "checkpoint_every": 1})
    base = tiny_base(folder, scale=3.0)
    shared = build_shared_base(base, tiny_roles())
    out = folder / "ppo"
    tracker = Tracker(out, active=runtime.is_main, bars=False)

    calls: list[int] = []

    def score(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
        calls.append(1)
        assert len(calls) <= updates + 1, "stopped on purpose"  # one call is the look at the validation prompts
        return even_share(prompt_ids, response_ids)

    train_ppo(shared, base.text, prompts(), prompts(4), score, config, 1, out, tracker, runtime)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
