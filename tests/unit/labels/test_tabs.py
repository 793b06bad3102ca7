"""Drafts from several tabs: a later draft is never overwritten unawares, and lost acknowledgements do no harm."""

import pytest

from rlhf.errors import LabelError
from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.publishing import publish
from rlhf.labels.slots import LEASE_S
from rlhf.labels.store import open_store
from rlhf.labels.submissions import Submission
from rlhf.labels.tabs import StaleDraftError, renew_from_tab, save_from_tab, view_of
from rlhf.records import CandidateSet


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def store(tmp_path, now):
    with open_store(tmp_path / "labels.db", create=True, clock=lambda: now[0]) as opened:
        publish(opened, [CandidateSet("p-1", "Why?", ("Because.", "No."))], overlap=2, seed=1)
        yield opened


@pytest.fixture
def person(store):
    return ensure_annotator(store, "Ada")


@pytest.fixture
def task(store, person):
    return claim(store, person)


def save(store, person, task, tab, revision, comment=""):
    return save_from_tab(store, person, task.submission_id, {"comment": comment}, tab=tab, revision=revision)


def test_revisions_count_up(store, person, task):
    assert [save(store, person, task, "one", revision) for revision in (0, 1, 2)] == [1, 2, 3]


def test_an_older_tab_is_refused_and_told_the_revision(store, person, task):
    save(store, person, task, "one", 0, "first")
    assert save(store, person, task, "two", 1, "second") == 2
    with pytest.raises(StaleDraftError) as caught:
        save(store, person, task, "one", 1, "third")
    assert caught.value.revision == 2
    assert view_of(store, person, task.submission_id).draft["comment"] == "second"
    assert save(store, person, task, "one", caught.value.revision, "third") == 3, "it may, once it knows"


def test_a_tab_that_missed_its_acknowledgement_goes_on(store, person, task):
    save(store, person, task, "one", 0)
    assert save(store, person, task, "one", 0, "again") == 2


def test_a_renewal_changes_nothing_but_the_lease(store, person, task, now):
    save(store, person, task, "one", 0, "mine")
    now[0] += LEASE_S - 1
    assert renew_from_tab(store, person, task.submission_id, tab="two", revision=1) == 1
    now[0] += LEASE_S - 1
    assert claim(store, ensure_annotator(store, "Bo")) is not None, "the second slot was free all the time"
    assert claim(store, ensure_annotator(store, "Cy")) is None, "the first one is leased still"
    assert view_of(store, person, task.submission_id).draft["tab"] == "one"
    with pytest.raises(StaleDraftError):
        renew_from_tab(store, person, task.submission_id, tab="two", revision=0)


def test_what_was_answered_takes_no_draft(store, person, task):
    submit(store, person, Submission(task.submission_id, ranks=(1, 2)))
    assert save(store, person, task, "one", 0) is None
    assert renew_from_tab(store, person, task.submission_id, tab="one", revision=0) is None


def test_nobody_sees_or_writes_somebody_elses_draft(store, person, task):
    other = ensure_annotator(store, "Bo")
    assert save(store, other, task, "one", 0) is None
    with pytest.raises(LabelError, match="not in your hands"):
        view_of(store, other, task.submission_id)
    assert view_of(store, person, task.submission_id).draft == {}
