"""How far a round is, when it ends, where annotators disagree: counted, foretold with its range, or undefined."""

import numpy as np
import pytest

from rlhf.labels.accounts import list_annotators
from rlhf.labels.agreement import measure_agreement
from rlhf.labels.answers import adjudicate, submit
from rlhf.labels.assignment import claim
from rlhf.labels.bias import BiasReport
from rlhf.labels.drafts import save_draft
from rlhf.labels.erasure import delete_answers, select_answers
from rlhf.labels.figures import Figure
from rlhf.labels.overview import (
    DAY_S,
    RoundProgress,
    closing,
    disputes,
    forecast,
    read_disputes,
    round_progress,
    weighted_consensus,
)
from rlhf.labels.publishing import close_round, publish
from rlhf.labels.quality import HOUR_S, Measures, measures
from rlhf.labels.schema import annotators
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet

TEXTS: tuple[str, ...] = ("one", "two", "three")


def sets_of(count: int) -> list[CandidateSet]:
    return [CandidateSet(f"p-{number}", f"prompt {number}", TEXTS) for number in range(count)]


def rank(store, annotator, *ranks: int, **fields) -> int:
    """Answer the next task with these ranks by candidate; return its id."""
    view = claim(store, annotator, round=0)
    by_text = dict(zip(TEXTS, ranks, strict=True))
    shown = tuple(by_text[text] for text in view.responses)
    submit(store, annotator, Submission(view.submission_id, ranks=shown, **fields))
    return view.task_id


