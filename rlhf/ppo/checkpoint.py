"""Checkpoints between updates: written beside, synced, renamed; a folder with its final name is whole.

A checkpoint holds the roles that move, the optimiser's state gathered per parameter, the random state, and the
counters. Prompt order, episode keys and minibatch order are functions of (seed, update), so the update number is the
position of data and sampler. No pickle.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rlhf.config.fields import plain
from rlhf.config.training import PpoConfig
from rlhf.disk import publish_folder
from rlhf.errors import ArtifactError
from rlhf.hashing import hash_value
from rlhf.models.adapters import read_safetensors
from rlhf.models.roles import SharedBase
from rlhf.runtime import Runtime, TrainingEngine

FOLDER = "checkpoints"
STATE_FILE, OPTIMIZER_FILE, RANDOM_FILE = "state.json", "optimizer.safetensors", "random.safetensors"
TRAINED_ROLES = ("policy", "critic")
# Fields that may change between a stop and a resume without changing what is computed.
_FREE_FIELDS = ("checkpoint_every", "keep_checkpoints")


@dataclass
class Progress:
    """Where a run is: everything the loop remembers from one update to the next.

    Attributes:
        update: Updates done.
        optimizer_steps: Optimiser steps done.
        best_update: Update with the best validation score; -1 before the first look.
        best_score: That score.
        starts_at_reference: Whether policy and reference were equal at the start.
        base_hash: Hash of the base weights in memory at the start.
    """

    update: int = 0
    optimizer_steps: int = 0
    best_update: int = -1
    best_score: float = 0.0
    starts_at_reference: bool = False
    base_hash: str = ""


def fingerprint(config: PpoConfig, seed: int, prompts: list[str]) -> str:
    """Hash what a resumed run must share with the run that was stopped."""
    settings = {key: value for key, value in plain(config).items() if key not in _FREE_FIELDS}
    return hash_value({"config": settings, "seed": seed, "prompts": prompts})


def save_checkpoint(
    folder: Path,
    shared: SharedBase,
    engine: TrainingEngine,
    progress: Progress,
    runtime: Runtime,
    *,
    identity: str,
    keep: int,
) -> Path:
    """Publish a checkpoint, then remove the oldest ones beyond `keep`.

    All processes call this; the main one writes.
    """
    final = folder / FOLDER / f"update-{progress.update:06d}"
    partial = final.with_name(f".{final.name}.partial")
    if runtime.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    runtime.wait()
    for role in TRAINED_ROLES:
        shared.save_role(role, partial / role, write=runtime.is_main)
    optimizer = engine.state()
    if runtime.is_main:
        save_file(optimizer, partial / OPTIMIZER_FILE)
        save_file({"torch": torch.get_rng_state()}, partial / RANDOM_FILE)
        state = {"identity": identity, **asdict(progress)}
        (partial / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        assert not final.exists(), f"{final} was published before"
        publish_folder(partial, final)
        for old in find_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    runtime.wait()
    return final


def load_checkpoint(folder: Path, shared: SharedBase, engine: TrainingEngine, identity: str) -> Progress | None:
    """Restore the newest checkpoint into memory; None where there is none.

    Raises:
        ArtifactError: It is damaged, or belongs to other settings.
    """
    found = find_checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    try:
        state: dict[str, Any] = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        recorded = state.pop("identity")
        progress = Progress(**state)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{path / STATE_FILE}: damaged ({error}); delete {path} to resume from an older one"
        ) from error
    if recorded != identity:
        raise ArtifactError(
            f"{path}: made with other ppo settings, seed or prompts; put them back, or delete {path.parent} to start anew"
        )
    for role in TRAINED_ROLES:
        shared.load_role(role, path / role)
    engine.load_state(read_safetensors(path / OPTIMIZER_FILE)[0])
    torch.set_rng_state(read_safetensors(path / RANDOM_FILE)[0]["torch"])
    return progress


def find_checkpoints(folder: Path) -> list[Path]:
    """Return all published checkpoints, oldest first."""
    return sorted((folder / FOLDER).glob("update-*"))
