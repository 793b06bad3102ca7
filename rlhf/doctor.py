"""`rlhf doctor`: what is installed, which device there is, and what will work."""

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

NEEDED_FOR = {
    "labeling and import": ("gradio", "SQLAlchemy", "pydantic"),
    "training": ("torch", "transformers", "trl", "peft", "accelerate", "datasets"),
    "several GPUs": ("deepspeed",),
    "4-bit bases": ("bitsandbytes",),
    "PostgreSQL": ("psycopg",),
}
OPTIONAL = ("several GPUs", "4-bit bases", "PostgreSQL")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis; `ok` is None where it is only information."""

    ok: bool | None
    what: str
    remedy: str = ""


def diagnose() -> Iterator[Finding]:
    """Yield what was found, cheap checks first; imports torch only if it is installed."""
    yield Finding(
        None, f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    yield from _packages()
    if importlib.util.find_spec("torch"):
        yield from _devices()
    yield _compiler()
    yield _browser()
    yield _disk()


def _packages() -> Iterator[Finding]:
    extras = {"training": "train", "several GPUs": "deepspeed", "4-bit bases": "4bit", "PostgreSQL": "postgres"}
    for purpose, names in NEEDED_FOR.items():
        missing = [name for name in names if _installed(name) is None]
        versions = ", ".join(f"{name} {_installed(name)}" for name in names if _installed(name))
        remedy = f"pip install 'rlhf-adapters[{extras[purpose]}]'" if missing and purpose in extras else ""
        lacking = f"missing {', '.join(missing)}" if missing else ""
        yield Finding(
            None if missing and purpose in OPTIONAL else not missing,
            f"{purpose}: {'; '.join(part for part in (versions, lacking) if part)}",
            remedy,
        )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield Finding(True, f"GPU {index}: {card.name}, {card.total_memory / 2**30:.0f} GiB")
        yield Finding(torch.cuda.is_bf16_supported(), "bf16 on the GPU", "use precision: fp32")
        return
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    yield Finding(None, "no GPU: everything runs on the CPU; the quickstart is made for that, real models are not")
    yield Finding(
        None,
        "the CPU computes bf16 natively"
        if "avx512_bf16" in flags
        else "the CPU has no bf16 instructions: keep precision fp32",
    )


def _compiler() -> Finding:
    found = shutil.which("c++") or shutil.which("g++")
    return Finding(
        found is not None,
        "C++ compiler for DeepSpeed",
        "" if found else "install g++ (Debian: apt-get install build-essential)",
    )


def _browser() -> Finding:
    found = next(
        (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None
    )
    if found is None:
        return Finding(None, "no Chromium: the browser tests are skipped", "Debian: apt-get install chromium")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Finding(True, f"browser for tests: {version or found}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding(free > 2, f"{free:.0f} GiB free here", "the quickstart needs about 1 GiB" if free <= 2 else "")
