"""One tiny run of the whole pipeline, made once through the command line; tests work on copies of it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

RECIPE = Path(__file__).with_name("tiny.yaml")


@dataclass(frozen=True)
class Shell:
    """Runs `rlhf` commands in a folder of their own, as a user would."""

    folder: Path

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "runs" / "tiny"

    def rlhf(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command; fail the test where it fails and `check` is set."""
        done = subprocess.run(
            self.line(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"rlhf {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def line(self, *arguments: str) -> list[str]:
        """The command line of `rlhf`."""
        return [sys.executable, "-m", "rlhf.cli", *arguments]

    def environment(self) -> dict[str, str]:
        """The environment, with this checkout in front."""
        return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Shell:
    """Make the tiny run from base to export, once for all test processes; read it, do not change it."""
    own = tmp_path_factory.getbasetemp()
    shell = Shell((own if worker_id == "master" else own.parent) / "pipeline")
    with FileLock(f"{shell.folder}.lock"):
        if not (shell.run / "summary.json").exists():
            shell.folder.mkdir(exist_ok=True)
            shell.rlhf("run", str(RECIPE))
    return shell


@pytest.fixture
def copy(finished: Shell, tmp_path: Path) -> Shell:
    """Return a copy of the finished run that a test may change."""
    shutil.copytree(finished.folder / "runs", tmp_path / "runs")
    return Shell(tmp_path)
