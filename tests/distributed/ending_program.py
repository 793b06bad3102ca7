"""Processes that end in a chosen way: what the second of them does, then a collective that the first waits in."""

import errno
import os
import signal
import sys
import time
from importlib import metadata
from pathlib import Path

from rlhf.config.recipe import Config
from rlhf.entry import guarded
from rlhf.errors import DataError
from rlhf.runtime import Runtime, start_runtime

LIMIT_MINUTES = 0.1


def act(ending: str) -> None:
    """End as asked: `error`, `same-error`, `killed`, `killed-beside-a-sleeper`, `bug`, `hang`, `other-recipe`, `no-trl`, `stop`, `stop-full`, or well."""
    runtime = start_runtime(timeout_minutes=LIMIT_MINUTES)
    runtime.wait()
    if ending == "same-error" or (ending == "error" and not runtime.is_main):
        raise DataError(f"pairs.jsonl line 41 is no pair, says the process on {os.environ['WORLD_SIZE']}")
    if ending.startswith("stop"):
        _stop(runtime, full=ending == "stop-full")
    if not runtime.is_main:
        _end(ending)
    elif ending == "killed-beside-a-sleeper":
        time.sleep(120)
    run = "other" if ending == "other-recipe" and not runtime.is_main else "same"
    runtime.require_same(Config(run=Path(run)), "weights")
    _count(runtime)


def _end(ending: str) -> None:
    if ending.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "bug":
        raise AssertionError("ours to mend")
    if ending == "hang":
        time.sleep(120)
    if ending == "no-trl":
        metadata.version = _version_without_trl


def _version_without_trl(name: str) -> str:
    if name == "trl":
        raise metadata.PackageNotFoundError(name)
    return metadata.distribution(name).version


def _stop(runtime: Runtime, *, full: bool) -> None:
    """Work until a signal comes, then take a while to keep what was done, on a disk that may be full."""
    with runtime.noticing_signals():
        _say("ready")
        while not runtime.stop_requested:
            time.sleep(0.02)
        time.sleep(1.5)
        runtime.wait()
        if full:
            raise OSError(errno.ENOSPC, "No space left on device", "checkpoint")
        _say("kept")
    raise runtime.stopped("stopped")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _count(runtime: Runtime) -> None:
    sys.stdout.write(f"rank {runtime.process_index} of {len(runtime.gather([runtime.process_index]))}\n")


if __name__ == "__main__":
    if sys.argv[1] == "early":  # a signal finds it before it can say anything
        _say("ready")
        time.sleep(60)
    sys.exit(guarded(lambda: act(sys.argv[1])))
