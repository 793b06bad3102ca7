"""Whole recipes beside their controls: python -m tests.real.controls FOLDER [SEED ...].

For every seed the quickstart, and the stories where the shared folder lies beside the checkout, are run from base to
export; then again from the reward model on, with its sign flipped and with shuffled labels. FOLDER/controls.json gets
a row per run. Runs are kept: the same command goes on where it was stopped.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY, shared_folder

SEEDS = (1, 2, 3)
CONTROLS = ("flipped", "shuffled")


def recipe_line(recipe: str, run: Path, options: Sequence[str], shared: Path | None = None) -> list[str]:
    """Return the command line of a recipe; the stories take their model, text and lexicon from the shared folder."""
    line = [sys.executable, "-m", "rlhf.cli", "run", str(REPOSITORY / "configs" / f"{recipe}.yaml"), "--run", str(run)]
    if recipe == "stories260k":
        assert shared is not None
        line += ["--base.model", str(shared / "models" / "stories260K-llama")]
        line += ["--prompts.sources", f"[{shared / 'data' / 'tinystories' / 'stories.jsonl'}]"]
        line += ["--gold.lexicon", str(shared / "data" / "vader_lexicon" / "vader_lexicon.txt")]
    return [*line, *options]


def control_options(control: str, true_run: Path) -> list[str]:
    """Return what turns a copy of the true run into a control; a flipped model needs no training of its own."""
    own = ["--reward.import-path", str(true_run / "round-1" / "reward")] if control == "flipped" else []
    return [*own, "--reward.control", control, "--until", "evaluate"]


def read_evaluation(run: Path) -> dict[str, Any]:
    """Return the figures of a run's last evaluation."""
    return json.loads((run / "round-1" / "evaluate" / "evaluation.json").read_text(encoding="utf-8"))


def measure(folder: Path, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Run everything and yield a row per run."""
    shared = shared_folder()
    for recipe in ("quickstart", *(("stories260k",) if shared.is_dir() else ())):
        for seed in seeds:
            true_run = folder / f"{recipe}-{seed}"
            yield _row(recipe, seed, "true", true_run, recipe_line(recipe, true_run, ["--seed", str(seed)], shared))
            for control in CONTROLS:
                run = folder / f"{recipe}-{seed}-{control}"
                if not run.exists():
                    shutil.copytree(true_run, run)
                options = ["--seed", str(seed), *control_options(control, true_run)]
                yield _row(recipe, seed, control, run, recipe_line(recipe, run, options, shared))


def _row(recipe: str, seed: int, reward: str, run: Path, line: Sequence[str]) -> dict[str, Any]:
    subprocess.run(line, cwd=REPOSITORY, env=os.environ, check=True)
    found = read_evaluation(run)
    gain, policy, start = found["gold_gain"], found["policies"]["ppo"], found["policies"]["sft"]
    return {
        "recipe": recipe,
        "seed": seed,
        "reward": reward,
        "prompts": found["prompts"],
        "gold_gain": gain["value"],
        "gold_gain_se": gain["error"],
        "score_gain": found["score_gain"]["value"],
        "kl_nats": policy["kl_nats"]["value"],
        "distinct_2_of_start": policy["distinct_2"] / start["distinct_2"],
    }


def main(folder: Path, seeds: Sequence[int]) -> None:
    """Measure everything; write after every run."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for row in measure(folder.resolve(), seeds):
        rows.append(row)
        (folder / "controls.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        sys.stderr.write(f"{row}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or SEEDS)
