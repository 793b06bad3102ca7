"""Negative controls: what a wrong reward model does to gold. A rising proxy alone proves nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[2]
SHORTER = (
    *("--tracking.progress", "false"),
    *("--prompts.count", "2000"),
    *("--ppo.updates", "20"),
    *("--ppo.evaluate-every", "20"),
    *("--evaluate.best-of", "2"),
)


def rlhf(folder: Path, *options: str) -> None:
    line = [sys.executable, "-m", "rlhf.cli", "run", str(CHECKOUT / "configs" / "quickstart.yaml"), *SHORTER, *options]
    done = subprocess.run(
        [*line, "--run", str(folder / "run")],
        cwd=CHECKOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the quickstart, shortened, up to the preference pairs."""
    folder = tmp_path_factory.mktemp("controls")
    rlhf(folder, "--until", "pairs")
    return folder


@pytest.fixture(scope="module")
def gains(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Gold gain of PPO and its standard error under each reward model."""
    found: dict[str, tuple[float, float]] = {}
    for control in ("none", "flipped", "shuffled"):
        folder = tmp_path_factory.mktemp(control)
        shutil.copytree(labelled / "run", folder / "run")
        rlhf(folder, "--reward.control", control, "--until", "evaluate")
        gain = json.loads((folder / "run" / "round-1" / "evaluate" / "evaluation.json").read_text())["gold_gain"]
        found[control] = (gain["value"], gain["error"])
    return found


def test_true_reward_model_raises_gold(gains: dict[str, tuple[float, float]]) -> None:
    value, error = gains["none"]
    assert value > 4 * error, gains


def test_flipped_reward_model_drives_gold_down(gains: dict[str, tuple[float, float]]) -> None:
    value, error = gains["flipped"]
    assert value < -3 * error, gains


def test_shuffled_labels_move_gold_less_than_half_as_far(gains: dict[str, tuple[float, float]]) -> None:
    assert abs(gains["shuffled"][0]) < 0.5 * gains["none"][0], gains
