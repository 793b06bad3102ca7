"""Figures of a live store, computed again only when there is something new and enough time has passed.

What is quick (a small store) is always up to date. What takes longer is computed at most every twenty times as long as
it took last: however many people look, however many answers come in, that costs at most a twentieth of one core.
"""

import time
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

from rlhf.labels.answerlog import AnswerLog
from rlhf.labels.events import head
from rlhf.labels.judged import Judged, judge
from rlhf.labels.store import Store

REST = 20.0
QUICK_S = 0.25

T = TypeVar("T")


class Remembered(Generic[T]):
    """One computed value, for a state that is named by a version."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._version: Hashable = None
        self._value: T | None = None
        self._took = 0.0
        self._computed_at = 0.0

    def get(self, version: Hashable, compute: Callable[[], T]) -> T:
        """Return the value for this version, or an earlier one that is recent enough.

        While one thread computes, the others get the earlier value; only the first value is waited for.
        """
        value = self._value
        if value is not None and (version == self._version or not self._rested() or self._lock.locked()):
            return value
        with self._lock:
            if self._value is None or (version != self._version and self._rested()):
                started = self._clock()
                self._value = compute()
                self._version = version
                self._computed_at = self._clock()
                self._took = self._computed_at - started
            return self._value

    def _rested(self) -> bool:
        return self._took < QUICK_S or self._clock() - self._computed_at >= REST * self._took


class Rounds(Generic[T]):
    """A figure of each round of a store, all from one log of its answers.

    Args:
        measure: Computes the figure from the answers of a round, or of all rounds.
    """

    def __init__(self, measure: Callable[[Judged], T]) -> None:
        self._measure = measure
        self._log = AnswerLog()
        self._lock = Lock()
        self._known: dict[int | None, Remembered[T]] = {}

    def get(self, store: Store, round: int | None) -> T:
        """Return the figure of a round, or of all rounds; `store` is always the same."""
        with store.reading() as connection:
            event = head(connection).event
        return self._known.setdefault(round, Remembered()).get(event, lambda: self._compute(store, round))

    def _compute(self, store: Store, round: int | None) -> T:
        with self._lock:
            with store.reading() as connection:
                self._log.update(connection, head(connection).event)
            return self._measure(judge(self._log, round))
