"""A tracker that disturbs the training that logs to it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf.tracking import Tracker


class DisturbingTracker(Tracker):
    """Does something to its training once the first metrics of a chosen step are logged."""

    def __init__(self, folder: Path, chosen: int, disturb: Callable[[], None], *, active: bool = True) -> None:
        super().__init__(folder, active=active, bars=False)
        self._chosen = chosen
        self._disturb = disturb

    def log(self, step: int, metrics: Any) -> None:
        """Log, and disturb at the chosen step."""
        super().log(step, metrics)
        if step == self._chosen:
            self._chosen = -1
            self._disturb()


def die() -> None:
    """End the training as a kill between two steps would."""
    raise KeyboardInterrupt


def terminate() -> None:
    """Send SIGTERM to this process."""
    os.kill(os.getpid(), signal.SIGTERM)
