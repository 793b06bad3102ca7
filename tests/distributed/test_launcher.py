"""How several processes end: one message, from the one that failed first, and its exit code."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf.config.base import LaunchConfig
from rlhf.launch import launch_line
from rlhf.torchrun import describe

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        ("error", 1, "rank 1: pairs.jsonl line 41 is no pair, says the process on 2"),
        ("same-error", 1, r"rank \d: pairs.jsonl line 41 is no pair, says the process on 2"),
        (
            "killed",
            128 + signal.SIGKILL,
            r"rank 1 was ended by SIGKILL; did the machine run out of memory\? Run the same command again .*",
        ),
        (
            "killed-beside-a-sleeper",  # the launcher ends it before it notices anything itself
            128 + signal.SIGKILL,
            "rank 1 was ended by SIGKILL; .*",
        ),
        ("bug", 1, "rank 1 ended with exit code 1; what it said stands above"),
        (
            "other-recipe",
            2,
            r"rank \d: recipe differs on rank 1: \w{12} there, \w{12} on rank 0; give all nodes the same recipe.*",
        ),
        ("no-trl", 2, r"rank \d: version of trl differs on rank 1: none there, [\d.]+ on rank 0; give all nodes .*"),
        (
            "hang",
            1,
            r"rank 0: another process ended, or gave no answer for launch.timeout_minutes \(.*Timed out waiting 6000ms.*\); run the "
            "same command again to go on",
        ),
    ],
)
def test_a_failure_is_told_once_and_ends_all(ending: str, code: int, message: str) -> None:
    began = time.monotonic()
    done = _start([*_launcher(), ending])
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, done.stderr
    assert re.fullmatch(f"error: {message}", told[0]), told[0]
    assert done.returncode == code
    assert time.monotonic() - began < 90
    assert ("Traceback" in done.stderr) == (ending == "bug"), done.stderr
    assert "ChildFailedError" not in done.stderr


def test_one_that_lost_another_is_not_heard_though_it_spoke_first() -> None:
    failures = {
        0: SimpleNamespace(exitcode=1, timestamp=5),
        1: SimpleNamespace(exitcode=-signal.SIGKILL, timestamp=7),
    }
    code, said = describe(failures, {0: {"message": "lost", "code": 1, "time": 5.0, "lost_another": True}})
    assert code == 137
    assert said.startswith("rank 1 was ended by SIGKILL")


def test_all_is_well_without_a_word_of_the_launcher() -> None:
    done = _start([*_launcher(), "well"])
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]


def test_nodes_meet_and_one_that_fails_ends_the_other() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        subprocess.Popen(
            [*_launcher(1, port, rank), "error"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    told = [node.communicate(timeout=90)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [1, 1]
    assert told[1] == "error: rank 1: pairs.jsonl line 41 is no pair, says the process on 2\n"
    assert told[0].startswith("error: rank 0: another process ended")
    assert told[0].count("error: ") == 1


@pytest.mark.parametrize(
    ("ending", "kept", "code", "message"),
    [
        ("stop", "kept\n" * 2, 128 + signal.SIGTERM, "rank 0: stopped"),
        ("stop-full", "", 1, r"rank \d: checkpoint: the disk is full; .*"),
        ("early", "", 128 + signal.SIGTERM, "ended by SIGTERM; run the same command again to go on"),
    ],
)
def test_a_signal_that_reaches_every_process_and_is_passed_on_stops_in_good_order(
    ending: str, kept: str, code: int, message: str
) -> None:
    # As a batch system does it: all processes of the job get SIGTERM, and `rlhf launch` passes its own on.
    launcher = subprocess.Popen([*_launcher(), ending], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    assert [launcher.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    for number in (*_children(launcher), launcher.pid):
        os.kill(number, signal.SIGTERM)
    time.sleep(0.3)
    launcher.send_signal(signal.SIGTERM)
    told, errors = launcher.communicate(timeout=60)
    assert told == kept, errors
    assert launcher.returncode == code
    (said,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert re.fullmatch(f"error: {message}", said)


def test_no_process_outlives_a_launcher_that_was_killed() -> None:
    launcher = subprocess.Popen([*_launcher(), "stop"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert launcher.stdout is not None
    assert [launcher.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    children = _children(launcher)
    launcher.kill()
    try:
        # Their end of the pipe closes when both are gone; none says that it kept anything.
        assert launcher.communicate(timeout=20)[0] == ""
    finally:
        for number in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def _children(process: "subprocess.Popen[str]") -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [int(number) for number in found.split()]


def _launcher(processes: int = 2, port: int | None = None, rank: int = 0) -> list[str]:
    place = {} if port is None else {"nodes": 2, "rank": rank, "address": "127.0.0.1", "port": port}
    line = launch_line("ppo", Path("recipe"), [], LaunchConfig(processes=processes), **place)
    return [*line[: line.index("stages.ppo")], "tests.distributed.ending_program"]


def _start(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    assert command[0] == sys.executable
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
