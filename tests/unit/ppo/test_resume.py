"""A run that was killed and resumed is, byte for byte, the run that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.errors import ArtifactError
from rlhf.models.base import hash_weights
from rlhf.ppo import checkpoint
from tests.metrics import result_numbers
from tests.unit.ppo.world import even_share, train

UPDATES = 4


class CrashError(Exception):
    """Stands for a power cut."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(folder, updates=UPDATES)
    return folder / "ppo"


def require_same(found: Path, expected: Path, updates: int = UPDATES) -> None:
    """Compare everything that two runs computed, byte for byte."""
    names = ["adapter_model.safetensors", "adapter_config.json", "samples.jsonl"]
    names += [f"critic/{name}" for name in ("adapter_model.safetensors", "head.safetensors")]
    last = f"checkpoints/update-{updates:06d}"
    names += [f"{last}/{name}" for name in ("optimizer.safetensors", "random.safetensors", "state.json")]
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert result_numbers(found) == result_numbers(expected)


@pytest.mark.parametrize("call", [2, 3, 5])
def test_a_crash_inside_an_update_changes_nothing(tmp_path: Path, whole: Path, call: int) -> None:
    calls = []

    def crashing(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
        calls.append(1)
        torch.manual_seed(len(calls))  # a scorer may draw: the random state is part of a checkpoint
        if len(calls) == call:
            raise CrashError
        return even_share(prompt_ids, response_ids)

    with pytest.raises(CrashError):
        train(tmp_path, updates=UPDATES, score=crashing)
    torch.manual_seed(99)
    train(tmp_path, updates=UPDATES)
    for name in ("adapter_model.safetensors", "samples.jsonl"):
        assert (tmp_path / "ppo" / name).read_bytes() == (whole / name).read_bytes()
    assert result_numbers(tmp_path / "ppo") == result_numbers(whole)


def test_what_a_scorer_draws_goes_on_where_it_was(tmp_path: Path) -> None:
    crash_at: int | None = None
    calls = 0

    def drawing(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == crash_at:
            raise CrashError
        return even_share(prompt_ids, response_ids) + torch.rand(len(response_ids))

    train(tmp_path / "whole", updates=UPDATES, score=drawing)
    calls, crash_at = 0, 4
    with pytest.raises(CrashError):
        train(tmp_path / "resumed", updates=UPDATES, score=drawing)
    crash_at = None
    train(tmp_path / "resumed", updates=UPDATES, score=drawing)
    require_same(tmp_path / "resumed" / "ppo", tmp_path / "whole" / "ppo")


@pytest.mark.parametrize("moment", ["half", "renamed"])
def test_a_crash_inside_a_checkpoint_changes_nothing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    publish = checkpoint.publish_folder

    def crashing(partial: Path, final: Path) -> None:
        if final.name != "update-000003":
            publish(partial, final)
            return
        if moment == "renamed":
            publish(partial, final)
        else:
            (partial / "state.json").write_text("{")
            (partial / "optimizer.safetensors").unlink()
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "publish_folder", crashing)
        with pytest.raises(CrashError):
            train(tmp_path, updates=UPDATES)
    train(tmp_path, updates=UPDATES)
    require_same(tmp_path / "ppo", whole)


def test_resuming_a_finished_run_repeats_nothing(tmp_path: Path, whole: Path) -> None:
    train(tmp_path, updates=UPDATES)
    lines = (tmp_path / "ppo" / "metrics.jsonl").read_text()
    train(tmp_path, updates=UPDATES)
    assert (tmp_path / "ppo" / "metrics.jsonl").read_text() == lines
    require_same(tmp_path / "ppo", whole)


def test_checkpoints_beyond_the_number_kept_are_removed(whole: Path) -> None:
    assert [path.name for path in checkpoint.find_checkpoints(whole)] == ["update-000003", "update-000004"]


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    train(tmp_path, updates=2)
    with pytest.raises(ArtifactError, match="other ppo settings"):
        train(tmp_path, updates=2, kl_coef=0.2)
    train(tmp_path, updates=2, checkpoint_every=7)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(tmp_path, updates=2)
    last = checkpoint.find_checkpoints(tmp_path / "ppo")[-1]
    (last / "state.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"update-000002/state\.json: damaged"):
        train(tmp_path, updates=2)
    shutil.rmtree(last)
    assert train(tmp_path, updates=2)[0].updates == 2


def test_a_resumed_run_still_knows_the_base_it_started_with(tmp_path: Path) -> None:
    outcome, shared = train(tmp_path, updates=2)
    assert outcome.base_hash == hash_weights(shared.model)
    state = json.loads((tmp_path / "ppo" / "checkpoints" / "update-000002" / "state.json").read_text())
    assert state["base_hash"] == outcome.base_hash


@pytest.mark.slow
def test_kill_9_at_any_moment(tmp_path: Path, whole: Path) -> None:
    """Killed while a checkpoint is being written, then after a while, then left alone."""
    arguments = [sys.executable, "-m", "tests.unit.ppo.world", str(tmp_path), "0.3", str(UPDATES)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    checkpoints = tmp_path / "ppo" / "checkpoints"
    for condition in (lambda: any(checkpoints.glob(".*.partial")), lambda: (checkpoints / "update-000002").exists()):
        process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not condition() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(arguments, env=environment, check=True, capture_output=True)
    require_same(tmp_path / "ppo", whole)
