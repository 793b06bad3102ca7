"""Tracking: metrics survive a resume without gaps or doubles."""

import importlib.machinery
import sys
import types
from pathlib import Path

import pytest

from rlhf.errors import ConfigError
from rlhf.tracking import Tracker, open_sinks, read_metrics


def test_rewind_drops_later_lines_and_a_torn_one(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, bars=False)
    for step in (1, 2, 3):
        tracker.log(step, {"ppo/kl_nats": step / 10})
    with tracker.path.open("a") as file:
        file.write('{"step": 4, "ppo/kl')
    tracker.rewind(2)
    tracker.log(3, {"ppo/kl_nats": 0.5})
    assert read_metrics(tracker.path) == [
        {"step": 1, "ppo/kl_nats": 0.1},
        {"step": 2, "ppo/kl_nats": 0.2},
        {"step": 3, "ppo/kl_nats": 0.5},
    ]


def test_helper_process_writes_nothing(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, active=False)
    tracker.log(1, {"a": 1.0})
    with tracker.progress(3, "work") as bar:
        bar.update(3, score=1.0)
    assert list(tmp_path.iterdir()) == []


def test_sinks_get_every_value(tmp_path: Path) -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    class Sink:
        def log(self, values: dict[str, float], *, step: int) -> None:
            seen.append((step, values))

    Tracker(tmp_path, bars=False, sinks=[Sink()]).log(5, {"a": 1.0})
    assert seen == [(5, {"a": 1.0})]


def read_events(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_has_no_gap_and_no_double_after_a_resume(tmp_path: Path) -> None:
    for kept, logged in ((-1, (1, 2, 3)), (2, (3, 4))):
        sinks = open_sinks(["tensorboard"], tmp_path / "trackers", "tiny-1-ppo", "key")
        tracker = Tracker(tmp_path, bars=False, sinks=sinks)
        tracker.rewind(kept)
        for step in logged:
            tracker.log(step, {"ppo/kl_nats": step / 4})
    assert read_events(tmp_path / "trackers" / "tiny-1-ppo", "ppo/kl_nats") == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1)]


def test_a_resumed_stage_goes_on_with_the_same_run_of_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is far away; what it is asked for is all that can be seen here."""
    asked: list[dict[str, object]] = []
    wandb = types.ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    wandb.init = lambda **settings: asked.append(settings)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for attempt in ("key", "key", "other"):
        open_sinks(["wandb"], tmp_path, "tiny-1-ppo", attempt)
    assert [row["id"] for row in asked] == ["tiny-1-ppo-key", "tiny-1-ppo-key", "tiny-1-ppo-other"]
    assert {row["resume"] for row in asked} == {"allow"}


def test_tracker_that_is_not_installed_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        open_sinks(["wandb"], tmp_path, "x", "key")
