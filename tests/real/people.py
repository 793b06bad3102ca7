"""Reward models from what people said: python -m tests.real.people FOLDER [SEED ...].

Published preferences (harmless dialogues, OpenAssistant's rankings, PandaLM's comparisons) teach reward models on two small
bases: the quickstart's, which knows a made-up world, and one that tells children's stories. Examples of more tokens than the
base reads are left out and counted. FOLDER/people.json gets a row per model, with accuracy on a fifth of the prompts.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.config.base import BaseConfig, LoraSection
from rlhf.config.training import RewardConfig
from rlhf.data.judgements import import_pairs
from rlhf.data.rankings import import_candidates, import_rankings
from rlhf.data.splits import choose_holdout
from rlhf.errors import DataError
from rlhf.labels.aggregate import aggregate
from rlhf.models.base import LoadedBase, describe_base, load_base
from rlhf.models.roles import RoleSource, build_shared_base
from rlhf.records import PreferencePair
from rlhf.reward.trainer import train_reward
from rlhf.runtime import start_runtime
from rlhf.text import TextFormat
from rlhf.tracking import Tracker
from tests.conftest import REPOSITORY, shared_folder

SETS = ("hh_rlhf_harmless", "oasst_en_rankings", "pandalm_3annotators")
HOLDOUT = 0.2
LEARNING = RewardConfig(
    pooling="mean",
    epochs=4,
    learning_rate=1e-3,
    head_learning_rate=2e-3,
    batch_prompts=16,
    micro_batch_prompts=16,
    micro_batch_tokens=4096,
    evaluations=8,
)
LORA = LoraSection(rank=8, alpha=16)
Row = dict[str, Any]


def read_pairs(name: str, shared: Path) -> list[PreferencePair]:
    """Return a published set as pairs; several rankings of a prompt count by their majority."""
    if name == "hh_rlhf_harmless":
        return import_pairs(shared / "data" / name / "preferences.jsonl").records
    file = "rankings" if name == "oasst_en_rankings" else "annotations"
    path = shared / "data" / name / f"{file}.jsonl"
    sets = import_candidates(path).records
    return aggregate(sets, import_rankings(path, sets).records, "hard")


def fitting(pairs: Sequence[PreferencePair], text: TextFormat, longest: int) -> list[PreferencePair]:
    """Return the pairs both of whose examples the base can read."""

    def fits(pair: PreferencePair) -> bool:
        try:
            for side in (pair.chosen, pair.rejected):
                text.encode_example(pair.prompt, side, max_length=longest)
        except DataError:
            return False
        return True

    return [pair for pair in pairs if fits(pair)]


def make_bases(folder: Path, shared: Path) -> dict[str, tuple[Path, BaseConfig]]:
    """Return the artifacts of the two bases, made where they are missing."""
    run = folder / "quickstart"
    line = [sys.executable, "-m", "rlhf.cli", "run", str(REPOSITORY / "configs/quickstart.yaml"), "--run", str(run)]
    subprocess.run(
        [*line, "--until", "base"], cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True
    )
    stories = BaseConfig(model=str(shared / "models/stories260K-llama"), prompt_format="plain", end_tokens=("<s>",))
    artifact = folder / "stories"
    artifact.mkdir(exist_ok=True)
    describe_base(stories, artifact)
    return {"embedded": (run / "round-1/base", BaseConfig()), "stories260K": (artifact, stories)}


def train(base: LoadedBase, pairs: Sequence[PreferencePair], control: str, folder: Path, seed: int) -> Row:
    """Train on four fifths of the prompts and measure on the rest."""
    longest = min(base.text.context_length, 512)
    kept = fitting(pairs, base.text, longest)
    apart = frozenset(choose_holdout(kept, HOLDOUT, seed))
    shared = build_shared_base(base, {"reward": RoleSource(fresh=LORA, head=True, trainable=True)}, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    outcome = train_reward(
        shared,
        base.text,
        [pair for pair in kept if pair.prompt_id not in apart],
        [pair for pair in kept if pair.prompt_id in apart],
        dataclasses.replace(LEARNING, control=control, max_tokens=longest),
        seed,
        folder,
        Tracker(folder, bars=False),
        start_runtime(),
    )
    found = outcome.calibration
    return {
        "pairs": len(pairs),
        "left_out": len(pairs) - len(kept),
        "trained_pairs": outcome.pairs,
        "held_out_pairs": outcome.held_out_pairs,
        "accuracy": [found.accuracy.value, found.accuracy.low, found.accuracy.high],
        "length_controlled": found.length_controlled.value,
        "longer_wins": found.longer_wins.value,
        "held_out_loss": outcome.held_out_loss,
        "best_step": outcome.best_step,
        "steps": outcome.steps,
    }


def main(folder: Path, seeds: Sequence[int]) -> None:
    """Measure everything; write after every model."""
    folder, shared = folder.resolve(), shared_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "people.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    present = {(row["base"], row["set"], row["control"], row["seed"]) for row in rows}
    bases = make_bases(folder, shared)
    for seed in seeds:
        for base_name, (artifact, config) in bases.items():
            for name in SETS:
                for control in ("none", "shuffled"):
                    facts = {"base": base_name, "set": name, "control": control, "seed": seed}
                    if tuple(facts.values()) in present:
                        continue
                    out = folder / f"{base_name}-{name}-{control}-{seed}"
                    base = load_base(artifact, config, "fp32")
                    rows.append({**facts, **train(base, read_pairs(name, shared), control, out, seed)})
                    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                    sys.stderr.write(f"{rows[-1]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or [1])
