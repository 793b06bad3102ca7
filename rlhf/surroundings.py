"""What is recorded beside an artifact and changes nothing: time, memory, hardware, versions, commit."""

import datetime
import os
import platform
import resource
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "rlhf-adapters"
RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "deepspeed",
    "datasets",
    "gradio",
    "SQLAlchemy",
)


def surroundings(seconds: float, processes: int, *, resumed: bool) -> dict[str, Any]:
    """What is recorded beside the identity: time, hardware, versions, commit."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    versions = {"python": platform.python_version(), "rlhf": _version(PACKAGE)}
    versions |= {name: _version(name) for name in RECORDED_PACKAGES}
    return {
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "resumed": resumed,
        "peak_memory_mb": round(max(own, children) / 1024, 1),
        "processes": processes,
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version for name, version in versions.items() if version},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    here = Path(__file__).parents[1]
    if not (here / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def changed_versions(recorded: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return the packages whose version is no longer the recorded one, with (recorded, current)."""
    current = {name: _version(name) for name in RECORDED_PACKAGES} | {"python": platform.python_version()}
    return {name: (old, now) for name, old in recorded.items() if (now := current.get(name)) is not None and now != old}
