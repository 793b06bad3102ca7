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
from rlhf.engine import TrainingEngine
from rlhf.errors import ArtifactError
from rlhf.hashing import hash_value
from rlhf.models.adapters import read_safetensors
from rlhf.models.roles import SharedBase
from rlhf.runtime import Runtime

FOLDER = "checkpoints"
STATE_FILE, OPTIMIZER_FILE, RANDOM_FILE = "state.json", "optimizer.safetensors", "random.safetensors"
BEST_FOLDER, LAST_GOOD_FILE = "best", "last-good"
# Fields that may change between a stop and a resume without changing what is computed.
_FREE_FIELDS = ("checkpoint_every", "keep_checkpoints")


@dataclass
class Progress:
    """Where a run is: everything the loop remembers from one update to the next.

    Attributes:
        update: Updates done.
        optimizer_steps: Optimiser steps done.
        best_update: Update with the best validation score within the bound on KL; -1 before there is one.
        best_score: That score.
        kl_coef: Coefficient of the next update.
        first_length: Mean response length of the first batch, in tokens.
        first_eos_rate: Share of the first batch's responses that ended by themselves.
        bad_in_a_row: Bad batches since the last good one.
        bad_batches: Bad batches in all.
        starts_at_reference: Whether policy and reference were equal at the start.
        base_hash: Hash of the base weights in memory at the start.
    """

    update: int = 0
    optimizer_steps: int = 0
    best_update: int = -1
    best_score: float = 0.0
    kl_coef: float = 0.0
    first_length: float = 0.0
    first_eos_rate: float = 0.0
    bad_in_a_row: int = 0
    bad_batches: int = 0
    starts_at_reference: bool = False
    base_hash: str = ""


def fingerprint(config: PpoConfig, seed: int, prompts: list[str], score_identity: str | None = None) -> str:
    """Hash what a resumed run must share with the run that was stopped; `score_identity` is None for the reward alone."""
    settings = {key: value for key, value in plain(config).items() if key not in _FREE_FIELDS}
    scored = {} if score_identity is None else {"score": score_identity}
    return hash_value({"config": settings, "seed": seed, "prompts": prompts, **scored})


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
    for role in trained_roles(shared):
        shared.save_role(role, partial / role, write=runtime.is_main)
    optimizer = engine.state()
    random = runtime.gather([random_state()])
    if runtime.is_main:
        save_file(optimizer, partial / OPTIMIZER_FILE)
        save_file(
            {f"{rank}.{name}": state for rank, found in enumerate(random) for name, state in found.items()},
            partial / RANDOM_FILE,
        )
        state = {"identity": identity, **asdict(progress)}
        (partial / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        assert not final.exists(), f"{final} was published before"
        publish_folder(partial, final)
        good = last_good_checkpoint(folder)
        for old in find_checkpoints(folder)[:-keep]:
            if old != good:
                shutil.rmtree(old)
    runtime.wait()
    return final


def load_checkpoint(
    folder: Path, shared: SharedBase, engine: TrainingEngine, identity: str, rank: int = 0
) -> Progress | None:
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
            f"{path}: made with other ppo settings, seed, prompts or score sources; put them back, or delete {path.parent} to start anew"
        )
    for role in trained_roles(shared):
        shared.load_role(role, path / role)
    engine.load_state(read_safetensors(path / OPTIMIZER_FILE)[0])
    restore_random_state(read_safetensors(path / RANDOM_FILE)[0], rank)
    return progress


def find_checkpoints(folder: Path) -> list[Path]:
    """Return all published checkpoints, oldest first."""
    return sorted((folder / FOLDER).glob("update-*"))


def mark_good(folder: Path, update: int) -> None:
    """Note that the policy after an update sampled a good batch, where a checkpoint of it exists."""
    name = f"update-{update:06d}"
    if not (folder / FOLDER / name).is_dir():
        return
    unfinished = folder / FOLDER / f".{LAST_GOOD_FILE}.tmp"
    unfinished.write_text(name, encoding="utf-8")
    unfinished.replace(folder / FOLDER / LAST_GOOD_FILE)


def last_good_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose policy is known to have sampled a good batch."""
    pointer = folder / FOLDER / LAST_GOOD_FILE
    named = folder / FOLDER / pointer.read_text(encoding="utf-8") if pointer.is_file() else None
    return named if named is not None and named.is_dir() else None


def save_best(folder: Path, shared: SharedBase, runtime: Runtime) -> None:
    """Write the policy as the best one so far, in place of the one before.

    A crash in between is harmless: the resumed run comes to the same look at the validation prompts and writes again.
    """
    partial, final = folder / f".{BEST_FOLDER}.partial", folder / BEST_FOLDER
    if runtime.is_main:
        shutil.rmtree(partial, ignore_errors=True)
    runtime.wait()
    shared.save_role("policy", partial, write=runtime.is_main)
    if runtime.is_main:
        shutil.rmtree(final, ignore_errors=True)
        publish_folder(partial, final)
    runtime.wait()


def trained_roles(shared: SharedBase) -> list[str]:
    """Return the roles that training moves: the policy, and the critic where there is one."""
    return [role for role in ("policy", "critic") if role in shared.adapter_of]


def random_state() -> dict[str, torch.Tensor]:
    """Return the state of this process's generators, from which a scorer may draw."""
    devices = {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return {"cpu": torch.get_rng_state(), **devices}


def restore_random_state(states: dict[str, torch.Tensor], rank: int) -> None:
    """Put a process's generators back; a process that the run did not have before keeps its fresh ones."""
    if (cpu := states.get(f"{rank}.cpu")) is not None:
        torch.set_rng_state(cpu)
    for index in range(torch.cuda.device_count()):
        if (state := states.get(f"{rank}.cuda{index}")) is not None:
            torch.cuda.set_rng_state(state, index)
