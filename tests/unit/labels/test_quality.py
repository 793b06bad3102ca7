"""What is measured about annotators, from answers in a store: by hand, honest where undefined, up to date, cheap."""

import gc
import weakref

import pytest

from rlhf.labels.accounts import list_annotators
from rlhf.labels.agreement import measure_agreement
from rlhf.labels.answerlog import AnswerLog
from rlhf.labels.answers import adjudicate, submit, undo
from rlhf.labels.assignment import claim
from rlhf.labels.bias import measure_bias
from rlhf.labels.drafts import open_answer
from rlhf.labels.events import head
from rlhf.labels.exports import read_export
from rlhf.labels.items import REPEAT_AFTER, KnownItem, publish_known
from rlhf.labels.personal import AnnotatorFigures
from rlhf.labels.publishing import Distribution, publish, published_sets
from rlhf.labels.quality import all_figures, annotator_figures, measures
from rlhf.labels.remembered import Remembered
from rlhf.labels.schema import annotators
from rlhf.labels.store import open_store
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet

THREE = ("one", "second", "the third")
LISTED = {text: rank for rank, text in enumerate(THREE, start=1)}
TURNED = {text: 4 - rank for text, rank in LISTED.items()}
HALF = {"one": 1, "second": 2, "the third": 2}


def sets_of(count: int) -> list[CandidateSet]:
    return [CandidateSet(f"p-{number}", "ask " * 5, THREE) for number in range(count)]


def rank(store, annotator, ranks: dict[str, int], **fields) -> int:
    """Answer the next task with these ranks by text; return its id."""
    view = claim(store, annotator, round=0)
    shown = tuple(ranks[text] for text in view.responses)
    submit(store, annotator, Submission(view.submission_id, ranks=shown, **fields))
    return view.task_id


@pytest.fixture
def ada(person):
    return person("Ada")


@pytest.fixture
def ben(person):
    return person("Ben")


def test_agreement_is_with_the_others(store, ada, ben, person):
    publish(store, sets_of(2), overlap=3)
    cleo = person("Cleo")
    for _ in range(2):
        rank(store, ada, LISTED)
        rank(store, ben, LISTED)
        rank(store, cleo, TURNED)
    found = all_figures(store)
    # Per task, Ada's 3 pairs are compared with Ben's (alike) and Cleo's (opposite).
    assert found[ada.id].agreement.value == 0.5
    assert found[cleo.id].agreement.value == 0.0
    assert found[cleo.id].agreement.n == 2
    # The majority is right: 0.75 is where all start, and two agree with each other.
    good, bad = found[ada.id].reliability.value, found[cleo.id].reliability.value
    assert good is not None
    assert bad is not None
    assert good > 0.75 > bad


def test_figures_of_the_round_are_those_of_its_export(store, ada, ben):
    publish(store, sets_of(5), overlap=2)
    for ranks in (LISTED, TURNED, HALF, LISTED, LISTED):
        rank(store, ada, ranks)
        rank(store, ben, LISTED)
    found = measures(store, 0)
    rankings, _ = read_export(store)
    expected, bias = measure_agreement(rankings), measure_bias(published_sets(store, 0), rankings)
    assert found.agreement.strict == expected.strict
    assert found.agreement.alpha_ordinal.value == pytest.approx(expected.alpha_ordinal.value)
    assert found.annotators[ada.id].agreement.value == pytest.approx(expected.by_annotator[ada.pseudonym].value)
    assert found.bias.longer_wins == bias.longer_wins
    assert found.bias.rank_by_place[0].value == pytest.approx(bias.rank_by_place[0].value)


