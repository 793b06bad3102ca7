"""Signals while work runs."""

import signal

import pytest

from rlhf.runtime import start_runtime


def test_a_signal_that_comes_twice_at_once_is_one_and_a_later_one_acts_as_usual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = start_runtime()
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of the tests ignores it
    with runtime.noticing_signals():
        assert not runtime.stop_requested
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert runtime.stop_requested
        monkeypatch.setattr("rlhf.runtime.ECHO_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.signal(signal.SIGINT, found) is signal.default_int_handler
