"""One disturbance of every kind, each in another stage; `make faults` runs the long campaign (tests/faults/campaign.py)."""

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rlhf.stage_graph import LAUNCHED, STAGES, StageName
from tests.faults.campaign import plan_trials, table
from tests.faults.trials import DAMAGES, Bench, Outcome, Trial, attempt, damage, disturb
from tests.pipeline.conftest import Shell

pytestmark = pytest.mark.slow
SEED = time.time_ns() % 1_000_000


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        ("sft", "killed"),
        ("rankings", "killed"),
        ("evaluate", "terminated"),
        ("candidates", "disk full"),
        ("pairs", "removed"),
        ("prompts", "changed"),
        ("export", "cut short"),
    ],
)
def test_a_stage_goes_on_to_the_same_bytes_or_refuses(
    finished: Shell, tmp_path: Path, stage: StageName, fault: str
) -> None:
    bench = Bench(tmp_path, ["alone"], alone=finished.run)
    found = attempt(bench, Trial(0, stage, "alone", fault), SEED)
    assert found.problem == "", f"seed {SEED}: {found.problem}"


def test_a_campaign_reaches_every_stage_in_every_way() -> None:
    trials = plan_trials(100, ["alone", "zero2", "zero3"], 1)
    assert trials == plan_trials(100, ["alone", "zero2", "zero3"], 1)
    kills = [trial for trial in trials if trial.fault in ("killed", "one killed")]
    assert len(kills) == 100
    assert {trial.stage for trial in kills} == set(STAGES)
    assert {(trial.stage, trial.mode) for trial in kills if trial.fault == "one killed"} == {
        (stage, mode) for stage in LAUNCHED for mode in ("zero2", "zero3")
    }
    for fault in ("terminated", "disk full"):
        assert {trial.stage for trial in trials if trial.fault == fault} == set(STAGES)
    for fault in DAMAGES:
        assert {trial.stage for trial in trials if trial.fault == fault} == set(STAGES) - {"base"}


def test_a_kill_reaches_processes_in_sessions_of_their_own() -> None:
    child = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True).wait()"
    process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.02)
    disturb("killed", process, random.Random(1))
    assert process.wait(10) < 0
    assert not any(child.is_running() for child in children)


def test_every_damage_changes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for kind in DAMAGES:
        path.write_bytes(b"0123456789")
        damage(path, kind, random.Random(1))
        assert not path.exists() or path.read_bytes() != b"0123456789", kind


def test_the_table_counts_what_failed() -> None:
    outcomes = [
        Outcome(Trial(0, "sft", "alone", "killed"), 1, "", 2.0),
        Outcome(Trial(1, "sft", "zero2", "killed"), 1, "lost", 2.0),
    ]
    said = table(outcomes)
    assert "| sft | 2 (1 FAILED) |" in said
    assert "trial 1: sft (zero2) killed: lost" in said
