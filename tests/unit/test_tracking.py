"""Tracking: metrics survive a resume without gaps or doubles."""

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


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    sinks = open_sinks(["tensorboard"], tmp_path / "trackers", "tiny-ppo")
    Tracker(tmp_path, bars=False, sinks=sinks).log(1, {"ppo/kl_nats": 0.25})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "trackers" / "tiny-ppo"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("ppo/kl_nats")] == [(1, 0.25)]


def test_tracker_that_is_not_installed_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        open_sinks(["wandb"], tmp_path, "x")
