"""Our PPO update beside TRL's, on the same model, prompts, batch and response lengths: `python -m benchmarks.ppo`.

Every measurement is a program of its own; rounds alternate between the sides, and what counts is the ratio of medians
in one run on one machine. Processor seconds stand beside wall seconds because other programs may share the machine.
Results go to `benchmarks/results/ppo.json`, those of another shape to `ppo-SHAPE.json`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.floor import floor_seconds
from benchmarks.shapes import SHAPES, Shape, logit_bias, shape_of

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
PEER_VENV = HERE / ".peer-venv"
PEER_PACKAGES = ("trl==1.12.0", "transformers", "peft", "accelerate", "datasets")
WHOLE = "trl, whole batch"
GOALS = {
    ("fixed", "ours, head critic"): 3.0,
    ("fixed", "ours, adapter critic"): 2.5,
    ("natural", "ours, head critic"): 5.0,
    ("natural", "ours, adapter critic"): 4.0,
}
"""By length and side, of episodes per second over the peer's, on the 15M shape."""
LENGTH_TOLERANCE = 0.05
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
Run = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the results."""
    options = _parse(arguments)
    shape = shape_of(options.shape, options.batch)
    wanted = options.dtypes or list(shape.dtypes)
    dtypes = [dtype for dtype in wanted if _can_measure(shape, dtype)]
    if not dtypes:
        sys.exit(f"nothing to measure: {'no GPU' if shape.device == 'cuda' else 'no bf16 instructions'} here")
    if "trl" in options.sides:
        _make_peer()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _program([sys.executable, "-m", "benchmarks.shapes", options.shape, str(folder / "model")], options)
        cases = [(dtype, length) for dtype in dtypes for length in options.lengths]
        runs: list[Run] = []
        for round_number in range(1, options.rounds + 1):
            for dtype, length in cases:
                runs += _round(folder, dtype, length, round_number, options)
        floor = [sys.executable, "-m", "benchmarks.floor", options.shape, str(options.threads)]
        rates = {dtype: _program([*floor, dtype], options) for dtype in dtypes}
    summary = [summarise(shape, runs, dtype, length, rates[dtype]) for dtype, length in cases]
    _write(
        options.shape,
        {"machine": machine(), "options": vars(options), "rates": rates, "summary": summary, "runs": runs},
    )
    for case in summary:
        _say(table(case))
    if len(dtypes) < len(wanted):
        _say("bf16: not run, the processor has no bf16 instructions")
    _say("ratio, net: to TRL at its best micro-batch; net of imports. whole: to TRL with the whole batch at once.")
    for dtype, found in rates.items():
        speeds = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in found.items())
        _say(f"floor rates, {dtype}: {speeds}")


def sides_of(shape: Shape) -> dict[str, int]:
    """Return the sides that are compared, the peer at its best first, each with its micro-batch."""
    ours = {f"ours, {critic} critic": shape.micro_batch for critic in ("head", "adapter")}
    return dict(zip(("trl", WHOLE), shape.peer_micro_batches, strict=False)) | ours


def summarise(shape: Shape, runs: Sequence[Run], dtype: str, length: str, rates: dict[str, float]) -> dict[str, Any]:
    """Return medians over the rounds of one case, and each side's ratio to the peer."""
    sides: dict[str, Any] = {}
    for side in sides_of(shape):
        mine = [run for run in runs if (run["side"], run["dtype"], run["length"]) == (side, dtype, length)]
        if not mine:
            continue
        lengths = [tokens for run in mine for tokens in run["response_lengths"]]
        seconds, cpu = (
            statistics.median(value for run in mine for value in run[f"update_{kind}seconds"]) for kind in ("", "cpu_")
        )
        sides[side] = {
            "episodes": len(lengths),
            "mean_length": statistics.mean(lengths),
            "length_histogram": histogram(lengths, shape.response),
            "episodes_per_s": shape.batch / seconds,
            "response_tokens_per_s": shape.batch / seconds * statistics.mean(lengths),
            "cpu_seconds_per_update": cpu,
            "peak_bytes": statistics.median(run["peak_bytes"] for run in mine),
            "imported_bytes": statistics.median(run["imported_bytes"] for run in mine),
            "steps_per_update": mine[0]["optimizer_steps"] / (mine[0]["updates"] + mine[0]["warmup"]),
        }
        if "phase_seconds" in mine[0]:
            sides[side] |= _phases(shape, mine, lengths, side, rates)
    peer, whole = sides.get("trl"), sides.get(WHOLE)
    for side in sides.values():
        if peer:
            side["speed_ratio"] = side["episodes_per_s"] / peer["episodes_per_s"]
            side["cpu_ratio"] = peer["cpu_seconds_per_update"] / side["cpu_seconds_per_update"]
            side["memory_ratio"] = side["peak_bytes"] / peer["peak_bytes"]
            # Without what merely importing the libraries takes.
            side["net_memory_ratio"] = _net_bytes(side) / _net_bytes(peer)
            side["length_ratio"] = side["mean_length"] / peer["mean_length"]
        if whole:
            side["whole_batch_speed_ratio"] = side["episodes_per_s"] / whole["episodes_per_s"]
            side["whole_batch_memory_ratio"] = side["peak_bytes"] / whole["peak_bytes"]
    return {"dtype": dtype, "length": length, "sides": sides}


