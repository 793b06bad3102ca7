"""Our reward training on rankings beside TRL's `RewardTrainer` on their pairs: `python -m benchmarks.reward`.

The same rankings of four responses, as rankings here and as all six pairs there; the same base, LoRA, precision, learning rate,
epochs, and optimiser steps of as many rankings (the peer's steps hold as many pairs as our rankings have). Speed is measured on
the 15M shape in an epoch of a few steps, held-out accuracy on a small model that learns the preference within seconds.

Every measurement is a program of its own; rounds alternate between the sides, and what counts is the ratio of medians in one
run on one machine. Processor seconds stand beside wall seconds because other programs may share the machine. Results go to
`benchmarks/results/reward.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.ppo import RESULTS, ROOT, machine
from benchmarks.rankings import CANDIDATES

PEER, GROUPED, OURS = "trl", "trl, grouped", "ours"
CASES: dict[str, dict[str, Any]] = {
    "speed": {"shape": "15m", "learning_rate": 1e-4, "epochs": 1, "micro_batch": {PEER: 4, GROUPED: 4, OURS: 1536}},
    "accuracy": {
        "shape": "small", "learning_rate": 3e-3, "epochs": 3, "rankings": 512,
        "micro_batch": {PEER: 48, GROUPED: 48, OURS: 4096},
    },
}  # fmt: skip
"""The micro-batch is in pairs at the peer's and in tokens at ours; the peer's best one had to be searched for."""
BATCH = 16
SETTINGS = {"batch": BATCH, "centering": 0.01, "warmup_share": 0.1}
GOAL = 2.5
FLOOR = CANDIDATES * (CANDIDATES - 1) / CANDIDATES
"""Forward passes of responses: each is in three pairs, and in one ranking."""
Run = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the results."""
    options = _parse(arguments)
    runs: list[Run] = []
    load = [os.getloadavg()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for case in CASES:
            count = CASES[case].get("rankings", options.rankings)
            _program(["benchmarks.rankings", CASES[case]["shape"], str(count), str(folder / case)], options)
        for number in range(1, options.rounds + 1):
            for case in CASES:
                runs += [_measure(folder, case, side, number, options) for side in options.sides]
    load.append(os.getloadavg())
    summary = {case: summarise([run for run in runs if run["case"] == case]) for case in CASES}
    facts = machine()
    facts["versions"]["trl"] = version("trl")
    found = {"machine": facts, "load": load, "options": vars(options), "summary": summary, "runs": runs}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "reward.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for case, sides in summary.items():
        print(table(case, sides), flush=True)
    print(
        f"ratios are to the quicker peer; goal {GOAL}; responses alone give {FLOOR:.0f}, shared prompts and less padding the rest"
    )


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Return medians over the rounds of one case, and each side's ratio to the peer that is quicker by processor time."""
    sides: dict[str, Any] = {}
    for name in dict.fromkeys(run["side"] for run in runs):
        mine = [run for run in runs if run["side"] == name]
        accuracy = [run["accuracy"] for run in mine]
        sides[name] = {
            "rankings_per_s": statistics.median(rate(run["step_times"]) for run in mine),
            "rankings_per_cpu_s": statistics.median(rate(run["step_cpu_times"]) for run in mine),
            "peak_bytes": statistics.median(run["peak_bytes"] for run in mine),
            "imported_bytes": statistics.median(run["imported_bytes"] for run in mine),
            "accuracy": statistics.mean(accuracy),
            "accuracy_by_round": accuracy,
            "optimizer_steps": mine[0]["optimizer_steps"],
        }
    peers = [name for name in sides if name != OURS]
    if peers:
        best = sides[max(peers, key=lambda name: sides[name]["rankings_per_cpu_s"])]
        for side in sides.values():
            side["speed_ratio"] = side["rankings_per_s"] / best["rankings_per_s"]
            side["cpu_ratio"] = side["rankings_per_cpu_s"] / best["rankings_per_cpu_s"]
            side["memory_ratio"] = side["peak_bytes"] / best["peak_bytes"]
            # Without what merely importing the libraries takes.
            side["net_memory_ratio"] = _net_bytes(side) / _net_bytes(best)
    return sides


def rate(times: Sequence[float]) -> float:
    """Return rankings per second between the start and the end of the last step.

    No step is left out to warm up: where pairs are grouped by length, the first step has the longest of all.
    """
    return BATCH * (len(times) - 1) / (times[-1] - times[0])


def table(case: str, sides: dict[str, Any]) -> str:
    """Return the figures of one case as text."""
    lines = [
        f"\n{case} ({CASES[case]['shape']})",
        f"{'':16}{'rankings/s':>11}{'ratio':>7}{'per cpu s':>11}{'ratio':>7}{'peak GB':>9}{'ratio':>7}{'net':>7}{'steps':>7}  accuracy",
    ]
    for name, side in sides.items():
        each = ", ".join(f"{value:.3f}" for value in side["accuracy_by_round"])
        lines.append(
            f"{name:16}{side['rankings_per_s']:11.2f}{_ratio(side, 'speed_ratio')}{side['rankings_per_cpu_s']:11.2f}"
            f"{_ratio(side, 'cpu_ratio')}{side['peak_bytes'] / 1e9:9.2f}{_ratio(side, 'memory_ratio')}"
            f"{_ratio(side, 'net_memory_ratio')}{side['optimizer_steps']:7}  {side['accuracy']:.3f} ({each})"
        )
    return "\n".join(lines)


def _ratio(side: dict[str, Any], name: str) -> str:
    return f"{side[name]:7.2f}" if name in side else f"{'':7}"


def _net_bytes(side: dict[str, Any]) -> float:
    return side["peak_bytes"] - side["imported_bytes"]


def _measure(folder: Path, case: str, side: str, number: int, options: argparse.Namespace) -> Run:
    settings = CASES[case]
    job = {
        **SETTINGS,
        "model": str(folder / case),
        "folder": str(folder / f"{case}-{side.replace(', ', '-')}-{number}"),
        "learning_rate": settings["learning_rate"],
        "epochs": settings["epochs"],
        "micro_batch": settings["micro_batch"][side],
        "grouped": side == GROUPED,
        "threads": options.threads,
        "seed": number,
    }
    load = os.getloadavg()[0]
    result = _program([f"benchmarks.{'ours' if side == OURS else 'peer'}_reward", json.dumps(job)], options)
    print(
        f"round {number}, {case}, {side}: {rate(result['step_times']):.2f} rankings/s, "
        f"{rate(result['step_cpu_times']):.2f} per processor second (load before: {load:.1f})",
        flush=True,
    )
    return {"case": case, "side": side, "round": number, "load_before": load, **result}


def _program(arguments: Sequence[str], options: argparse.Namespace) -> Any:
    """Run one of our modules and return the JSON of its last line, if that is what it prints."""
    settings = {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(options.threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{arguments[0]} failed:\n{done.stderr[-3000:]}")
    last = done.stdout.strip().splitlines()[-1:]
    return json.loads(last[0]) if last and last[0].startswith("{") else None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reward", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side (default: 3)")
    parser.add_argument("--rankings", type=int, default=48, help=f"for speed, {BATCH} a step (default: 48)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each program (default: 2)")
    parser.add_argument("--sides", nargs="+", choices=(PEER, GROUPED, OURS), default=[PEER, GROUPED, OURS])
    parser.add_argument("--quick", action="store_true", help="one round, two steps for speed")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.rankings = 1, 2 * BATCH
    return options


if __name__ == "__main__":
    main()
