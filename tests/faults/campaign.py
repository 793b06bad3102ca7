"""Faults in every stage: python -m tests.faults.campaign FOLDER [--kills N] [--minutes M] [--seed S].

The tiny recipe is run once from base to export, without disturbance, alone and on two processes under ZeRO-2 and ZeRO-3.
Then every stage is disturbed: killed at random moments (all its processes, or one of several), ended by SIGTERM, started on
a disk that fills up, started on inputs that are gone, cut short or changed. After a disturbance the same command must end with
the same bytes; damaged inputs must be refused with one message.

FOLDER/trials.jsonl has a row per trial. Trials are numbered and drawn from the seed: the same command goes on where it
was stopped. At the end comes a table; the exit code is 1 if any trial failed.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.stage_graph import LAUNCHED, STAGES, StageName
from tests.faults.trials import DAMAGES, ZERO, Bench, Outcome, Trial, attempt


def plan_trials(kills: int, modes: Sequence[str], seed: int) -> list[Trial]:
    """Return all trials: every stage, mode and fault in turn, as often as it takes to reach the number of kills."""
    draw = random.Random(seed)
    places: list[tuple[StageName, str]] = [
        (stage, mode) for stage in STAGES for mode in (modes if stage in LAUNCHED else modes[:1])
    ]
    kinds: list[tuple[StageName, str, str]] = [
        (stage, mode, fault)
        for stage, mode in places
        for fault in ("killed", "one killed")
        if fault == "killed" or mode != "alone"
    ]
    ends: list[tuple[StageName, str, str]] = [(stage, mode, "terminated") for stage, mode in places]
    single: list[tuple[StageName, str, str]] = [
        (stage, "alone", fault)
        for stage in STAGES
        for fault in ("disk full", *DAMAGES)
        if fault == "disk full" or stage != "base"
    ]
    rounds = -(-kills // len(kinds))
    chosen = [kind for _ in range(rounds) for kind in draw.sample(kinds, len(kinds))][:kills]
    mixed = [*chosen, *ends, *single]
    draw.shuffle(mixed)
    return [Trial(number, *kind) for number, kind in enumerate(mixed)]


def read_outcomes(path: Path) -> list[Outcome]:
    """Return what earlier calls found."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Outcome(**{**row, "trial": Trial(**row["trial"])}) for row in rows]


def campaign(folder: Path, kills: int, modes: Sequence[str], seed: int, seconds: float) -> Iterator[Outcome]:
    """Yield the outcome of one trial after another; earlier ones first."""
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder.resolve(), modes)
    bench.prepare()
    path = folder / "trials.jsonl"
    known = {outcome.trial: outcome for outcome in read_outcomes(path)}
    deadline = time.monotonic() + seconds
    for trial in plan_trials(kills, modes, seed):
        if trial in known:
            yield known[trial]
            continue
        if time.monotonic() > deadline:
            return
        outcome = attempt(bench, trial, seed)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        yield outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Return counts by stage and fault: disturbed trials, of which failed; then every problem."""
    faults = list(dict.fromkeys(("killed", "one killed", "terminated", "disk full", *DAMAGES)))
    done: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        done[outcome.trial.stage, outcome.trial.fault] += outcome.disturbed
        failed[outcome.trial.stage, outcome.trial.fault] += bool(outcome.problem)
    rows = [["stage", *faults], ["---"] * (len(faults) + 1)]
    for stage in STAGES:
        cells = [
            f"{done[stage, fault]}" + (f" ({failed[stage, fault]} FAILED)" * (failed[stage, fault] > 0))
            for fault in faults
        ]
        rows.append([stage, *cells])
    rows.append(["all", *(str(sum(done[stage, fault] for stage in STAGES)) for fault in faults)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        f"trial {o.trial.number}: {o.trial.stage} ({o.trial.mode}) {o.trial.fault}: {o.problem}"
        for o in outcomes
        if o.problem
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description="Faults in every stage.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modes", nargs="+", default=["alone", "zero2", "zero3"], choices=list(ZERO))
    given = parser.parse_args()
    outcomes: list[Outcome] = []
    for outcome in campaign(given.folder, given.kills, given.modes, given.seed, given.minutes * 60):
        outcomes.append(outcome)
        trial = outcome.trial
        sys.stderr.write(
            f"{trial.number:4d} {trial.stage:10s} {trial.mode:6s} {trial.fault:10s} {outcome.seconds:5.1f} s {outcome.problem}\n"
        )
    sys.stdout.write(table(outcomes) + "\n")
    left = len(plan_trials(given.kills, given.modes, given.seed)) - len(outcomes)
    if left:
        sys.stdout.write(f"{left} trials are left; the same command goes on with them\n")
    sys.exit(any(outcome.problem for outcome in outcomes))


if __name__ == "__main__":
    main()
