"""A folder gets its final name only after everything in it is on the disk: what has the name is whole.

What the operating system refuses is told with its remedy.
"""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from rlhf.errors import ResourceError


def publish_folder(partial: Path, final: Path) -> None:
    """Sync every file of a finished folder, and give it its final name."""
    sync_tree(partial)
    rename_folder(partial, final)


def rename_folder(partial: Path, final: Path) -> None:
    """Give a synced folder its final name, and sync the parent that holds it."""
    partial.rename(final)
    _sync(final.parent)


def sync_tree(folder: Path) -> None:
    """Write a folder, all files and folders in it included, through to the disk."""
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Generator[None]:
    """Turn the operating system's refusals into one message with the remedy."""
    try:
        yield
    except PermissionError as error:
        raise ResourceError(
            f"{error.filename or path}: no permission to write; choose another `run:` folder"
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise ResourceError(f"{error.filename or path}: a file stands where a folder is needed") from error
