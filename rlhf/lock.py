"""Who works in a run folder: one run at a time, with the processes it started."""

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path

from rlhf.disk import clear_os_errors
from rlhf.errors import RunLockedError

LOCK_FILE, LOCK_VARIABLE = ".lock", "RLHF_RUN_LOCK"
locks_held: list[int] = []
"""Open files of the locks that this process holds. A child that has them too holds on after its parent was killed."""


@contextlib.contextmanager
def hold(root: Path) -> Generator[None]:
    """Keep every other run out of a folder; processes started by the holder pass, and keep it locked with him.

    Raises:
        RunLockedError: Another process holds it.
        ResourceError: The folder cannot be written.
    """
    with clear_os_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    path = root / LOCK_FILE
    name = str(path.resolve())
    if os.environ.get(LOCK_VARIABLE) == name:
        yield
        return
    with clear_os_errors(path), path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise RunLockedError(f"{root} is in use by process {holder}; wait for it, or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        os.environ[LOCK_VARIABLE] = name
        locks_held.append(file.fileno())
        try:
            yield
        finally:
            locks_held.remove(file.fileno())
            del os.environ[LOCK_VARIABLE]


def find_holder(root: Path) -> str | None:
    """Return the number of the process that works in a folder, or None."""
    path = root / LOCK_FILE
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None
