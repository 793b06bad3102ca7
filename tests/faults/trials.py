"""One fault in one stage: what is done to it, and what must come of it.

A stage that is killed, ended or out of room must end, by the same command, with the bytes of the undisturbed one; a stage
whose input is gone, cut short or changed must refuse with one message, and leave everything else alone.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from rlhf.artifacts import Artifact
from rlhf.config.load import load_config
from rlhf.stage_graph import LAUNCHED, STAGES, StageName, parents_of
from tests.metrics import result_numbers

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "tests" / "pipeline" / "tiny.yaml"
# Micro-batches that divide among two processes.
DIVIDED = ("--sft.micro-batch-size", "8", "--reward.micro-batch-prompts", "8")
ZERO = {"alone": None, "zero0": 0, "zero2": 2, "zero3": 3}
DAMAGES = ("removed", "cut short", "changed")
PATIENCE = 180


@dataclass(frozen=True)
class Trial:
    """One disturbance of one stage.

    Attributes:
        number: Its place in the campaign.
        stage: The stage.
        mode: How it runs: `alone`, or two processes under a ZeRO stage.
        fault: What happens to it.
    """

    number: int
    stage: StageName
    mode: str
    fault: str


@dataclass(frozen=True)
class Outcome:
    """What came of it; `problem` is empty where all held."""

    trial: Trial
    disturbed: int
    problem: str
    seconds: float


class Bench:
    """Finished runs to compare with, and a folder to disturb copies in."""

    def __init__(self, folder: Path, modes: Sequence[str], alone: Path | None = None) -> None:
        """Take `alone` for the undisturbed run of one process, or make one."""
        self.folder = folder
        self.modes = tuple(modes)
        self._alone = alone or folder / "whole-alone"

    def whole(self, mode: str, stage: StageName) -> Path:
        """The undisturbed run that has a stage as a mode makes it; what comes before it is always of one process."""
        return self._alone if mode == "alone" else self.folder / f"whole-{mode}-{stage}"

    def prepare(self) -> None:
        """Make the undisturbed runs, each stage by its own command."""
        alone = self._alone
        for stage in STAGES:
            if not (alone / "round-1" / stage / "manifest.json").exists():
                self._run(stage, "alone", alone)
        for mode in self.modes[1:]:
            for stage in sorted(LAUNCHED):
                whole = self.whole(mode, stage)
                if not (whole / "round-1" / stage / "manifest.json").exists():
                    self.lay_out(stage, mode, whole)
                    self._run(stage, mode, whole)

    def lay_out(self, stage: StageName, mode: str, run: Path) -> None:
        """Copy what comes before a stage into a run folder; hard links would let a fault reach the original."""
        for parent in STAGES[: STAGES.index(stage)]:
            source, target = self._alone / "round-1" / parent, run / "round-1" / parent
            if not target.exists():
                shutil.copytree(source, target)

    def line(self, stage: StageName, mode: str, run: Path) -> list[str]:
        """Return the command of a stage."""
        options = ["--run", str(run)]
        if mode == "alone":
            return [sys.executable, "-m", f"stages.{stage}", str(RECIPE), *options]
        options = [*DIVIDED, *options]
        launch = ["-m", "rlhf.cli", "launch", stage, "--processes", "2", "--zero", str(ZERO[mode])]
        return [sys.executable, *launch, str(RECIPE), *options]

    def start(self, stage: StageName, mode: str, run: Path, log: Path) -> "subprocess.Popen[bytes]":
        """Start a stage in a session of its own."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.line(stage, mode, run), cwd=REPOSITORY, env=_environment(), stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def seconds(self, stage: StageName, mode: str) -> float:
        """Return how long the undisturbed stage worked, from its draft to its manifest."""
        return Artifact.open(self.whole(mode, stage) / "round-1" / stage).manifest.recorded["seconds"]

    def _run(self, stage: StageName, mode: str, run: Path) -> None:
        done = subprocess.run(
            self.line(stage, mode, run), cwd=REPOSITORY, env=_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{stage} ({mode}) does not run undisturbed:\n{done.stderr[-3000:]}")


def attempt(bench: Bench, trial: Trial, seed: int) -> Outcome:
    """Disturb a stage once and see what is left."""
    draw = random.Random(f"{seed}-{trial.number}")
    run = bench.folder / "trial" / "run"  # beside it lies the cache of bases, which every trial makes anew
    shutil.rmtree(run.parent, ignore_errors=True)
    bench.lay_out(trial.stage, trial.mode, run)
    started = time.monotonic()
    try:
        if trial.fault in DAMAGES:
            disturbed, problem = 1, _refuses_damage(bench, trial, run, draw)
        elif trial.fault == "disk full":
            disturbed, problem = _fills_disk(bench, trial, run, draw)
        else:
            disturbed, problem = _goes_on(bench, trial, run, draw)
    except _FailedError as error:
        disturbed, problem = 1, str(error)
    return Outcome(trial, disturbed, problem, time.monotonic() - started)


class _FailedError(Exception):
    """A trial ended otherwise than it must."""


def _goes_on(bench: Bench, trial: Trial, run: Path, draw: random.Random) -> tuple[int, str]:
    """Kill or end a stage at a random moment of its work, then let it go on."""
    log = bench.folder / "run.log"
    process = bench.start(trial.stage, trial.mode, run, log)
    _wait_for_work(process, run / "round-1" / f"{trial.stage}.partial", log)
    disturbed = 1
    try:
        process.wait(draw.uniform(0, bench.seconds(trial.stage, trial.mode)))
        disturbed = 0  # it was done before its time
    except subprocess.TimeoutExpired:
        disturb(trial.fault, process, draw)
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise _FailedError(f"still running {PATIENCE} s after it was {trial.fault}") from None
    said = log.read_text(encoding="utf-8", errors="replace")
    if disturbed and trial.fault == "terminated" and code not in (128 + signal.SIGTERM, 0):
        raise _FailedError(f"exit {code} after SIGTERM: {said[-800:]}")
    if trial.fault == "terminated" and "Traceback" in said:
        raise _FailedError(f"a traceback after SIGTERM: {said[-800:]}")
    _reap(process.pid)
    _finish(bench, trial, run)
    return disturbed, _difference(bench, trial, run)


def disturb(fault: str, process: "subprocess.Popen[bytes]", draw: random.Random) -> None:
    """Do to a running stage what a fault says."""
    if fault == "terminated":
        process.terminate()
    elif fault == "one killed":
        ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if "RANK" in _environ(child)]
        if ranks:
            draw.choice(ranks).kill()
    else:
        # A launcher's processes have sessions of their own.
        members = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(members, PATIENCE)


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _reap(session: int) -> None:
    """Wait until nothing of a session is left: what lives on would write beside the next attempt."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        left = [pid for pid in psutil.pids() if _session(pid) == session]
        if not left:
            return
        time.sleep(0.05)
    raise _FailedError("processes of a killed stage live on")


def _session(pid: int) -> int | None:
    try:
        found = os.getsid(pid)
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else found
    except (OSError, psutil.Error):
        return None


def _fills_disk(bench: Bench, trial: Trial, run: Path, draw: random.Random) -> tuple[int, str]:
    """Run a stage on a small disk with less room than it needs, then give it room."""
    disk = bench.folder / "disk"
    disk.mkdir(exist_ok=True)
    needed = sum(
        path.stat().st_size for path in (bench.whole("alone", trial.stage) / "round-1" / trial.stage).rglob("*")
    )
    room = max(4096, int(draw.uniform(0.05, 0.7) * needed))
    line = " ".join(bench.line(trial.stage, "alone", disk / "run"))
    script = (
        f"mount -t tmpfs -o size=400m tmpfs {disk} && cp -r {run} {disk}/run && "
        f"free=$(($(stat -f -c '%a*%S' {disk}))) && head -c $((free - {room})) /dev/zero > {disk}/filler; "
        f"{line}; code=$?; rm {disk}/filler; rm -rf {run}; cp -r {disk}/run {run}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=REPOSITORY, env=_environment(), capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    if done.returncode:
        _require_one_message(done.stderr, "disk is full")
    _finish(bench, trial, run)
    return int(done.returncode != 0), _difference(bench, trial, run)


def _refuses_damage(bench: Bench, trial: Trial, run: Path, draw: random.Random) -> str:
    """Damage a file that the stage reads: it must say so, and leave everything else alone."""
    parent = draw.choice(parents_of(trial.stage, load_config(RECIPE)))
    folder = run / "round-1" / parent
    name = draw.choice(sorted(Artifact.open(folder).manifest.content))
    damage(folder / name, trial.fault, draw)
    before = _bytes_of(run)
    done = subprocess.run(
        bench.line(trial.stage, "alone", run),
        cwd=REPOSITORY, env=_environment(), capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    what = f"{parent}/{name} {trial.fault}"
    if done.returncode != 1:
        return f"{what}: exit {done.returncode}: {done.stderr[-800:]}"
    _require_one_message(done.stderr, name)
    left = {path: content for path, content in _bytes_of(run).items() if ".partial" not in path.as_posix()}
    return "" if left == before else f"{what}: the refusal changed {sorted(map(str, left.keys() ^ before.keys()))}"


def damage(path: Path, kind: str, draw: random.Random) -> None:
    """Remove a file, cut it short, or change one of its bytes."""
    if kind == "removed":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    if kind == "cut short":
        del content[draw.randrange(len(content)) :]
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


def _require_one_message(said: str, word: str) -> None:
    if said.count("error: ") != 1 or word not in said or "Traceback" in said:
        raise _FailedError(f"not one message with {word!r}: {said[-800:]}")


def _finish(bench: Bench, trial: Trial, run: Path) -> None:
    done = subprocess.run(
        bench.line(trial.stage, trial.mode, run),
        cwd=REPOSITORY, env=_environment(), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if done.returncode:
        raise _FailedError(f"does not go on, exit {done.returncode}: {(done.stderr + done.stdout)[-800:]}")


def _difference(bench: Bench, trial: Trial, run: Path) -> str:
    """Say what differs from the undisturbed run: identity, content, numbers."""
    expected = Artifact.open(bench.whole(trial.mode, trial.stage) / "round-1" / trial.stage)
    found = Artifact.open(run / "round-1" / trial.stage)
    old, new = expected.manifest.content, found.manifest.content
    wrong = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if result_numbers(expected.path) != result_numbers(found.path):
        wrong.append("metrics.jsonl")
    if (run / "round-1" / f"{trial.stage}.partial").exists():
        wrong.append("a partial folder is left")
    return ", ".join(wrong)


def _bytes_of(run: Path) -> dict[Path, bytes]:
    skipped = (".lock", ".hashes.json")
    return {
        path.relative_to(run): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and not path.name.endswith(skipped)
    }


def _wait_for_work(process: "subprocess.Popen[bytes]", partial: Path, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not partial.exists():
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise _FailedError(f"did not begin within {PATIENCE} s: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.01)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
