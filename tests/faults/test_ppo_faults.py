"""PPO killed at random moments, and out of disk space in the middle of a checkpoint.

`FAULT_KILLS` sets how often the run is killed (3 in `make test`, 20 in `make faults`); `FAULT_SEED` repeats a campaign.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf.ppo.checkpoint import find_checkpoints
from tests.unit.ppo.test_resume import require_same
from tests.unit.ppo.world import train

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("FAULT_KILLS", "3"))
SEED = int(os.environ.get("FAULT_SEED") or time.time_ns() % 1_000_000)
UPDATES = 12
SECONDS_PER_SCORE = 0.05


def command(folder: Path) -> list[str]:
    """The tiny run as a program, slowed down a little so that there is time to be killed."""
    return [sys.executable, "-m", "tests.unit.ppo.world", str(folder), str(SECONDS_PER_SCORE), str(UPDATES)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nobody disturbed, and how long it trained."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    subprocess.run(command(folder), check=True, capture_output=True)
    return folder / "ppo", time.monotonic() - started


@pytest.mark.timeout(0)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path, whole: tuple[Path, float]) -> None:
    expected, seconds = whole
    draw = random.Random(SEED)
    kills, finished = 0, 0
    while kills < KILLS:
        folder = tmp_path / f"run-{finished}"
        folder.mkdir(exist_ok=True)
        process = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_training(process, folder)
        try:
            process.wait(draw.uniform(0, seconds / 3))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0, f"seed {SEED}: exit {process.returncode} after {kills} kills"
        require_same(folder / "ppo", expected, UPDATES)
        finished += 1
    last = tmp_path / f"run-{finished}"
    subprocess.run(command(last), check=True, capture_output=True)
    require_same(last / "ppo", expected, UPDATES)


def test_a_full_disk_during_a_checkpoint_leaves_the_last_one_whole(tmp_path: Path) -> None:
    """The disk fills up between two checkpoints; with room again, the run goes on to the same bytes."""
    disk, roomy = tmp_path / "disk", tmp_path / "roomy"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=8m tmpfs {disk}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here; run as root")
    train(tmp_path / "expected", updates=3)
    # Two updates fit. Then all but a few kilobytes of the disk are taken, and the run is started again.
    script = (
        f"{mount} && cp -r {tmp_path / 'two'}/. {disk} && "
        f"(head -c 100m /dev/zero > {disk}/filler; truncate -s -20k {disk}/filler; true) && "
        f"{' '.join([sys.executable, '-m', 'tests.unit.ppo.world', str(disk), '0', '3'])}; "
        f"code=$?; rm {disk}/filler; cp -r {disk} {roomy}; exit $code"
    )
    train(tmp_path / "three", updates=3)
    shutil.copytree(tmp_path / "three", tmp_path / "two")
    _forget_last_update(tmp_path / "two" / "ppo")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    kept = [path.name for path in find_checkpoints(roomy / "ppo")]
    assert kept == ["update-000002"]
    train(roomy, updates=3)
    require_same(roomy / "ppo", tmp_path / "expected" / "ppo", 3)


def _forget_last_update(folder: Path) -> None:
    """Take a finished run back to the checkpoint before its last one."""
    shutil.rmtree(find_checkpoints(folder)[-1])
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "critic")


def _wait_for_training(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and not (folder / "ppo").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
