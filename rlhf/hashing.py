"""Content hashes: of values, files, and folders, with a cache so that large files are read once."""

import hashlib
import json
from pathlib import Path
from typing import Any

from rlhf.errors import DataError

_CHUNK = 1 << 20


def hash_value(value: Any) -> str:
    """Return the SHA-256 of a plain value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def list_files(folder: Path) -> list[Path]:
    """Return all files below a folder, hidden ones left out, in a fixed order."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return sorted(visible, key=lambda path: path.relative_to(folder).as_posix())


class HashCache:
    """Hashes of outside files, remembered by path, size and modification time.

    The memory is an optimisation only: a lost or damaged cache file is computed anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self._loaded = False

    def hash_source(self, source: Path) -> str:
        """Return the hash of a file, or of a folder's files and their names.

        Raises:
            DataError: The path does not exist, or the system refuses to read it.
        """
        try:
            if source.is_file():
                return self._hash_one(source)
            if not source.is_dir():
                raise DataError(f"{source}: no such file or folder")
            files = list_files(source)
            return hash_value({path.relative_to(source).as_posix(): self._hash_one(path) for path in files})
        except OSError as error:
            raise DataError(
                f"{error.filename or source}: cannot be read ({error.strerror}); name another file"
            ) from error

    def _hash_one(self, path: Path) -> str:
        self._load()
        state = path.stat()
        key, stamp = str(path.resolve()), [state.st_size, state.st_mtime_ns]
        known = self._known.get(key)
        if known is not None and known[:2] == stamp:
            return known[2]
        digest = hash_file(path)
        self._known[key] = [*stamp, digest]
        self._save()
        return digest

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            self._known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def _save(self) -> None:
        if self._path.parent.is_dir():
            replacement = self._path.with_suffix(".tmp")
            replacement.write_text(json.dumps(self._known), encoding="utf-8")
            replacement.replace(self._path)


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a seed for one purpose, so that two purposes never draw the same numbers."""
    return int(hash_value([seed, *names])[:12], 16)
