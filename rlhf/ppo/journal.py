"""What a PPO run writes beside its numbers: sample texts, a batch that went wrong, and the time each part took."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.ppo.optimise import Targets
from rlhf.ppo.rollout import Rollout

SAMPLES_FILE = "samples.jsonl"


def append_samples(folder: Path, update: int, rows: Sequence[dict[str, Any]]) -> None:
    """Add sample texts of an update to the run's file."""
    with (folder / SAMPLES_FILE).open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({"update": update, **row}, ensure_ascii=False) + "\n")


def rewind_samples(folder: Path, update: int) -> None:
    """Drop sample rows after an update, and a torn last line."""
    path = folder / SAMPLES_FILE
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        lines = [line for line in file if line.endswith("\n")]
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(line for line in lines if json.loads(line)["update"] <= update), encoding="utf-8")
    partial.replace(path)


def dump_batch(path: Path, rollout: Rollout, targets: Targets) -> None:
    """Write every episode of a batch, token by token, for the person who looks for the fault."""
    columns = {
        "logprobs": rollout.logprobs,
        "reference_logprobs": rollout.reference_logprobs,
        "values": rollout.values,
        "rewards": targets.rewards,
        "advantages": targets.advantages,
        "returns": targets.returns,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row, ids in enumerate(rollout.sequences):
            mask = rollout.response_mask[row]
            facts = {"ids": ids, "prompt_tokens": rollout.prompt_lengths[row], "score": float(rollout.scores[row])}
            tokens = {name: tensor[row][mask].tolist() for name, tensor in columns.items()}
            file.write(json.dumps(facts | tokens) + "\n")


class Clock:
    """Seconds spent in the named parts of an update."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a part."""
        start = time.perf_counter()
        yield
        self._parts[f"time/{name}_s"] = time.perf_counter() - start

    def total(self) -> float:
        """Return the seconds since the clock was made."""
        return time.perf_counter() - self._start

    def numbers(self) -> dict[str, float]:
        """Return the parts and the total, as metrics."""
        return {**self._parts, "time/update_s": self.total()}
