"""Evenly spaced evaluations, the best state kept, and checkpoints that a killed run can trust.

Used by supervised fine-tuning and by reward training; PPO keeps checkpoints of its own.
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rlhf.disk import publish_folder
from rlhf.errors import TrainingError
from rlhf.models.adapters import read_safetensors

_STAGING, _COMPLETE, _PROGRESS, _BEST = "staging", "COMPLETE", "progress.json", "best.safetensors"
log = logging.getLogger(__name__)


def evaluation_steps(total: int, evaluations: int) -> tuple[int, ...]:
    """Return the evenly spaced steps after which to evaluate; the last step is always one of them."""
    count = min(total, evaluations)
    return tuple(math.ceil(total * number / count) for number in range(1, count + 1))


@dataclass
class Progress:
    """How far training is, and what the best held-out loss was; a checkpoint holds it."""

    stage: str
    total: int
    patience: int
    step: int = 0
    initial_loss: float | None = None
    best_loss: float = math.inf
    best_step: int = 0
    without_gain: int = 0

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return self.without_gain >= self.patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.stopped or self.step >= self.total

    def record(self, step: int, loss: float) -> bool:
        """Take in a held-out loss; return whether it is the best of a trained adapter so far.

        Raises:
            TrainingError: The loss is not finite.
        """
        if not math.isfinite(loss):
            raise TrainingError(f"the held-out loss is {loss} after {step} steps; lower {self.stage}.learning_rate")
        self.step = step
        if step == 0:
            self.initial_loss = loss
            return False
        better = loss < self.best_loss
        if better:
            self.best_loss, self.best_step = loss, step
        self.without_gain = 0 if better else self.without_gain + 1
        return better


class Checkpoints:
    """Checkpoints of one training: written in a staging folder, renamed, then marked as complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / _STAGING

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint."""
        return max((path.parent for path in self.folder.glob(f"step-*/{_COMPLETE}")), key=_step_of, default=None)

    def sweep(self) -> None:
        """Delete what a killed run left unfinished."""
        shutil.rmtree(self.staging, ignore_errors=True)
        for path in self.folder.glob("step-*"):
            if not (path / _COMPLETE).exists():
                shutil.rmtree(path)

    def publish(self, staged: Path, progress: Progress, best: Mapping[str, Tensor]) -> None:
        """Complete a staged checkpoint, move it to its final name, mark it, and delete the older ones."""
        save_file(dict(best), staged / _BEST)
        (staged / _PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
        final = self.folder / f"step-{progress.step}"
        publish_folder(staged, final)
        (final / _COMPLETE).touch()
        for path in self.folder.glob("step-*"):
            if path != final:
                shutil.rmtree(path)

    def remove(self) -> None:
        """Delete all checkpoints: training is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def restore(checkpoint: Path, progress: Progress) -> dict[str, Tensor]:
    """Set `progress` to a checkpoint's, and return the best state so far."""
    saved = json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8"))
    assert saved["total"] == progress.total, f"checkpoint of {saved['total']} steps in a training of {progress.total}"
    for name, value in saved.items():
        setattr(progress, name, value)
    log.info("%s: going on from the checkpoint at step %d of %d", progress.stage, progress.step, progress.total)
    return read_safetensors(checkpoint / _BEST)[0]


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
