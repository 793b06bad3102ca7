"""Signals while work runs."""

import signal

import pytest

from rlhf.entry import guarded
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 143)])
def test_a_stage_that_was_told_to_stop_ends_with_the_code_of_its_signal(
    number: signal.Signals | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """None: another process was told, and this one only hears of it."""
    runtime = start_runtime()

    def stop() -> None:
        with runtime.noticing_signals():
            if number is not None:
                signal.raise_signal(number)
            raise runtime.stopped("stopped after step 3")

    assert guarded(stop) == code
    assert capsys.readouterr().err.count("error: stopped after step 3") == 1
