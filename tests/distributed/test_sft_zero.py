"""Supervised fine-tuning on two processes, plain and under each ZeRO stage, learns what one process learns.

A launch is dear, so each does all jobs of `sft_program` one after another, and the tests look at what lies on the disk.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf.tracking import read_metrics
from tests.distributed.group import run_group

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
ENGINES = {
    0: ["DistributedDataParallel"],
    1: ["DeepSpeedEngine", "offloads to cpu"],
    2: ["DeepSpeedEngine", "offloads to none"],
    3: ["DeepSpeedEngine", "offloads to none"],
}
JOBS = {
    0: ("straight", "killed", "resumed", "stopped", "continued"),
    1: ("straight",),
    2: ("straight", "killed", "resumed"),
    3: ("bf16", "straight", "killed", "resumed", "recomputed", "stopped", "continued"),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    _run(folder, 1, "0", "bf16", "straight", "recomputed")
    return folder


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory, alone: Path) -> Callable[[int], Path]:
    """Return what launches two processes under a ZeRO stage, each stage once."""

    @cache
    def launched(zero: int) -> Path:
        folder = tmp_path_factory.mktemp(f"zero{zero}")
        shutil.copytree(alone / "base", folder / "base")
        _run(folder, 2, "1:optimizer" if zero == 1 else str(zero), *JOBS[zero])
        return folder

    return launched


@pytest.mark.parametrize(
    ("zero", "job"), [(0, "straight"), (1, "straight"), (2, "straight"), (3, "straight"), (3, "recomputed")]
)
def test_two_processes_learn_what_one_does(launch: Callable[[int], Path], alone: Path, zero: int, job: str) -> None:
    """Three steps an epoch, the last one of a single row: the second process has none, and learns from none twice."""
    found, expected = launch(zero) / job, alone / job
    one = _facts(expected, 0)
    for process in (0, 1):
        facts = _facts(found, process)
        assert facts.pop("engines") == ENGINES[zero]
        for name, value in facts.items():
            assert value == pytest.approx(one[name], abs=1e-4) if isinstance(value, float) else value == one[name], name
    ours, theirs = read_metrics(found / "metrics.jsonl"), read_metrics(expected / "metrics.jsonl")
    assert len(ours) == len(theirs) == 6 + 3
    for left, right in zip(ours, theirs, strict=True):
        assert left == pytest.approx(right, abs=1e-4)
    _require_close(found, expected, 1e-4)


def test_a_base_in_bf16_is_trained_as_it_is(launch: Callable[[int], Path], alone: Path) -> None:
    found, expected = (_facts(folder / "bf16", 0)["held_out_loss"] for folder in (launch(3), alone))
    assert found == pytest.approx(expected, abs=0.01)
    assert expected != pytest.approx(_facts(alone / "straight", 0)["held_out_loss"], abs=1e-5)
    assert {tensor.dtype for tensor in load_file(launch(3) / "bf16/adapter_model.safetensors").values()} == {
        torch.float32
    }


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_adapter(
    launch: Callable[[int], Path], zero: int
) -> None:
    folder = launch(zero)
    assert (folder / "killed/.checkpoints/step-3/COMPLETE").is_file()
    assert not (folder / "killed/adapter_model.safetensors").exists()
    assert list((folder / "killed/.checkpoints").glob("step-3/global_step3/*")) or not zero
    assert _facts(folder / "resumed", 0) == _facts(folder / "straight", 0)
    _require_close(folder / "resumed", folder / "straight", 0)
    files = {path.name for path in (folder / "resumed").iterdir()} - {"facts-0.json", "facts-1.json"}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"}


@pytest.mark.parametrize("zero", [0, 3])
def test_a_signal_to_one_process_stops_all_after_the_same_step(launch: Callable[[int], Path], zero: int) -> None:
    folder = launch(zero)
    assert [path.parent.name for path in (folder / "stopped").glob(".checkpoints/*/COMPLETE")] == ["step-5"]
    assert _facts(folder / "continued", 1) == _facts(folder / "straight", 1)
    _require_close(folder / "continued", folder / "straight", 0)


def test_a_checkpoint_of_other_shards_is_refused(launch: Callable[[int], Path], tmp_path: Path) -> None:
    shutil.copytree(launch(3) / "base", tmp_path / "base")
    shutil.copytree(launch(3) / "killed", tmp_path / "straight")
    well, told = _start(tmp_path, 1, "0", "straight")
    assert not well
    assert "the checkpoint is of 2 processes under ZeRO-3, this is processes without ZeRO" in told


def _facts(folder: Path, process: int) -> dict[str, Any]:
    return json.loads((folder / f"facts-{process}.json").read_text(encoding="utf-8"))


def _require_close(found: Path, expected: Path, tolerance: float) -> None:
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], atol=tolerance, rtol=tolerance)


def _run(folder: Path, processes: int, zero: str, *jobs: str) -> None:
    well, told = _start(folder, processes, zero, *jobs)
    assert well, told[-3000:]


def _start(folder: Path, processes: int, zero: str, *jobs: str) -> tuple[bool, str]:
    launched = processes if processes > 1 else None
    return run_group("tests.distributed.sft_program", str(folder), zero, *jobs, processes=launched)
