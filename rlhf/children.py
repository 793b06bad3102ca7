"""Stages as child processes: by their command line, or forked from a server that has imported the libraries once.

Importing torch, transformers, peft and trl takes about as long as the work of a small stage, and `rlhf run` starts ten.
The server does nothing but import, so that a child differs from a fresh interpreter in its start-up time alone. On a
machine with a GPU every stage gets an interpreter of its own: a library that looks for devices while it is imported
would leave CUDA unusable in forked children, and stages take longer there.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver, reduction, resource_tracker
from pathlib import Path
from typing import Any

from rlhf.entry import ask_for_parents_death
from rlhf.launch import has_gpu, launch_environment
from rlhf.lock import locks_held

PASSED_ON = (signal.SIGTERM, signal.SIGINT)


def run_child(line: Sequence[str]) -> int:
    """Run a command; pass SIGTERM and SIGINT on to it and return its exit code."""
    with _passing_on() as signals:
        process = subprocess.Popen(
            line,
            env=launch_environment(),
            pass_fds=locks_held,
            # As `_end_with_parent`; a child of the server has the server for a parent.
            preexec_fn=partial(ask_for_parents_death, signal.SIGTERM),
        )
        signals.pass_to(process.send_signal)
        code = process.wait()
    return signals.code_of(code)


def run_module(module: str, arguments: Sequence[str], preload: Sequence[str]) -> int:
    """Run `python -m MODULE ARGUMENTS`, from the server where there is one; signals and exit code as in `run_child`.

    Args:
        module: What runs.
        arguments: Its command line.
        preload: Modules that the server imports before its first child; later calls find it running.
    """
    line = [sys.executable, "-m", module, *arguments]
    if sys.platform != "linux" or has_gpu():
        return run_child(line)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    process = context.Process(target=_run_as_main, args=(module, list(arguments), _Place()))
    with _passing_on() as signals:
        try:
            _start_server()
            process.start()
        except OSError:  # no room for the server's socket in the folder of temporary files, or a path too long for one
            return run_child(line)
        signals.pass_to(lambda number: os.kill(process.pid or 0, number) if process.is_alive() else None)
        process.join()
    return signals.code_of(process.exitcode or 0)


def _start_server() -> None:
    """Start the server deaf to what ends its children: a terminal and a service manager signal whole groups."""
    resource_tracker.ensure_running()  # the server's start would do it, and unblock the signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Place:
    """Environment, streams and locks of the process that pickles this, taken over where it is read.

    The server keeps those of its own start; multiprocessing itself carries the working folder.
    """

    def __getstate__(self) -> tuple[dict[str, str], list[Any]]:
        sys.stdout.flush()
        sys.stderr.flush()
        return launch_environment(), [reduction.DupFd(number) for number in (1, 2, *locks_held)]

    def __setstate__(self, carried: tuple[dict[str, str], list[Any]]) -> None:
        environment, files = carried
        os.environ.clear()
        os.environ.update(environment)
        descriptors = [file.detach() for file in files]  # those of locks stay open as they are
        for number, descriptor in zip((1, 2), descriptors, strict=False):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _run_as_main(module: str, arguments: list[str], place: _Place) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `guarded` can tell it in one message
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)  # the server's mask
    threading.Thread(target=_end_with_parent, daemon=True).start()
    Path("/proc/self/comm").write_text(module)  # what `ps` and `top` call it
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # it runs under the name __main__, and runpy warns of a second copy
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # A child of multiprocessing leaves without them; trackers finish their work there.
        atexit._run_exitfuncs()


def _end_with_parent() -> None:
    """Send this process SIGTERM when `rlhf run` is gone, so that the stage checkpoints and ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class _Signals:
    """What arrived for a child, also before there was one."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._send: Callable[[int], object] | None = None

    def note(self, number: int, frame: object) -> None:
        """Take a signal, and pass it on where there is a child."""
        self.received.append(number)
        if self._send is not None:
            self._send(number)

    def pass_to(self, send: Callable[[int], object]) -> None:
        """Name the child; what came earlier reaches it now."""
        self._send = send
        for number in self.received:
            send(number)

    def code_of(self, code: int) -> int:
        """Return the exit code: that of the signal where the child ended well in spite of it."""
        return code if not self.received or code else 128 + self.received[0]


@contextmanager
def _passing_on() -> Generator[_Signals]:
    signals = _Signals()
    before = {number: signal.signal(number, signals.note) for number in PASSED_ON}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
