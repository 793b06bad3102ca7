"""PPO on two processes, plain and under ZeRO-2 and ZeRO-3, gives the numbers of one process.

A launch is dear, so each does all jobs of `ppo_program` one after another, and the tests look at what lies on the disk.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.tracking import read_metrics
from tests.distributed.group import run_group
from tests.distributed.ppo_program import ROLLOUT

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
COMPARED = (
    "ppo/score_mean",
    "ppo/kl_nats",
    "ppo/length_tokens",
    "ppo/policy_loss",
    "ppo/value_loss",
    "ppo/explained_variance",
    "ppo/grad_norm",
    "ppo/ratio_first",
    "validation/score_mean",
)
POLICY, CRITIC = "adapter_model.safetensors", "critic/adapter_model.safetensors"
HEAD = "critic/head.safetensors"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    _run(folder, 1, 0, "adapter", "head", "windows")
    return folder


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory, alone: Path) -> Callable[[int, int], Path]:
    """Return what launches some processes under a ZeRO stage, each pair once."""

    @cache
    def launched(processes: int, zero: int) -> Path:
        folder = tmp_path_factory.mktemp(f"zero{zero}")
        shutil.copytree(alone / "base", folder / "base")
        shutil.copy(alone / ROLLOUT, folder / ROLLOUT)
        _lay_out_checkpoint(alone / "adapter", folder / "resumed")
        gathered = ("gathered",) if zero == 3 else ()
        _run(folder, processes, zero, "adapter", "head", "windows", "resumed", *gathered)
        return folder

    return launched


@pytest.fixture(scope="module", params=[(2, 0), (2, 2), (2, 3), (1, 2)], ids=lambda pair: f"{pair[0]}-zero{pair[1]}")
def several(request: pytest.FixtureRequest, launch: Callable[[int, int], Path]) -> Path:
    return launch(*request.param)


@pytest.mark.parametrize("job", ["adapter", "head"])
def test_processes_and_zero_stage_leave_the_numbers_alone(several: Path, alone: Path, job: str) -> None:
    _require_same_training(several / job, alone / job)


def test_a_base_that_is_gathered_to_decode_gives_the_same_numbers(
    launch: Callable[[int, int], Path], alone: Path
) -> None:
    folder = launch(2, 3)
    _require_same_training(folder / "gathered", alone / "adapter")
    whole = json.loads((alone / "adapter/decoded.json").read_text())
    assert json.loads((folder / "gathered/decoded.json").read_text()) == whole
    # Left in shards, processes must keep step, and each layer is whole only during its own pass.
    assert json.loads((folder / "adapter/decoded.json").read_text()) == [[False, 0]] * len(whole)


def test_lengths_differ_so_that_processes_must_wait_for_each_other(alone: Path) -> None:
    lengths = torch.load(alone / ROLLOUT, weights_only=True)["response_mask"].sum(dim=1)
    assert lengths.min() < lengths.max()
    assert lengths[::2].sum() != lengths[1::2].sum()


def test_windows_over_a_recorded_rollout_are_the_same(several: Path, alone: Path) -> None:
    for window in (1, 2, 3):
        ours, theirs = several / f"windows/after-{window}", alone / f"windows/after-{window}"
        for name in (f"policy/{POLICY}", CRITIC, HEAD):
            _require_close(ours / name, theirs / name)
    _require_close(several / "windows/optimizer.safetensors", alone / "windows/optimizer.safetensors")


@pytest.mark.parametrize(("stage", "offloaded_to"), [("1:optimizer", ["cpu", None]), ("3:all", ["cpu", "cpu"])])
def test_zero_1_and_offloading_take_the_same_windows(
    alone: Path, tmp_path: Path, stage: str, offloaded_to: list[str | None]
) -> None:
    shutil.copytree(alone / "base", tmp_path / "base")
    shutil.copy(alone / ROLLOUT, tmp_path / ROLLOUT)
    _run(tmp_path, 2, stage, "windows")
    assert json.loads((tmp_path / "windows/facts.json").read_text())["offloaded_to"] == offloaded_to
    for name in (f"after-3/policy/{POLICY}", f"after-3/{CRITIC}", f"after-3/{HEAD}", "optimizer.safetensors"):
        _require_close(tmp_path / "windows" / name, alone / "windows" / name)


def test_critic_warm_up_leaves_the_bytes_of_the_policy_alone(several: Path) -> None:
    before, after, later = (several / "windows" / name for name in ("before", "after-1", "after-2"))
    assert (before / "policy" / POLICY).read_bytes() == (after / "policy" / POLICY).read_bytes()
    assert (before / CRITIC).read_bytes() != (after / CRITIC).read_bytes()
    assert (before / HEAD).read_bytes() != (after / HEAD).read_bytes()
    assert (after / "policy" / POLICY).read_bytes() != (later / "policy" / POLICY).read_bytes()


def test_a_checkpoint_of_one_process_resumes_on_several(several: Path, alone: Path) -> None:
    _require_same_training(several / "resumed", alone / "adapter")


def test_checkpoints_of_two_processes_resume_on_one(
    launch: Callable[[int, int], Path], alone: Path, tmp_path: Path
) -> None:
    jobs = {f"resumed-{zero}": launch(2, zero) for zero in (2, 3)}
    shutil.copytree(alone / "base", tmp_path / "base")
    for job, source in jobs.items():
        _lay_out_checkpoint(source / "adapter", tmp_path / job)
    _run(tmp_path, 1, 0, *jobs)
    for job in jobs:
        _require_same_training(tmp_path / job, alone / "adapter")


def test_the_base_is_unchanged_and_sharded_under_zero_3_alone(several: Path, alone: Path) -> None:
    ours, theirs = (json.loads((folder / "windows/facts.json").read_text()) for folder in (several, alone))
    assert ours["hash_before"] == ours["hash_after"] == theirs["hash_before"]
    assert (several / "adapter/hash.txt").read_text() == theirs["hash_before"]
    shards = ours["shards"]
    assert bool(shards) == ("zero3" in several.name)
    # Norms, of 32 numbers each, stay whole: they are no larger than the largest LoRA matrix (4 x 64).
    matrices = {name: sizes for name, sizes in shards.items() if sizes[0] > 4 * 64}
    assert len(matrices) == (2 * 7 + 2 if shards else 0), sorted(matrices)
    for name, (whole, shard, present) in matrices.items():
        assert (shard, present) == (-(-whole // 2), 0), name


def test_a_bf16_base_is_loaded_in_bf16(several: Path) -> None:
    assert json.loads((several / "windows/facts.json").read_text())["bf16_loads_as"] == "torch.bfloat16"


def _run(folder: Path, processes: int, zero: int | str, *jobs: str) -> None:
    launched = processes if processes > 1 or zero else None
    well, told = run_group("tests.distributed.ppo_program", str(folder), str(zero), *jobs, processes=launched)
    assert well, told[-3000:]


def _lay_out_checkpoint(source: Path, target: Path) -> None:
    """Copy a finished training and leave out its last checkpoint: it goes on from update 2."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("update-000003"))
    assert [path.name for path in sorted((target / "checkpoints").glob("update-*"))] == [
        "update-000001",
        "update-000002",
    ]


def _require_same_training(found: Path, expected: Path) -> None:
    left, right = read_metrics(found / "metrics.jsonl"), read_metrics(expected / "metrics.jsonl")
    assert len(left) == len(right) == 4
    for ours, theirs in zip(left, right, strict=True):
        for name in COMPARED:
            assert ours.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), abs=1e-4), (name, ours["step"])
    critic = (CRITIC,) if (expected / CRITIC).exists() else ()
    for name in (POLICY, *critic, HEAD, "checkpoints/update-000003/optimizer.safetensors"):
        _require_close(found / name, expected / name)


def _require_close(found: Path, expected: Path) -> None:
    ours, theirs = load_file(found), load_file(expected)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert tensor.numel() > 0
        assert torch.allclose(tensor, theirs[key], atol=1e-4), key
