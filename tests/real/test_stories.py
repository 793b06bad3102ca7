"""Real input: a pretrained story model, real story openings, annotators who like cheerful endings (VADER lexicon)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[2]


def run_recipe(shared: Path, folder: Path, *options: str) -> dict[str, float]:
    """Run the recipe through the command line and return its summary."""
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
    return json.loads((folder / "run" / "summary.json").read_text())


def test_policy_learns_cheerful_stories(shared: Path, tmp_path: Path) -> None:
    """A shortened run: the gold gain is far above its error, the export holds, the base did not move."""
    summary = run_recipe(shared, tmp_path, "--ppo.updates", "14", "--evaluate.max-prompts", "150")
    assert summary["gold_gain"] > 4 * summary["gold_gain_se"]
    assert summary["step0_kl"] < 1e-4
    assert summary["base_hash_unchanged"]
    assert summary["export_verified"]
    assert summary["annotators"] == "scripted"
