"""An annotator's hours: first answers only, without training, skips and other people's."""

import pytest

from rlhf.labels.accounts import ensure_annotator, set_guidelines
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.diary import Hour, guidelines_answered_under, hours_of
from rlhf.labels.drafts import open_answer
from rlhf.labels.items import KnownItem, publish_known
from rlhf.labels.publishing import publish
from rlhf.labels.store import open_store
from rlhf.labels.submissions import Submission, Verdict
from rlhf.records import CandidateSet


@pytest.fixture
def now():
    return [3600.0 * 10]


@pytest.fixture
def store(tmp_path, now):
    with open_store(tmp_path / "labels.db", create=True, clock=lambda: now[0]) as opened:
        publish(opened, [CandidateSet(f"p-{i}", f"Why {i}?", ("Because.", "No.")) for i in range(4)], overlap=2, seed=1)
        yield opened


def answer(store, person, verdict: Verdict = "ranked", seconds: float | None = 20.0):
    view = claim(store, person)
    ranks = (1, 2) if verdict == "ranked" else ()
    reason = "other" if verdict == "skipped" else ""
    return submit(store, person, Submission(view.submission_id, verdict, ranks, reason=reason, active_seconds=seconds))


def test_first_answers_are_counted_by_hour(store, now):
    ada, bo = ensure_annotator(store, "Ada"), ensure_annotator(store, "Bo")
    first = answer(store, ada)
    now[0] += 100
    answer(store, ada, "cannot_judge", seconds=5.0)
    answer(store, bo)
    now[0] += 3600
    answer(store, ada, "skipped")
    answer(store, ada, seconds=None)
    submit(store, ada, Submission(open_answer(store, ada, first.task_id).submission_id, ranks=(2, 1)))
    assert hours_of(store, ada) == [Hour(10, 2, 25.0), Hour(11, 1, 0.0)]
    assert hours_of(store, ada, since=3600.0 * 11) == [Hour(11, 1, 0.0)]
    assert hours_of(store, ensure_annotator(store, "Cy")) == []


def test_training_is_no_work(store):
    publish_known(store, [KnownItem(CandidateSet("t-1", "Which?", ("A", "B")), (1, 2))], purpose="training")
    ada = ensure_annotator(store, "Ada")
    assert answer(store, ada).feedback is not None
    assert hours_of(store, ada) == []


def test_the_guidelines_last_answered_under(store):
    ada = ensure_annotator(store, "Ada")

    def version():
        with store.reading() as connection:
            return guidelines_answered_under(connection, ada)

    assert version() == 0
    set_guidelines(store, "# One")
    answer(store, ada)
    assert version() == 1
    set_guidelines(store, "# Two")
    assert version() == 1
    answer(store, ada)
    assert version() == 2
