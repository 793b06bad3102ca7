"""N prompts chosen by a reward model's doubt against N at random: python -m tests.real.prioritise RUN OUT [SEED ...].

RUN is a finished run whose scripted annotators rank by a gold scorer, the quickstart for instance. For every seed its prompts
are divided at random: some start a reward model, some choose the state that is kept, some are held out, the rest is a pool.
Each policy takes N prompts of the pool, whose labels are then revealed; a one-headed reward model is trained anew on the
first prompts and these, and its accuracy measured on all pairs of the held-out prompts that the gold scorer tells apart.
"""

import dataclasses
import itertools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.artifacts import RunFolder
from rlhf.config.load import load_config
from rlhf.config.recipe import Config
from rlhf.config.training import RewardConfig
from rlhf.gold import GoldScorer, load_gold
from rlhf.labels.priorities import order_by_doubt
from rlhf.models.base import load_base
from rlhf.models.roles import SharedBase
from rlhf.records import CandidateSet, PreferencePair, read_jsonl
from rlhf.reward.model import RewardInfo, build_reward_base, score_texts
from rlhf.reward.trainer import train_reward
from rlhf.reward.uncertainty import Doubt, measure_doubt
from rlhf.runtime import start_runtime
from rlhf.text import TextFormat
from rlhf.tracking import Tracker

SEEDS = tuple(range(1, 9))
START, JUDGES, CHOSEN, HELD_OUT, POOL = 40, 24, 60, 150, 400
HEADS = 4
BATCH = 64


@dataclass(frozen=True)
class World:
    """A finished run: its candidates, the labels of all its prompts, and the truth."""

    run: RunFolder
    config: Config
    sets: dict[str, CandidateSet]
    pairs: dict[str, list[PreferencePair]]
    gold: GoldScorer


@dataclass(frozen=True)
class Trained:
    """A reward model in memory."""

    shared: SharedBase
    text: TextFormat
    info: RewardInfo


def read_world(folder: Path) -> World:
    """Read a run; prompts without any pair are left out."""
    run = RunFolder.open(folder)
    found = run.read("pairs", "the simulation")
    config = load_config(found.file("config.yaml"))
    pairs: dict[str, list[PreferencePair]] = {}
    for pair in read_jsonl(found.file("pairs.jsonl"), PreferencePair):
        pairs.setdefault(pair.prompt_id, []).append(pair)
    sets = read_jsonl(run.read("candidates", "the simulation").file("candidates.jsonl"), CandidateSet)
    gold = load_gold(config.gold)
    assert gold is not None, "the run has no gold scorer"
    return World(run, config, {item.prompt_id: item for item in sets if item.prompt_id in pairs}, pairs, gold)


def train(world: World, prompts: Sequence[str], judges: Sequence[str], heads: int, seed: int) -> Trained:
    """Train a reward model on the labels of some prompts; those of `judges` choose the state that is kept."""
    config, run = world.config, world.run
    settings: RewardConfig = dataclasses.replace(config.reward, heads=heads)
    base = load_base(run.read("base", "the simulation").path, config.base, config.precision)
    shared = build_reward_base(base, run.read("sft", "the simulation").path, settings, seed)
    own, held_out = ([pair for name in names for pair in world.pairs[name]] for names in (prompts, judges))
    with tempfile.TemporaryDirectory() as folder:
        tracker, runtime = Tracker.silent(), start_runtime()
        outcome = train_reward(shared, base.text, own, held_out, settings, seed, Path(folder), tracker, runtime)
    return Trained(shared, base.text, outcome.info)


def accuracy(world: World, model: Trained, prompts: Sequence[str]) -> float:
    """Return the share of the prompts' pairs, of those that gold tells apart, that the model orders like gold."""
    items = [(world.sets[name].prompt, response) for name in prompts for response in world.sets[name].responses]
    scores = iter(score_texts(model.shared, model.text, model.info, items, BATCH))
    hits: list[float] = []
    for name in prompts:
        item = world.sets[name]
        rated = [(next(scores), world.gold(item.prompt, response)) for response in item.responses]
        for (score, truth), (other_score, other_truth) in itertools.combinations(rated, 2):
            if truth != other_truth:
                hits.append(0.5 + 0.5 * float(np.sign((score - other_score) * (truth - other_truth))))
    return float(np.mean(hits))


def choices(doubts: Mapping[str, Doubt], count: int) -> dict[str, list[int]]:
    """Return which prompts of the pool each policy takes; the pool's order is random already."""
    chosen = {"random": list(range(count))}
    for name, doubt in doubts.items():
        chosen[name] = np.argsort(-doubt.uncertainty, kind="stable")[:count].tolist()
        chosen[f"{name}, diverse"] = order_by_doubt(doubt.uncertainty, doubt.features)[:count]
    features = doubts["entropy"].features
    return chosen | {"diverse": order_by_doubt(np.ones(len(features)), features)[:count]}


def simulate(
    world: World, seed: int, *, start: int, judges: int, count: int, held_out: int, pool_size: int
) -> dict[str, Any]:
    """Return the accuracy of each policy under one division of the prompts."""
    names = np.random.default_rng(seed).permutation(sorted(world.sets)).tolist()
    first, named, rest = names[:start], names[start : start + judges], names[start + judges :]
    truth, pool = rest[:held_out], rest[held_out : held_out + pool_size]
    sets = [world.sets[name] for name in pool]
    accuracies: dict[str, float] = {}
    doubts: dict[str, Doubt] = {}
    for name, heads in (("entropy", 1), ("spread", HEADS)):
        model = train(world, first, named, heads, seed)
        accuracies[f"before, {heads} heads"] = accuracy(world, model, truth)
        doubts[name] = measure_doubt(model.shared, model.text, model.info, sets, BATCH)
    for name, places in choices(doubts, count).items():
        model = train(world, [*first, *(pool[place] for place in places)], named, 1, seed)
        accuracies[name] = accuracy(world, model, truth)
    return {"seed": seed, "pool": len(pool), "accuracy": accuracies}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return each policy's mean accuracy, and mean and standard error of what it gains over random choice."""
    summary: dict[str, dict[str, float]] = {}
    for name in rows[0]["accuracy"]:
        values = np.array([row["accuracy"][name] for row in rows])
        gains = values - np.array([row["accuracy"]["random"] for row in rows])
        error = float(gains.std(ddof=1) / len(rows) ** 0.5) if len(rows) > 1 else float("nan")
        summary[name] = {"accuracy": float(values.mean()), "gain": float(gains.mean()), "gain_se": error}
    return summary


def main(folder: Path, out: Path, seeds: Sequence[int]) -> None:
    """Measure every seed; write after each."""
    world = read_world(folder)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        rows.append(simulate(world, seed, start=START, judges=JUDGES, count=CHOSEN, held_out=HELD_OUT, pool_size=POOL))
        content = {
            "start": START,
            "judges": JUDGES,
            "chosen": CHOSEN,
            "held_out": HELD_OUT,
            "pool": POOL,
            "heads": HEADS,
        }
        content |= {"summary": summarise(rows), "rows": rows}
        out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        sys.stderr.write(f"{rows[-1]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(seed) for seed in sys.argv[3:]] or SEEDS)
