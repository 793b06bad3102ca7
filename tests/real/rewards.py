"""What a reward model learns from noisy rankings, beside the truth: python -m tests.real.rewards FOLDER [SEED ...].

The quickstart's base and SFT policy answer some 9,000 prompts four times each. Scripted annotators, whose true scores are
known, rank them once each; reward models learn from growing parts of the rankings, from spoiled ones and by other losses,
and are held against true scores and fresh rankings on prompts that none of them saw. FOLDER/rewards.json gets a row per
model; those that are there are not trained again.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.load import load_config
from rlhf.config.recipe import Config
from rlhf.gold import load_gold
from rlhf.labels.aggregate import aggregate
from rlhf.labels.scripted import Noise, calibrate, draw_answer
from rlhf.models.base import load_base
from rlhf.records import CandidateSet, PreferencePair, Ranking, read_jsonl
from rlhf.reward.calibration import JudgedPairs, hits, share
from rlhf.reward.calibration import calibrate as measure
from rlhf.reward.model import build_reward_base, score_texts
from rlhf.reward.trainer import RewardOutcome, train_reward
from rlhf.runtime import start_runtime
from rlhf.tracking import Tracker
from tests.conftest import REPOSITORY

AGREEMENT = 0.73
FLIPS = 0.25
TESTED = 600
SIZES = (250, 500, 1000, 2000, 4000, 8000)
MIDDLE = 2000
PROMPTS = (
    "--prompts.count",
    "11600",
    "--prompts.shares",
    "{sft: 0.07, label: 0.83, ppo: 0.04, validation: 0.03, test: 0.03}",
)
EXACT = Noise(0.0, 0.0, (0.0, 0.0), 1.0)
Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One reward model: how many rankings it learns from, how they are spoiled, and how it learns."""

    name: str
    rankings: int
    flips: float = 0.0
    changes: tuple[tuple[str, Any], ...] = ()
    best_only: bool = False
    exact: bool = False


ARMS = (
    *(Arm(f"{size} rankings", size) for size in SIZES),
    Arm("a quarter reversed", MIDDLE, flips=FLIPS),
    Arm("shuffled labels", MIDDLE, changes=(("control", "shuffled"),)),
    Arm("Plackett-Luce", MIDDLE, changes=(("likelihood", "plackett_luce"),)),
    Arm("best against rest", MIDDLE, best_only=True),
    Arm("rankings without error", MIDDLE, exact=True),
)


@dataclass(frozen=True)
class Setting:
    """The world of one seed: candidates to learn from, others to be tested on, and their true scores."""

    config: Config
    run: Path
    train: list[CandidateSet]
    tested: list[CandidateSet]
    truth: dict[str, NDArray[np.float64]]
    noise: Noise


def prepare(folder: Path, recipe: Path, options: Sequence[str], seed: int, tested: int = TESTED) -> Setting:
    """Sample the candidates and score them."""
    run = folder / f"seed-{seed}"
    line = [sys.executable, "-m", "rlhf.cli", "run", str(recipe), "--run", str(run), "--seed", str(seed), *options]
    done = subprocess.run(
        [*line, "--until", "candidates"], cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=False
    )
    assert done.returncode == 0, f"{' '.join(line)} ended with {done.returncode}"
    config = load_config(str(run), [])
    gold = load_gold(config.gold)
    assert gold is not None
    sets = read_jsonl(run / "round-1/candidates/candidates.jsonl", CandidateSet)
    truth = {item.prompt_id: np.array([gold(item.prompt, text) for text in item.responses]) for item in sets}
    noise = calibrate(list(truth.values()), AGREEMENT, seed=seed)
    return Setting(config, run, sets[:-tested], sets[-tested:], truth, noise)


def rank(
    setting: Setting, sets: Sequence[CandidateSet], annotator: str, seed: int, flips: float = 0.0
) -> list[Ranking]:
    """Let one scripted annotator rank each set once."""
    rankings: list[Ranking] = []
    for item in sets:
        rng = np.random.default_rng([seed, *f"{annotator} {item.prompt_id}".encode()])
        ranks, strengths = draw_answer(setting.truth[item.prompt_id], setting.noise, "careful", flips, rng)
        rankings.append(Ranking(item.prompt_id, annotator, ranks, strengths))
    return rankings


def agreement(one: Sequence[Ranking], two: Sequence[Ranking]) -> float:
    """Return the share of pairs, both ordered strictly, on which two annotators agree."""
    same: list[bool] = []
    for left, right in zip(one, two, strict=True):
        for i, j in combinations(range(len(left.ranks)), 2):
            a, b = left.ranks[i] - left.ranks[j], right.ranks[i] - right.ranks[j]
            if a and b:
                same.append((a > 0) == (b > 0))
    return float(np.mean(same))