def test_progress_counts_tasks_and_slots(store, person, clock):
    publish(store, sets_of(4), overlap=2)
    ada, ben = person("Ada"), person("Ben")
    rank(store, ada, 1, 2, 3)
    rank(store, ben, 1, 2, 3)
    rank(store, ada, 1, 2, 3)
    claim(store, ben, round=0)
    held = RoundProgress(0, tasks=4, complete=1, started=1, untouched=2, closed=0, slots=8, filled=3, leased=1, left=5)
    assert round_progress(store, 0) == held
    clock.now += 3600
    assert round_progress(store, 0).leased == 0, "a lease that ran out holds nothing"
    close_round(store, 0)
    after = round_progress(store, 0)
    assert (after.closed, after.left, after.filled) == (4, 0, 3)
    assert round_progress(store, 7) == RoundProgress(7, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def test_closing_names_what_is_lost(store, person):
    publish(store, sets_of(3), overlap=2)
    rank(store, person("Ada"), 1, 2, 3)
    view = claim(store, person("Ben"), round=0)
    save_draft(store, person("Ben"), view.submission_id, {"levels": [1, 0, 0]})
    lost = closing(store, 0)
    assert (lost.tasks, lost.slots, lost.untouched, lost.working, lost.drafts) == (3, 5, 2, ("Ben",), 1)


def measured(per_day: list[int], now: float, seconds: Figure | None = None) -> Measures:
    """Return measures with this many answers in the middle of each of the last days, the latest last.

    One more answer came before them: the day of the first one is not over, and does not count.
    """
    counts = [1, *per_day] if per_day else []
    hours = [int((now - DAY_S * (len(counts) - place - 0.5)) // HOUR_S) for place in range(len(counts))]
    empty = np.zeros(0, dtype=np.int64)
    none = Figure(None, reason="none")
    return Measures(
        event=1,
        annotators={},
        agreement=measure_agreement([]),
        bias=BiasReport([], none, none, none),
        seconds=seconds or Figure(None, unit="answers", reason="there are no answers"),
        tasks=empty,
        task_agreement=np.zeros(0),
        task_rankings=empty,
        decided=frozenset(),
        hours=np.array(hours, dtype=np.int64),
        per_hour=np.array(counts, dtype=np.int64),
        position_spread=empty,
    )


def left(slots: int) -> RoundProgress:
    return RoundProgress(0, 100, 0, 0, 0, 0, 300, 300 - slots, 0, slots)


NOW = 1_800_000_000.0 + HOUR_S / 2


def test_forecast_by_hand():
    seconds = Figure(90.0, 80.0, 100.0, 40, "answers")
    found = forecast(left(120), measured([20, 40, 30, 30], NOW, seconds), NOW)
    # 4 days with 30 a day: 4 more days; 120 x 90 s = 3 h.
    assert (found.left, found.per_day.value, found.days.value) == (120, 30.0, 4.0)
    slow, fast = found.per_day.low, found.per_day.high
    assert slow is not None
    assert fast is not None
    assert (found.days.low, found.days.high) == (pytest.approx(120 / fast), pytest.approx(120 / slow))
    assert (found.work_hours.value, found.work_hours.low) == (3.0, pytest.approx(120 * 80 / 3600))


def test_forecast_says_why_there_is_none():
    early = forecast(left(10), measured([5], NOW), NOW)
    assert str(early.days) == "undefined, because answers have come for less than 3 days"
    idle = forecast(left(10), measured([5] + [0] * 9, NOW), NOW)
    assert str(idle.days) == "undefined, because nobody filled a slot in the last 7 days"
    done = forecast(left(0), measured([5] * 5, NOW), NOW)
    assert str(done.days) == "undefined, because nothing is left to fill"
    assert forecast(left(9), measured([], NOW), NOW).days.value is None


def test_a_pace_that_may_be_none_has_no_last_day():
    found = forecast(left(70), measured([10, 0, 0, 0, 0, 0, 0], NOW), NOW)
    assert found.days.value == pytest.approx(49)
    assert (found.days.low, found.days.high) == (None, None)


def test_disagreements_come_first_and_by_pages(store, person):
    publish(store, sets_of(6), overlap=2)
    ada, ben = person("Ada"), person("Ben")
    views = {"reversed": (3, 2, 1), "half": (2, 1, 3), "alike": (1, 2, 3)}
    asked = [rank(store, ada, 1, 2, 3, comment="clear" if not number else "") for number in range(6)]
    how = {}
    for manner in ("half", "alike", "reversed", "half", "alike", "alike"):
        task = rank(store, ben, *views[manner])
        how[task] = manner
    assert set(how) == set(asked)
    found = measures(store, 0)
    first, total = disputes(store, found, size=2)
    assert total == 3, "tasks that all order alike are no disagreements"
    assert [how[item.task_id] for item in first] == ["reversed", "half"]
    assert [item.agreement for item in first] == [0.0, pytest.approx(2 / 3)]
    second, _ = disputes(store, found, page=1, size=2)
    assert [how[item.task_id] for item in second] == ["half"]
    worst = first[0]
    assert worst.responses == TEXTS
    assert {voice.pseudonym: voice.ranks for voice in worst.voices} == {
        ada.pseudonym: (1, 2, 3),
        ben.pseudonym: (3, 2, 1),
    }
    assert {voice.comment for item in (*first, *second) for voice in item.voices} <= {"", "clear"}


def test_a_decided_task_leaves_the_list_and_can_be_found_again(store, person):
    publish(store, sets_of(1), overlap=2)
    ada, ben = person("Ada"), person("Ben")
    task = rank(store, ada, 1, 2, 3)
    rank(store, ben, 3, 2, 1)
    with store.transaction() as connection:
        connection.execute(annotators.update().where(annotators.c.id == ada.id).values(role="manager"))
    (manager,) = (who for who in list_annotators(store) if who.id == ada.id)
    adjudicate(store, manager, task, (2, 1, 3), "two is right")
    found = measures(store, 0)
    assert disputes(store, found) == ([], 0)
    (decided,), total = disputes(store, found, decided=True)
    assert total == 1
    assert (decided.decision, decided.decision_comment) == ((2, 1, 3), "two is right")
    assert len(decided.voices) == 2, "the manager's own ranking is still there"
    assert read_disputes(store, found, [task]) == [decided]
    with store.transaction() as connection:
        delete_answers(store, select_answers(connection, annotator_id=manager.id), "by mistake")
    after = measures(store, 0)
    assert after.decided == frozenset()
    assert read_disputes(store, after, [task])[0].decision == ()


def test_consensus_weighs_by_accuracy():
    assert weighted_consensus([(1, 2, 3), (1, 2, 3), (3, 2, 1)], [0.75] * 3) == (1, 2, 3)
    # log odds 2.2 of one against twice 0.2 of two others.
    assert weighted_consensus([(1, 2, 3), (3, 2, 1), (3, 2, 1)], [0.9, 0.55, 0.55]) == (1, 2, 3)
    assert weighted_consensus([(1, 2), (2, 1)], [0.8, 0.8]) == (1, 1), "undecided is a tie"
    assert weighted_consensus([], []) == ()
