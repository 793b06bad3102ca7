"""Reward training with a token budget on two processes, plain and under each ZeRO stage, learns what one process learns."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.group import run_group

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
FILES = ("adapter_model.safetensors", "head.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    _run(folder, 1, 0, "own")
    return folder


@pytest.fixture(scope="module", params=[0, 2, 3], ids="zero{}".format)
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, alone: Path) -> Path:
    """Two processes; under ZeRO-3 a model that learns as a whole has nothing to share out."""
    folder = tmp_path_factory.mktemp(f"zero{request.param}")
    shutil.copytree(alone / "base", folder / "base")
    shutil.copytree(alone / "source", folder / "source")
    _run(folder, 2, request.param, *(["own"] if request.param < 3 else []))
    return folder


@pytest.mark.parametrize("job", ["role", "ensemble"])
def test_two_processes_learn_what_one_does_in_equally_many_passes(alone: Path, several: Path, job: str) -> None:
    first, second = (_facts(several, job, process) for process in (0, 1))
    assert first["passes"] == second["passes"]
    # A budget that cuts one process's steps cuts those of two into about half as many passes each.
    one = _facts(alone, job, 0)
    assert len(one["passes"]) > len(first["passes"]) >= len(one["passes"]) / 2
    for facts in (first, second):
        for name in ("initial_loss", "held_out_loss"):
            assert facts[name] == pytest.approx(one[name], abs=1e-4)
    for name in FILES:
        ours, theirs = load_file(several / job / name), load_file(alone / job / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[key], atol=1e-4, rtol=1e-4)


def test_a_model_with_a_base_of_its_own_learns_as_a_whole_as_in_one_process(alone: Path, several: Path) -> None:
    if not (several / "own").exists():
        assert several.name.startswith("zero3")
        return
    one = _facts(alone, "own", 0)
    for process in (0, 1):
        assert _facts(several, "own", process) == pytest.approx(one, abs=1e-4)
    before, theirs, ours = (
        load_file(folder / "model.safetensors") for folder in (alone / "source", alone / "own", several / "own")
    )
    assert ours.keys() == theirs.keys() == before.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], atol=1e-4, rtol=1e-4)
    assert all(not torch.equal(tensor, before[key]) for key, tensor in ours.items())


def _facts(folder: Path, name: str, process: int) -> dict[str, Any]:
    return json.loads((folder / name / f"facts-{process}.json").read_text(encoding="utf-8"))


def _run(folder: Path, processes: int, zero: int, *more: str) -> None:
    launched = processes if processes > 1 or zero else None
    well, told = run_group("tests.distributed.reward_program", str(folder), str(zero), *more, processes=launched)
    assert well, told[-3000:]
