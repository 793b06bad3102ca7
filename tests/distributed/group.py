"""A group of processes as a launcher starts them, forked from a server that has imported the libraries once.

Imports take longer than most of what these tests do. The launcher itself is under test in test_launcher.py and in
tests/pipeline.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf.children import _start_server
from rlhf.launch import has_gpu

PROGRAMS = tuple(f"tests.distributed.{name}_program" for name in ("sft", "reward", "ppo"))
PATIENCE = 500


def run_group(
    module: str, *arguments: str, processes: int | None = None, environment: Mapping[str, str] | None = None
) -> tuple[bool, str]:
    """Run `python -m MODULE ARGUMENTS` in each of some processes.

    Args:
        module: What runs.
        arguments: Its command line.
        processes: How many; None is one that nobody launched.
        environment: What to add to this process's environment.

    Returns: Whether all ended well, and what they wrote to standard error.
    """
    context = multiprocessing.get_context("forkserver")
    # Libraries that look for a GPU while they are imported must not be forked.
    context.set_forkserver_preload([] if has_gpu() else [*PROGRAMS, "deepspeed"])
    _start_server()
    with TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        members: list[Any] = []
        try:
            for rank in range(processes or 1):
                told = Path(folder, f"{rank}.txt")
                own = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **(environment or {})}
                if processes is not None:
                    own |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    own |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
                member = context.Process(target=_run, args=(module, arguments, own, told))
                member.start()
                members.append(member)
            ended_well = _wait(members)
        finally:
            for member in members:
                member.kill()
                member.join()
        return ended_well, "".join(path.read_text(errors="replace") for path in sorted(Path(folder).iterdir()))


def _wait(members: list[Any]) -> bool:
    """Wait until all have ended or one has failed."""
    deadline = time.monotonic() + PATIENCE
    while any(member.is_alive() for member in members) and not any(member.exitcode for member in members):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return all(member.exitcode == 0 for member in members)


def _run(module: str, arguments: tuple[str, ...], environment: dict[str, str], told: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with told.open("wb") as file:
        os.dup2(file.fileno(), 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