def test_gold_and_training_are_held_against_their_keys(store, ada):
    publish(store, sets_of(30), overlap=1, distribution=Distribution(gold_share=0.5))
    items = [KnownItem(CandidateSet(name, "ask", THREE), (1, 2, 3)) for name in ("k-1", "k-2")]
    publish_known(store, items[:1], purpose="training")
    publish_known(store, items, purpose="gold")
    rank(store, ada, HALF)  # training
    for _ in range(12):
        rank(store, ada, TURNED)
    found = annotator_figures(store, ada.id)
    # Pairs (1, 2), (1, 3), (2, 3): two alike, the last a tie against an order.
    assert found.training.value == pytest.approx(2.5 / 3)
    assert (found.gold.value, found.gold.n, found.gold.unit) == (0.0, 2, "gold items")
    assert found.ranked == 12, "gold items look like tasks and count as such; training does not"


def test_repeats_are_held_against_the_first_answer(store, ada):
    publish(store, sets_of(40), overlap=1, distribution=Distribution(repeat_share=0.5))
    first = [rank(store, ada, LISTED) for _ in range(REPEAT_AFTER)]
    assert annotator_figures(store, ada.id).consistency.reason == "no task came a second time"
    for _ in range(20):
        rank(store, ada, TURNED)
    found = annotator_figures(store, ada.id).consistency
    assert found.unit == "repeats"
    # The first ten tasks come again first, and are answered the other way round.
    assert 0 < found.n <= len(first)
    assert found.value == 0.0


def test_time_is_measured_against_the_text_shown(store, ada, clock):
    publish(store, sets_of(3), overlap=1)
    # 20 characters of prompt and 18 of responses: 38, read in 0.38 s at the fastest that anybody could.
    for seconds in (0.3, 7.6, 500.0):
        view = claim(store, ada, round=0)
        clock.now += 19
        shown = tuple(LISTED[text] for text in view.responses)
        submit(store, ada, Submission(view.submission_id, ranks=shown, active_seconds=seconds))
    found = annotator_figures(store, ada.id)
    assert (found.too_fast, found.timed) == (1, 3)
    # The page said 500 seconds, but only 19 went by; the median is 7.6 s for 38 characters.
    assert found.seconds_per_1000.value == pytest.approx(200.0, rel=1e-5)
    assert measures(store).seconds.value == pytest.approx((0.3 + 7.6 + 19) / 3, rel=1e-5)


def test_a_quick_correction_does_not_look_hasty(store, ada, clock):
    publish(store, sets_of(1), overlap=1)
    task = rank(store, ada, LISTED, active_seconds=0.0)
    assert annotator_figures(store, ada.id).too_fast == 1
    view = open_answer(store, ada, task)
    clock.now += 30
    submit(store, ada, Submission(view.submission_id, ranks=(1, 2, 3), active_seconds=20.0))
    view = open_answer(store, ada, task)
    submit(store, ada, Submission(view.submission_id, ranks=(2, 1, 3), active_seconds=0.1))
    found = annotator_figures(store, ada.id)
    assert (found.too_fast, found.ranked) == (0, 1)


def test_unchanged_orders_ties_and_the_first_shown(store, ada):
    publish(store, sets_of(4), overlap=1)
    for ranks in ((1, 2, 3), (1, 2, 3), (3, 2, 1), (1, 1, 1)):
        view = claim(store, ada, round=0)
        submit(store, ada, Submission(view.submission_id, ranks=ranks))
    found = annotator_figures(store, ada.id)
    assert found.unchanged.value == 0.5
    assert found.unchanged_by_chance == pytest.approx(1 / 6), "of 3! orders, one is that shown"
    assert found.ties.value == 0.25, "3 of 12 pairs"
    assert found.first_wins.value == pytest.approx(6 / 9), "all pairs of two tasks, none of a third"


def test_verdicts_count_and_what_was_taken_back_does_not(store, ada, ben):
    publish(store, sets_of(4), overlap=1)
    rank(store, ada, LISTED)
    for verdict in ("cannot_judge", "skipped"):
        view = claim(store, ada, round=0)
        reason = "other" if verdict == "skipped" else ""
        submit(store, ada, Submission(view.submission_id, verdict=verdict, reason=reason))
    task = rank(store, ada, LISTED)
    undo(store, ada, task)
    found = annotator_figures(store, ada.id)
    assert (found.ranked, found.cannot_judge, found.skipped, found.surplus) == (1, 1, 1, 0)
    nobody = annotator_figures(store, ben.id)
    assert isinstance(nobody, AnnotatorFigures)
    assert (nobody.ranked, nobody.timed) == (0, 0)
    assert str(nobody.agreement) == "undefined, because there is no answer yet"


