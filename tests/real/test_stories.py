"""Real input: a pretrained story model, real story openings, annotators who like cheerful endings (VADER lexicon).

The controls share everything with the true run but the reward model: one with its sign flipped, one trained on pairs
turned round at random. Without them a rising gold could come from PPO itself, whatever it is told.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[2]


def run_recipe(shared: Path, folder: Path, *options: str) -> Path:
    """Run the recipe through the command line and return its folder; what a copied run has finished is kept."""
    line = [
        *(sys.executable, "-m", "rlhf.cli", "run", str(CHECKOUT / "configs" / "stories260k.yaml")),
        *("--run", str(folder / "run"), "--tracking.progress", "false"),
        *("--base.model", str(shared / "models" / "stories260K-llama")),
        *("--prompts.sources", f"[{shared / 'data' / 'tinystories' / 'stories.jsonl'}]"),
        *("--gold.lexicon", str(shared / "data" / "vader_lexicon" / "vader_lexicon.txt")),
        *options,
    ]
    done = subprocess.run(
        line, cwd=CHECKOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def gold_gain(run: Path) -> tuple[float, float]:
    """Return PPO's gain in gold over the start policy, paired by prompt, and its standard error."""
    gain: dict[str, Any] = json.loads((run / "round-1" / "evaluate" / "evaluation.json").read_text())["gold_gain"]
    return gain["value"], gain["error"]


@pytest.fixture(scope="module")
def true_run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(shared, tmp_path_factory.mktemp("stories"))


def test_policy_learns_cheerful_stories(true_run: Path) -> None:
    """The gold gain is far above its error, the export holds, the base did not move."""
    summary = json.loads((true_run / "summary.json").read_text())
    assert summary["gold_gain"] > 8 * summary["gold_gain_se"]
    assert summary["step0_kl"] < 1e-4
    assert summary["base_hash_unchanged"]
    assert summary["export_verified"]
    assert summary["annotators"] == "scripted"


def test_flipped_reward_model_drives_gold_down(true_run: Path, shared: Path, tmp_path: Path) -> None:
    shutil.copytree(true_run, tmp_path / "run")
    flipped = ("--reward.import-path", str(true_run / "round-1" / "reward"), "--reward.control", "flipped")
    gain, error = gold_gain(run_recipe(shared, tmp_path, *flipped, "--until", "evaluate"))
    assert gain < -3 * error


def test_shuffled_labels_move_gold_less_than_half_as_far(true_run: Path, shared: Path, tmp_path: Path) -> None:
    shutil.copytree(true_run, tmp_path / "run")
    gain, _ = gold_gain(run_recipe(shared, tmp_path, "--reward.control", "shuffled", "--until", "evaluate"))
    assert abs(gain) < gold_gain(true_run)[0] / 2