def _net_bytes(side: dict[str, Any]) -> float:
    return side["peak_bytes"] - side["imported_bytes"]


def _phases(
    shape: Shape, mine: Sequence[Run], lengths: Sequence[int], side: str, rates: dict[str, float]
) -> dict[str, Any]:
    updates = len(lengths) / shape.batch
    floor = floor_seconds(shape, lengths, "adapter" if "adapter" in side else "head", rates)
    return {
        "phase_seconds": {
            name: statistics.median(value for run in mine for value in run["phase_seconds"][name]) for name in floor
        },
        "floor_seconds": {name: value / updates for name, value in floor.items()},
    }


def histogram(lengths: Sequence[int], longest: int, bins: int = 8) -> list[int]:
    """Count lengths in equal bins from 1 to the longest response."""
    counts = [0] * bins
    for tokens in lengths:
        counts[(tokens - 1) * bins // longest] += 1
    return counts


def table(case: dict[str, Any]) -> str:
    """Return the figures of one case as text."""
    lines = [f"\n{case['length']} length, {case['dtype']}"]
    lines.append(
        f"{'':22}{'episodes/s':>11}{'tokens/s':>9}{'ratio':>7}{'cpu':>7}{'goal':>6}{'whole':>7}{'peak GB':>9}{'ratio':>7}{'net':>7}{'whole':>7}"
        f"{'length':>8}{'steps':>7}"
    )
    for name, side in case["sides"].items():
        goal = GOALS.get((case["length"], name))
        lines.append(
            f"{name:22}{side['episodes_per_s']:11.2f}{side['response_tokens_per_s']:9.0f}{_ratio(side, 'speed_ratio')}{_ratio(side, 'cpu_ratio')}"
            f"{'' if goal is None else f'{goal:.1f}':>6}{_ratio(side, 'whole_batch_speed_ratio')}"
            f"{side['peak_bytes'] / 1e9:9.2f}{_ratio(side, 'memory_ratio')}{_ratio(side, 'net_memory_ratio')}"
            f"{_ratio(side, 'whole_batch_memory_ratio')}{side['mean_length']:8.1f}{side['steps_per_update']:7.1f}"
        )
    for name, side in case["sides"].items():
        lines.append(f"lengths, {name:22} {side['length_histogram']}")
        if abs(side.get("length_ratio", 1) - 1) > LENGTH_TOLERANCE:
            lines.append(f"  WARNING: mean length is {side['length_ratio']:.2f} of the peer's; compare with care")
        if "floor_seconds" in side:
            parts = [
                f"{phase} {side['phase_seconds'][phase]:.2f} s (floor {seconds:.2f}, {seconds / side['phase_seconds'][phase]:.0%})"
                for phase, seconds in side["floor_seconds"].items()
            ]
            lines.append(f"  phases: {', '.join(parts)}")
    return "\n".join(lines)


def _ratio(side: dict[str, Any], name: str) -> str:
    return f"{side[name]:7.2f}" if name in side else f"{'':7}"


def _round(folder: Path, dtype: str, length: str, number: int, options: argparse.Namespace) -> list[Run]:
    """Measure all sides once, the peer first: our side then samples responses of its mean length."""
    found: list[Run] = []
    shape = shape_of(options.shape, options.batch)
    for side, micro_batch in sides_of(shape).items():
        if not any(word in side for word in options.sides):
            continue
        job = _job(folder, dtype, length, number, options, side) | {"micro_batch": micro_batch}
        if not side.startswith("trl") and length == "natural" and found:
            job["match"] = statistics.mean(found[0]["response_lengths"])
        ours = [sys.executable, "-m", "benchmarks.ours_ppo"]
        peer = [str(PEER_VENV / "bin" / "python"), str(HERE / "peer_trl.py")]
        load = os.getloadavg()[0]
        result = _program([*(peer if side.startswith("trl") else ours), json.dumps(job)], options)
        if result is None:
            _say(f"round {number}, {length}, {dtype}, {side}: does not fit into the device's memory")
            continue
        facts = {"side": side, "round": number, "load_before": load}
        found.append(
            {**facts, **{key: job[key] for key in ("dtype", "length", "warmup", "updates", "micro_batch")}, **result}
        )
        speed = shape.batch / statistics.median(result["update_seconds"])
        _say(f"round {number}, {length}, {dtype}, {side}: {speed:.2f} episodes/s (load before: {load:.1f})")
    return found


def _job(folder: Path, dtype: str, length: str, number: int, options: argparse.Namespace, side: str) -> Run:
    return {
        "shape": options.shape,
        "batch": options.batch,
        "model": str(folder / "model"),
        "folder": str(folder / f"{side.replace(', ', '-').replace(' ', '-')}-{dtype}-{length}-{number}"),
        "dtype": dtype,
        "length": length,
        "logit_bias": logit_bias(SHAPES[options.shape], length),
        "warmup": 1,
        "updates": options.updates,
        "critic": "adapter" if "adapter" in side else "head",
        "seed": 1000 * number,
        "threads": options.threads,
    }


def _program(command: Sequence[str], options: argparse.Namespace) -> Any:
    """Run a program and return the JSON of its last line; None where it prints none, or the GPU's memory is too small."""
    hidden = {} if SHAPES[options.shape].device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    settings = {
        **hidden,
        "OMP_NUM_THREADS": str(options.threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    done = subprocess.run(command, env=os.environ | settings, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and "OutOfMemoryError" in done.stderr:
        return None
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stderr[-3000:]}")
    last = done.stdout.strip().splitlines()[-1:]
    return json.loads(last[0]) if last and last[0].startswith("{") else None


def _make_peer() -> None:
    """Create the peer's virtual environment, with our versions of everything but TRL."""
    ready = PEER_VENV / ".ready"
    if ready.exists():
        return
    pip = [str(PEER_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    _say(f"creating {PEER_VENV.relative_to(ROOT)} (once, some minutes)")
    subprocess.run([sys.executable, "-m", "venv", str(PEER_VENV)], check=True)
    limits = PEER_VENV / "constraints.txt"
    limits.write_text("\n".join(line for line in lines if not line.startswith("trl==")) + "\n", encoding="utf-8")
    # The build of torch that we run with: an index may prefer one for another device.
    subprocess.run([*pip, *os.environ.get("TORCH", f"torch=={version('torch').split('+')[0]}").split()], check=True)
    subprocess.run([*pip, "--constraint", str(limits), *PEER_PACKAGES], check=True)
    ready.touch()


def _can_measure(shape: Shape, dtype: str) -> bool:
    if shape.device == "cuda":
        return torch.cuda.is_available()
    return dtype == "fp32" or bool(BF16_FLAGS & _cpu_flags())


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


def machine() -> dict[str, Any]:
    """Return what a result's reader must know of the machine and the libraries."""
    names = ("torch", "transformers", "peft", "accelerate", "datasets")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "cpu_flags": sorted(_cpu_flags() & {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def _write(shape: str, results: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / ("ppo.json" if shape == "15m" else f"ppo-{shape}.json")
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ppo", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="15m", help="0.5b and 1.5b need a GPU (default: 15m)")
    parser.add_argument("--batch", type=int, help="episodes per update (default: those of the shape)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side (default: 3)")
    parser.add_argument("--updates", type=int, default=2, help="measured updates, after one that warms up (default: 2)")
    parser.add_argument("--sides", nargs="+", choices=("trl", "head", "adapter"), default=["trl", "head", "adapter"])
    parser.add_argument("--threads", type=int, default=2, help="threads of each program (default: 2)")
    parser.add_argument("--lengths", nargs="+", choices=("fixed", "natural"), default=["fixed", "natural"])
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "bf16"), help="default: those of the shape")
    parser.add_argument("--quick", action="store_true", help="one round of one measured update")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = options.updates = 1
    return options


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
