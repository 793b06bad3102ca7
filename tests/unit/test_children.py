"""A stage that is forked from the server cannot be told from one in an interpreter of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf import children
from rlhf.lock import find_holder

pytestmark = pytest.mark.slow
PROBE = """
import atexit, json, os, signal, sys, time
atexit.register(lambda: print("left"))
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("PROBE"), __name__, os.getppid()]), flush=True)
sys.stderr.write("to stderr\\n")
if sys.argv[1] == "sleep":
    def end(*_):
        time.sleep(0.5)  # as a checkpoint would take
        open("ended", "w").close()
        sys.exit(7)
    signal.signal(signal.SIGTERM, end)
    open("ready", "w").close()
    time.sleep(60)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"probe_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(children, "has_gpu", lambda: False)
    return name


def start_program(text: str, folder: Path, awaited: str) -> subprocess.Popen[str]:
    """Start a Python program in a folder, as the head of a process group, and wait until it made a file there."""
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (folder / awaited).exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("code", [0, 3])
def test_arguments_place_streams_and_exit_code_are_those_of_now(
    probe: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / f"at {code}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PROBE", f"set for {code}")
    capfd.readouterr()
    assert children.run_module(probe, [str(code), "b c"], []) == code
    out, errors = capfd.readouterr()
    said, left = out.splitlines()
    assert json.loads(said)[:4] == [[str(code), "b c"], str(folder), f"set for {code}", "__main__"]
    assert (left, errors) == ("left", "to stderr\n")


def test_children_share_one_server_unless_there_is_a_gpu(
    probe: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def parent_of_child() -> int:
        capfd.readouterr()
        children.run_module(probe, ["0"], [])
        return json.loads(capfd.readouterr().out.splitlines()[0])[4]

    assert parent_of_child() == parent_of_child() != os.getpid()
    monkeypatch.setattr(children, "has_gpu", lambda: True)
    assert parent_of_child() == os.getpid()


def test_a_killed_child_is_told_by_its_signal(probe: str) -> None:
    assert children.run_module(probe, ["kill"], []) == -signal.SIGKILL


@pytest.mark.parametrize("start", ["module", "line"])
def test_a_signal_is_passed_on(probe: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    run: dict[str, Callable[[], int]] = {
        "module": lambda: children.run_module(probe, ["sleep"], []),
        "line": lambda: children.run_child([sys.executable, "-m", probe, "sleep"]),
    }
    before = signal.getsignal(signal.SIGTERM)
    assert run[start]() == 7
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["parent", "group"])
def test_a_signal_while_the_server_still_imports_reaches_the_child(
    probe: str, tmp_path: Path, send: Callable[[int, int], None], number: int
) -> None:
    """Else a stage would begin after `rlhf run` was told to end, and work without a parent."""
    (tmp_path / "slow_to_import.py").write_text("import time; open('importing', 'w').close(); time.sleep(2)")
    line = f"from rlhf.children import run_module; print(run_module({probe!r}, ['sleep'], ['slow_to_import']))"
    process = start_program(line, tmp_path, "importing")
    send(process.pid, number)
    out, errors = process.communicate(timeout=30)
    # The child dies at once, or ends by itself where it could set its handler first.
    assert out.splitlines()[-1] in (str(-number), "7"), errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "call", ["run_module({0!r}, ['sleep'], [])", "run_child([sys.executable, '-m', {0!r}, 'sleep'])"]
)
def test_the_child_of_a_killed_parent_ends_and_holds_the_folder_until_then(
    probe: str, call: str, tmp_path: Path
) -> None:
    program = f"""
import sys
from pathlib import Path
from rlhf.children import run_child, run_module
from rlhf.lock import hold
with hold(Path("run")):
    {call.format(probe)}
"""
    parent = start_program(program, tmp_path, "ready")
    parent.kill()
    parent.wait()
    assert find_holder(tmp_path / "run") == str(parent.pid)
    deadline = time.monotonic() + 30
    while find_holder(tmp_path / "run") is not None:
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.01)
    assert (tmp_path / "ended").exists()
    parent.communicate(timeout=30)


def test_without_a_place_for_the_servers_socket_a_child_gets_its_own_interpreter(probe: str, tmp_path: Path) -> None:
    temporary = tmp_path / ("x" * 100)  # the path of a socket has at most 108 characters
    temporary.mkdir()
    line = f"from rlhf.children import run_module; print(run_module({probe!r}, ['5'], []))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "5", done.stderr


def test_importing_the_stages_starts_no_thread_that_a_fork_would_lose(repository: Path) -> None:
    """A lock held by a thread that the fork leaves behind is held for ever (OpenBLAS's own pools survive forks)."""
    imports = "; ".join(f"import stages.{path.stem}" for path in sorted((repository / "stages").glob("[a-z]*.py")))
    line = f"{imports}; import os; print(len(os.listdir('/proc/self/task')))"
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 1
