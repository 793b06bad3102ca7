"""How a command ends: what the system refuses is one message, no data steers the terminal, printing fails for no one."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.entry import guarded
from rlhf.errors import DataError

PROGRAM = """
import sys
from rlhf.entry import guarded
def act():
    sys.stdout.write("é 😀 ≤\\n")
    sys.stdout.flush()
    sys.stderr.write("told\\n")
    __import__("subprocess").run([sys.executable, "-c", "import sys; sys.stdout.write('child')"], check=True)
sys.exit(guarded(act))
"""


@pytest.mark.parametrize(
    "number", [errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EIO, errno.EEXIST, errno.EFBIG, errno.EPERM]
)
def test_refusal_of_the_system_is_one_message(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number), "some/path")

    assert guarded(refuse) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: some/path: ")
    assert errors.count("\n") == 1


def test_unexpected_errors_keep_their_traceback() -> None:
    def fail() -> None:
        raise OSError(errno.ENOENT, "ours to mend", "some/path")

    with pytest.raises(FileNotFoundError):
        guarded(fail)


@pytest.mark.parametrize("streams", ["", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii:strict"])
def test_printing_fails_for_no_one(tmp_path: Path, streams: str, encoding: str) -> None:
    name = encoding.partition(":")[0]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        ["sh", "-c", f'"$0" "$1" {streams}', sys.executable, str(program)],
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        encoding=name,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = "é 😀 ≤".encode(name, "replace").decode(name) + "\nchild"
    assert done.stdout == ("" if ">&-" in streams.replace("2>&-", "") else printed)
    assert done.stderr == ("" if "2>&-" in streams else "told\n")


@pytest.mark.parametrize("command", [["clean"], ["chat"], ["label", "status"]])
def test_commands_on_a_run_take_its_recipe_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "the run"
    recipe.write_text(f"run: {run}\n")
    with pytest.raises(SystemExit) as ended:
        main([*command, str(recipe)])
    assert ended.value.code != 0
    assert str(run) in capsys.readouterr().err


def test_an_error_is_told_without_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise DataError("p.jsonl:\n  role is \x1b[2Jred\x1b]0;title\x07")

    assert guarded(fail) == 1
    assert capfd.readouterr().err == "error: p.jsonl:\n  role is [2Jred]0;title\n"


def test_examples_are_shown_without_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def examples(*_: object) -> Iterator[str]:
        yield "--- p-1\n\x1b[2Jhello\x9b31m"

    monkeypatch.setattr("rlhf.show.show_stage", examples)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["show", "quickstart", "sft"])
    assert ended.value.code == 0
    assert capfd.readouterr().out == "--- p-1\n[2Jhello31m\n"