def train(setting: Setting, arm: Arm, folder: Path, seed: int) -> tuple[RewardOutcome, Row]:
    """Train one model and hold it against the truth and against fresh rankings."""
    learned = setting.train[: arm.rankings]
    assert len(learned) == arm.rankings, f"{len(setting.train)} prompts, {arm.name} needs {arm.rankings}"
    ranked = dataclasses.replace(setting, noise=EXACT) if arm.exact else setting
    chosen = rank(ranked, learned, "one", seed, arm.flips)
    pairs = aggregate(learned, chosen, "hard")
    if arm.best_only:
        best = {row.prompt_id: {i for i, value in enumerate(row.ranks) if value == 1} for row in chosen}
        pairs = [pair for pair in pairs if pair.chosen_index in best[pair.prompt_id]]
    config = dataclasses.replace(setting.config.reward, **dict(arm.changes))
    base = load_base(setting.run / "round-1/base", setting.config.base, "fp32")
    shared = build_reward_base(base, setting.run / "round-1/sft", config, seed)
    # A tenth of the rankings choose the state that is kept, as in a real run.
    apart = {item.prompt_id for item in learned[::10]}
    out = folder / f"seed-{seed}" / arm.name.replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    outcome = train_reward(
        shared,
        base.text,
        [pair for pair in pairs if pair.prompt_id not in apart],
        [pair for pair in pairs if pair.prompt_id in apart],
        config,
        seed,
        out,
        Tracker(out, bars=False),
        start_runtime(),
    )
    texts = [(item.prompt, response) for item in setting.tested for response in item.responses]
    flat = iter(score_texts(shared, base.text, outcome.info, texts, 64))
    scores = {item.prompt_id: np.array([next(flat) for _ in item.responses]) for item in setting.tested}
    return outcome, judge(setting, scores, seed)


def judge(setting: Setting, scores: dict[str, NDArray[np.float64]], seed: int) -> Row:
    """Return what scores of the tested candidates come to: against the truth, and against fresh rankings."""
    gaps: list[float] = []
    owner: list[int] = []
    true_gaps: list[float] = []
    for number, item in enumerate(setting.tested):
        for i, j in combinations(range(len(item.responses)), 2):
            difference = setting.truth[item.prompt_id][i] - setting.truth[item.prompt_id][j]
            if difference:
                true_gaps.append(difference)
                gaps.append((scores[item.prompt_id][i] - scores[item.prompt_id][j]) * np.sign(difference))
                owner.append(number)
    gold = share(hits(np.array(gaps)), np.array(owner))
    clean = aggregate(setting.tested, rank(setting, setting.tested, "two", seed), "hard")
    noisy = aggregate(setting.tested, rank(setting, setting.tested, "two", seed, FLIPS), "hard")
    on_clean, on_noisy = (_on_labels(setting, pairs, scores) for pairs in (clean, noisy))
    report = measure(on_clean)
    before = share(hits(on_noisy.gap), on_noisy.prompt).value
    expected = report.accuracy.value * (1 - FLIPS) + (1 - report.accuracy.value) * FLIPS
    return {
        "gold_accuracy": gold.value,
        "gold_low": gold.low,
        "gold_high": gold.high,
        "gold_pairs": gold.pairs,
        "label_accuracy": report.accuracy.value,
        "flipped_label_accuracy": before,
        "flipped_label_accuracy_expected": expected,
        "longer_wins": report.longer_wins.value,
        "ece": report.ece,
        "ece_after_temperature": report.ece_after_temperature,
        "nll_nats": report.nll_nats,
    }


def _on_labels(
    setting: Setting, pairs: Sequence[PreferencePair], scores: dict[str, NDArray[np.float64]]
) -> JudgedPairs:
    number = {item.prompt_id: index for index, item in enumerate(setting.tested)}
    lengths: Callable[[str], int] = lambda text: len(text.split())  # noqa: E731
    return JudgedPairs.of(
        [float(scores[p.prompt_id][p.chosen_index] - scores[p.prompt_id][p.rejected_index]) for p in pairs],
        prompt=[number[pair.prompt_id] for pair in pairs],
        lengths=[(lengths(pair.chosen), lengths(pair.rejected)) for pair in pairs],
    )


def main(folder: Path, seeds: Sequence[int]) -> None:
    """Measure everything; write after every model."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rewards.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    present = {(row["seed"], row["arm"]) for row in rows}
    for seed in seeds:
        setting = prepare(folder, REPOSITORY / "configs/quickstart.yaml", PROMPTS, seed)
        found = agreement(*(rank(setting, setting.tested, name, seed) for name in ("one", "two")))
        for arm in ARMS:
            if (seed, arm.name) in present:
                continue
            outcome, figures = train(setting, arm, folder, seed)
            facts = {"seed": seed, "arm": arm.name, "rankings": arm.rankings, "agreement": found}
            rows.append({**facts, **figures, "steps": outcome.steps, "best_step": outcome.best_step})
            path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            sys.stderr.write(f"{rows[-1]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or [1])
