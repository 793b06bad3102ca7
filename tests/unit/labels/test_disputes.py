"""One more annotator where those who ranked a task disagree."""

import pytest

from rlhf.errors import LabelError
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.events import verify
from rlhf.labels.publishing import Distribution, publish, round_status
from rlhf.labels.submissions import Submission


def rank(store, annotator, best: str) -> None:
    """Rank the response that ends on `best` first, the others equal."""
    view = claim(store, annotator, round=1)
    ranks = tuple(1 if text.endswith(best) else 2 for text in view.responses)
    submit(store, annotator, Submission(view.submission_id, ranks=ranks))


@pytest.fixture
def disputed(store, make_sets):
    publish(store, make_sets(1), overlap=2, round=1, distribution=Distribution(max_overlap=4, extra_below=0.7))
    return store


def test_annotators_are_added_one_at_a_time_up_to_the_maximum(disputed, person):
    rank(disputed, person("Ada"), ".0")
    assert round_status(disputed, 1).slots == 2
    rank(disputed, person("Ben"), ".1")
    # Pairs (0,1) opposite 0, (0,2) and (1,2) a tie against an order 1/2 each: 1/3, below .7.
    assert round_status(disputed, 1).slots == 3
    rank(disputed, person("Cid"), ".2")
    assert round_status(disputed, 1).slots == 4
    rank(disputed, person("Dan"), ".0")
    status = round_status(disputed, 1)
    assert (status.slots, status.filled, status.complete) == (4, 4, True), "four is the most"
    assert claim(disputed, person("Eve"), round=1) is None
    assert verify(disputed).ok


def test_none_is_added_where_they_agree(disputed, person):
    for name in ("Ada", "Ben"):
        rank(disputed, person(name), ".1")
    assert round_status(disputed, 1).complete


def test_it_stops_as_soon_as_they_agree_enough(store, person, make_sets):
    publish(store, make_sets(1), overlap=2, round=1, distribution=Distribution(max_overlap=9, extra_below=0.5))
    rank(store, person("Ada"), ".0")
    rank(store, person("Ben"), ".1")
    rank(store, person("Cid"), ".0")
    # Three annotators: 1/3 (Ada, Ben), 1 (Ada, Cid), 1/3 (Ben, Cid): .56, enough.
    assert (round_status(store, 1).slots, round_status(store, 1).complete) == (3, True)


def test_without_the_setting_nothing_grows(store, person, make_sets):
    publish(store, make_sets(1), overlap=2, round=1)
    rank(store, person("Ada"), ".0")
    rank(store, person("Ben"), ".1")
    assert round_status(store, 1).complete


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (Distribution(max_overlap=1), "max_overlap is 1, below the overlap of 2"),
        (Distribution(extra_below=1.5), "extra_below is 1.5; give a share"),
        (Distribution(gold_share=0.4, repeat_share=0.3), "70% of all tasks"),
        (Distribution(task_limit=0), "task_limit is 0"),
    ],
)
def test_settings_that_make_no_sense(store, make_sets, distribution, message):
    with pytest.raises(LabelError, match=message):
        publish(store, make_sets(1), overlap=2, distribution=distribution)