def test_a_decision_is_no_annotators_answer(store, ada, ben):
    publish(store, sets_of(1), overlap=2)
    task = rank(store, ada, LISTED)
    rank(store, ben, TURNED)
    with store.transaction() as connection:
        connection.execute(annotators.update().where(annotators.c.id == ben.id).values(role="manager"))
    manager = next(person for person in list_annotators(store) if person.id == ben.id)
    adjudicate(store, manager, task, (1, 2, 3))
    found = measures(store)
    assert found.annotators[ben.id].agreement.value == 0.0, "his own answer stands in the figures"
    assert found.decided == {task}
    assert found.agreement.strict.value == 0.0


def test_withdrawn_tasks_leave_the_figures(store, ada):
    publish(store, sets_of(2), overlap=1)
    rank(store, ada, LISTED)
    rank(store, ada, LISTED)
    publish(store, sets_of(1), overlap=1, discard_answers=True)
    assert annotator_figures(store, ada.id).ranked == 1


def test_rounds_are_apart(store, ada):
    publish(store, sets_of(2), overlap=1)
    publish(store, sets_of(2), overlap=1, round=1)
    rank(store, ada, LISTED)
    assert annotator_figures(store, ada.id, round=0).ranked == 1
    assert annotator_figures(store, ada.id, round=1).ranked == 0
    assert annotator_figures(store, ada.id).ranked == 1


def test_balanced_orders_differ_by_at_most_one(store, person):
    publish(store, sets_of(6), overlap=4)
    for name in ("Ada", "Ben", "Cleo", "Dan"):
        for _ in range(6):
            rank(store, person(name), LISTED)
    # Three responses at three places, four times each: once everywhere, and one rotation twice.
    assert measures(store).position_spread.tolist() == [1] * 6


def test_only_new_answers_are_read(store, ada):
    publish(store, sets_of(3), overlap=1)
    rank(store, ada, LISTED)
    before = measures(store, 0)
    assert measures(store, 0) is before, "nothing new, nothing computed"
    rank(store, ada, LISTED)
    after = measures(store, 0)
    assert after.annotators[ada.id].ranked == 2
    assert after.event > before.event


def test_each_answer_is_read_once(store, ada):
    publish(store, sets_of(3), overlap=1)
    log = AnswerLog()
    for count in (1, 2, 3):
        rank(store, ada, LISTED)
        with store.reading() as connection:
            log.update(connection, head(connection).event)
        assert len(log.answers.task) == count


def test_a_closed_store_is_forgotten(tmp_path):
    with open_store(tmp_path / "labels.db", create=True) as opened:
        measures(opened)
        kept = weakref.ref(opened)
    del opened
    gc.collect()
    assert kept() is None


class Watch:
    """A clock that a computation moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_takes_long_is_computed_at_most_a_twentieth_of_the_time():
    watch = Watch()
    kept: Remembered[int] = Remembered(watch)
    calls = []

    def compute() -> int:
        watch.now += 2.0
        calls.append(watch.now)
        return len(calls)

    assert kept.get(1, compute) == 1
    watch.now += 30
    assert kept.get(2, compute) == 1, "there is something new, but 2 seconds of work earn 40 seconds of rest"
    watch.now += 10
    assert kept.get(2, compute) == 2
    watch.now += 1000
    assert kept.get(2, compute) == 2, "nothing new"


def test_what_is_quick_is_always_up_to_date():
    watch = Watch()
    kept: Remembered[int] = Remembered(watch)
    assert [kept.get(version, lambda version=version: version) for version in (1, 2, 3)] == [1, 2, 3]
