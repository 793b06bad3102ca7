"""Candidates and evaluation on two processes, each with the whole base or with half of it, are those of one process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.artifacts import Artifact
from tests.distributed.group import run_group
from tests.pipeline.conftest import RECIPE, Shell

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.parametrize(
    ("zero", "launches"), [(0, ["candidates,evaluate"]), (3, ["candidates", "evaluate"])], ids=["whole", "sharded"]
)
def test_two_processes_answer_as_one_does(finished: Shell, tmp_path: Path, zero: int, launches: list[str]) -> None:
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(finished.run, run)
    for stage in ("candidates", "evaluate"):
        shutil.rmtree(run / "round-1" / stage)
    # A process may start DeepSpeed once.
    for stages in launches:
        options = [stages, str(RECIPE), f"run={run}", f"launch.zero={zero}"]
        folder = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "compiled")}
        well, told = run_group("tests.distributed.answers_program", *options, processes=2, environment=folder)
        assert well, told[-3000:]
    assert not (tmp_path / "compiled").exists(), "a build that is killed would stop all later starts"
    expected, found = (Artifact.open(folder / "round-1" / "candidates") for folder in (finished.run, run))
    assert found.manifest.content == expected.manifest.content
    assert found.manifest.recorded["processes"] == 2
    assert expected.manifest.recorded["processes"] == 1
    ours, theirs = (rows(folder) for folder in (run, finished.run))
    if zero == 0:
        assert ours == theirs
    # Sharded weights are not merged into the base before decoding, and round otherwise.
    for left, right in zip(ours, theirs, strict=True):
        assert {name: left[name] for name in ("prompt_id", "sft", "ppo")} == {
            name: right[name] for name in ("prompt_id", "sft", "ppo")
        }
        assert left["scores"] == pytest.approx(right["scores"], abs=1e-4)
        assert left["kl_nats"] == pytest.approx(right["kl_nats"], abs=1e-4)


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "round-1" / "evaluate" / "samples.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
