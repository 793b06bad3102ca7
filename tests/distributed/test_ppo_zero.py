"""PPO on two processes, plain and under ZeRO-2, gives the numbers of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.tracking import read_metrics
from tests.tiny import tiny_base

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
COMPARED = (
    "ppo/score_mean",
    "ppo/kl_nats",
    "ppo/policy_loss",
    "ppo/value_loss",
    "ppo/explained_variance",
    "ppo/grad_norm",
    "ppo/ratio_first",
    "validation/score_mean",
)


def _run(folder: Path, processes: int, zero: int, updates: int = 99) -> subprocess.CompletedProcess[str]:
    tiny_base(folder, scale=3.0)
    (folder / "ppo").mkdir(exist_ok=True)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    program = ["tests.distributed.ppo_program", str(folder), str(zero), str(updates)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", *(launcher if processes > 1 or zero else []), *program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = _run(folder, 1, 0)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "ppo"


def _require_close(found: Path, expected: Path) -> None:
    left, right = read_metrics(found / "metrics.jsonl"), read_metrics(expected / "metrics.jsonl")
    assert len(left) == len(right) == 4
    for ours, theirs in zip(left, right, strict=True):
        for name in COMPARED:
            assert ours.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), abs=1e-4), (name, ours["step"])
    for name in ("adapter_model.safetensors", "critic/adapter_model.safetensors", "critic/head.safetensors"):
        ours, theirs = load_file(found / name), load_file(expected / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert tensor.numel() > 0
            assert torch.allclose(tensor, theirs[key], atol=1e-4), key
    ours, theirs = (load_file(path / "checkpoints/update-000003/optimizer.safetensors") for path in (found, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) for key in ours)


@pytest.mark.parametrize(("processes", "zero"), [(2, 0), (2, 2), (1, 2)])
def test_processes_and_zero_stage_leave_the_numbers_alone(
    tmp_path: Path, alone: Path, processes: int, zero: int
) -> None:
    done = _run(tmp_path, processes, zero)
    assert done.returncode == 0, done.stderr[-3000:]
    _require_close(tmp_path / "ppo", alone)


def test_a_checkpoint_of_two_processes_resumes_on_one(tmp_path: Path, alone: Path) -> None:
    stopped = _run(tmp_path, 2, 2, updates=2)
    assert "stopped on purpose" in stopped.stderr
    done = _run(tmp_path, 1, 0)
    assert done.returncode == 0, done.stderr[-3000:]
    _require_close(tmp_path / "ppo", alone)
