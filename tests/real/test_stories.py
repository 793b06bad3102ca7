"""Real input: a pretrained story model, real story openings, annotators who like cheerful endings (VADER lexicon).

The controls share everything with the true run but the reward model: one with its sign flipped, one trained on pairs
turned round at random. Without them a rising gold could come from PPO itself, whatever it is told.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.real.controls import control_options, read_evaluation, recipe_line

pytestmark = pytest.mark.slow


def run_stories(shared: Path, run: Path, *options: str) -> None:
    """Run the recipe through the command line; what a copied run has finished is kept."""
    line = recipe_line("stories260k", run, ["--tracking.progress", "false", *options], shared)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def gold_gain(run: Path) -> tuple[float, float]:
    """Return PPO's gain in gold over the start policy, paired by prompt, and its standard error."""
    gain = read_evaluation(run)["gold_gain"]
    return gain["value"], gain["error"]


def control_gain(control: str, true_run: Path, shared: Path, folder: Path) -> tuple[float, float]:
    """Run a control on a copy of the true run; return its gain and standard error."""
    run = shutil.copytree(true_run, folder / "run")
    run_stories(shared, run, *control_options(control, true_run))
    return gold_gain(run)


@pytest.fixture(scope="module")
def true_run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("stories") / "run"
    run_stories(shared, run)
    return run


def test_policy_learns_cheerful_stories(true_run: Path) -> None:
    """The gold gain is far above its error, the export holds, the base did not move."""
    summary = json.loads((true_run / "summary.json").read_text())
    assert summary["gold_gain"] > 8 * summary["gold_gain_se"]
    assert summary["step0_kl"] < 1e-4
    assert summary["base_hash_unchanged"]
    assert summary["export_verified"]
    assert summary["annotators"] == "scripted"


def test_flipped_reward_model_drives_gold_down(true_run: Path, shared: Path, tmp_path: Path) -> None:
    gain, error = control_gain("flipped", true_run, shared, tmp_path)
    assert gain < -3 * error


def test_shuffled_labels_move_gold_less_than_half_as_far(true_run: Path, shared: Path, tmp_path: Path) -> None:
    gain, _ = control_gain("shuffled", true_run, shared, tmp_path)
    assert abs(gain) < gold_gain(true_run)[0] / 2
