"""Numbers and progress of a stage: metrics.jsonl, bars, optional trackers.

One JSON object per line, with `step` first and slash names that carry their unit (`ppo/kl_nats`,
`time/rollout_s`). Names under `time/` and `memory/` describe the machine, all others the result.
"""

import importlib.util
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

from rlhf.errors import ConfigError

METRICS_FILE = "metrics.jsonl"
LOG_FILE_PAUSE_S = 20.0
log = logging.getLogger(__name__)
# Whoever imports it hears of a kernel for 4-bit weights on CPUs that could be installed, once in every process.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class Sink(Protocol):
    """Where numbers go besides the file: accelerate's trackers have this method."""

    def log(self, values: dict[str, float], *, step: int) -> None:
        """Store the values of one step."""
        ...


class Replayed:
    """A tracker that begins empty with every attempt and is told all kept numbers again: no gap, no double."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def log(self, values: dict[str, float], *, step: int) -> None:
        """Store the values of one step."""
        self._sink.log(values, step=step)


class Bar:
    """A progress bar that shows what matters beside the count; silent where bars are off."""

    def __init__(self, bar: Any | None) -> None:
        self._bar = bar

    def update(self, count: int = 1, **shown: float | str) -> None:
        """Advance by `count` and show the given values."""
        if self._bar is None:
            return
        if shown:
            texts = {name: value if isinstance(value, str) else f"{value:.3g}" for name, value in shown.items()}
            self._bar.set_postfix(texts, refresh=False)
        self._bar.update(count)


class Tracker:
    """Writes the numbers of one stage; only the main process holds an active one."""

    def __init__(self, folder: Path, *, active: bool = True, bars: bool = True, sinks: Sequence[Sink] = ()) -> None:
        """Take `sinks` that were just opened; what they are told twice they must bear, or begin empty (`Replayed`)."""
        self.path = folder / METRICS_FILE
        self._active = active
        self._bars = bars and active
        self._sinks = sinks

    @classmethod
    def silent(cls) -> Self:
        """Return a tracker that writes nothing, for helper processes and tests."""
        return cls(Path(os.devnull).parent, active=False, bars=False)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line of numbers."""
        if not self._active:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for sink in self._sinks:
            sink.log(dict(metrics), step=step)

    def rewind(self, step: int) -> None:
        """Drop all lines after `step`, and a torn last line: a resumed run leaves no gap and no double."""
        if not self._active or not self.path.exists():
            return
        kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= step]
        replacement = self.path.with_suffix(".tmp")
        replacement.write_text("".join(kept), encoding="utf-8")
        replacement.replace(self.path)
        for sink in self._sinks:
            if isinstance(sink, Replayed):
                for line in kept:
                    values = json.loads(line)
                    sink.log(values, step=values.pop("step"))

    @contextmanager
    def progress(self, total: int, label: str) -> Iterator[Bar]:
        """Show a bar for `total` units of work."""
        if not self._bars:
            yield Bar(None)
            return
        from tqdm.auto import tqdm

        pause = 0.5 if sys.stderr.isatty() else LOG_FILE_PAUSE_S
        with tqdm(total=total, desc=label, dynamic_ncols=True, mininterval=pause, maxinterval=pause) as bar:
            yield Bar(bar)


def open_sinks(names: Sequence[str], folder: Path, run_name: str, attempt: str) -> list[Sink]:
    """Start the configured experiment trackers, through accelerate.

    TensorBoard's files are written anew with every start and told everything that a resumed stage keeps. The others go on
    with the run of the same id: W&B leaves out steps that it has.

    Args:
        names: `tensorboard`, `wandb` or `trackio`.
        folder: Where trackers that write files put them.
        run_name: What the run is called there.
        attempt: What a resumed stage has in common with what it resumes, and with nothing else.

    Raises:
        ConfigError: A tracker is not installed.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"tracking.trackers names {missing[0]}, which is not installed; pip install {missing[0]}")
    if not names:
        return []
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()
    sinks: list[Sink] = []
    for name in names:
        kind = LOGGER_TYPE_TO_CLASS[name]
        if kind.requires_logging_directory:
            shutil.rmtree(folder / run_name, ignore_errors=True)
            sink: Any = kind(run_name, logging_dir=folder)
            sinks.append(Replayed(sink))
        else:
            identity = "id" if name == "wandb" else "name"
            sink = kind(run_name, resume="allow", **{identity: f"{run_name}-{attempt}"})
            sinks.append(sink)
        sink.start()
    return sinks


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return all whole lines of a metrics file; an absent file has none."""
    return [json.loads(line) for line in _whole_lines(path)] if path.exists() else []


def _whole_lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")]


def configure_logging(*, verbose: bool = False, main_process: bool = True) -> None:
    """Send log lines of the main process to standard error, warnings only from other libraries."""
    level = (logging.DEBUG if verbose else logging.INFO) if main_process else logging.ERROR
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in ("rlhf", "stages", "__main__"):
        logging.getLogger(name).setLevel(level)
