"""Settings of every test: no network, one thread, and which tests this machine can run."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Set before any test imports a library that reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores; spinning threads would stall both
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cuda" if Path("/dev/nvidiactl").exists() else "cpu")

import pytest

# jaxtyping reaches the checker by its dotted name, and imports only the first part itself.
import tests.typecheck  # noqa: F401

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST = ("tests/real/", "tests/pipeline/", "tests/distributed/")
# Asked without importing torch, which takes seconds and is needed by few tests.
HAS_GPU = os.environ["DS_ACCELERATOR"] != "cpu"
# In continuous integration a skipped test is a failed one: a green run then says that everything ran.
SKIPS_FAIL = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def shared_folder() -> Path:
    """Return the folder of real data and models: RLHF_SHARED, or `shared` beside the checkout."""
    return Path(os.environ.get("RLHF_SHARED") or REPOSITORY.parent / "shared").resolve()


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Let no test leave SIGTERM ignored, as a stage that ends in this process does: servers started later would inherit it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the top folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data and models; skip the test where there is none."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no folder of real data at {folder}; set RLHF_SHARED")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the users of the shared folder `real`, leave out what cannot run here, and put the longest folders first.

    Test processes take whole files; a long one that began last would keep one process busy while the others idle.
    """
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("real")
    left_out = [item for item in items if _cannot_run(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_report_header() -> str:
    """Say where the real data comes from."""
    folder = shared_folder()
    state = "" if folder.is_dir() else (" (missing: its tests are left out)" if SKIPS_FAIL else " (missing)")
    return f"shared folder: {folder}{state}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn a skip into a failure where SKIPS_FAIL says so; an expected failure stays one."""
    report = yield
    if SKIPS_FAIL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI allows no skips: {reason}"
    return report


def _cannot_run(item: pytest.Item) -> bool:
    if item.get_closest_marker("gpu"):
        return not HAS_GPU
    return SKIPS_FAIL and item.get_closest_marker("real") is not None and not shared_folder().is_dir()
