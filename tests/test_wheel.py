"""The wheel holds everything that the checkout has, and its core works without the training libraries."""

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.records import CandidateSet, write_jsonl

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCKED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "deepspeed", "bitsandbytes", "pyarrow")
# Python imports sitecustomize at start-up; this one makes the training libraries look absent.
BLOCKER = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy, so that nothing in the checkout changes.
    source = folder / "source"
    skipped = shutil.ignore_patterns(".*", "runs", "__pycache__", "shared")
    shutil.copytree(REPOSITORY, source, ignore=skipped)
    shutil.copy(REPOSITORY / ".gitignore", source)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of a fresh environment that holds the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    _run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
        cwd=folder,
    )
    packages = Path(
        _run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin"


@pytest.fixture
def without_training(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the training libraries cannot be imported."""
    folder = tmp_path / "blocker"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    return _environment() | {"PYTHONPATH": str(folder)}


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"{'rlhf/configs' if top == 'configs' else top}/{path.relative_to(REPOSITORY / top).as_posix()}"
        for top in ("rlhf", "stages", "labeling_ui", "configs")
        for path in (REPOSITORY / top).rglob("*")
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in path.parts)
    }
    assert {name for name in held if ".dist-info/" not in name} == wanted


def test_recipes_pages_and_templates_are_found_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import rlhf; from rlhf.config.load import load_config, recipes_folder;"
        "print(Path(rlhf.__file__).parent); print(recipes_folder()); print(load_config('quickstart').run)"
    )
    package, recipes, run = _run(str(installed / "python"), "-c", code, cwd=tmp_path).splitlines()
    assert not Path(package).is_relative_to(REPOSITORY)
    assert Path(recipes) == Path(package) / "configs"
    assert run
    _run(str(installed / "rlhf"), "config", "check", "quickstart", cwd=tmp_path)


def test_command_line_starts(installed: Path, tmp_path: Path) -> None:
    assert "usage: rlhf" in _run(str(installed / "rlhf"), "--help", cwd=tmp_path)


def test_core_works_without_the_training_libraries(
    installed: Path, tmp_path: Path, without_training: dict[str, str]
) -> None:
    python, rlhf = str(installed / "python"), str(installed / "rlhf")
    blocked = subprocess.run([python, "-c", "import torch"], env=without_training, capture_output=True, cwd=tmp_path)
    assert blocked.returncode == 1
    _run(python, "-c", "import labeling_ui.app", cwd=tmp_path, env=without_training)
    assert "serve" in _run(rlhf, "label", "--help", cwd=tmp_path, env=without_training)
    _run(rlhf, "run", "quickstart", "--dry-run", cwd=tmp_path, env=without_training)


def test_imported_tasks_are_served_without_the_training_libraries(
    installed: Path, tmp_path: Path, without_training: dict[str, str]
) -> None:
    write_jsonl(tmp_path / "candidates.jsonl", [CandidateSet("p-1", "Why is the sky blue?", ("It scatters.", "No."))])
    rlhf = str(installed / "rlhf")
    init = [rlhf, "label", "init", "labels.db", "--candidates", "candidates.jsonl", "--overlap", "1"]
    _run(*init, cwd=tmp_path, env=without_training)
    for address in _served([rlhf, "label", "serve", "labels.db"], tmp_path, without_training):
        assert _answers(address), address


def _served(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "serve.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield _announced(log, server)
    finally:
        server.terminate()
        server.wait(timeout=30)


def _announced(log: Path, server: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        found = re.search(r"http://\S+", log.read_text(encoding="utf-8"))
        if found:
            return found.group()
        time.sleep(0.1)
    raise AssertionError(f"the page was not announced:\n{log.read_text(encoding='utf-8')}")


def _answers(address: str) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(address, timeout=10) as response:
                return response.status == 200
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    return False


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env or _environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
