"""Training, gold and repeat items: when they come, what they teach, and that they stay out of exports."""

import json

import pytest
from sqlalchemy import func, select

from rlhf.errors import DataError, LabelError
from rlhf.labels.answers import history, submit, undo
from rlhf.labels.assignment import claim, progress
from rlhf.labels.drafts import open_answer
from rlhf.labels.exports import read_export
from rlhf.labels.items import REPEAT_AFTER, KnownItem, publish_known, rank_agreement, read_known
from rlhf.labels.publishing import Distribution, close_round, publish, round_status
from rlhf.labels.schema import slots, tasks
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet


def known(name: str, ranks=(2, 1, 3), explanation="because") -> KnownItem:
    return KnownItem(CandidateSet(name, f"prompt {name}", ("one", "two", "three")), ranks, explanation)


def purpose_of(store, task_id: int) -> str:
    with store.reading() as connection:
        return connection.execute(select(tasks.c.purpose).where(tasks.c.id == task_id)).scalar_one()


def work(store, annotator, count: int) -> list[str]:
    """Answer `count` tasks in the order of their response texts; return their purposes."""
    seen = []
    for _ in range(count):
        view = claim(store, annotator, round=1)
        seen.append(purpose_of(store, view.task_id))
        ranks = [sorted(view.responses).index(text) + 1 for text in view.responses]
        submit(store, annotator, Submission(view.submission_id, ranks=tuple(ranks)))
    return seen


def test_training_comes_first_and_tells_the_key(store, person, make_sets):
    publish(store, make_sets(2), overlap=1, round=1)
    publish_known(store, [known("t-1"), known("t-2")], purpose="training", round=1)
    ada = person("Ada")
    assert progress(store, ada, round=1).training_left == 2
    view = claim(store, ada, round=1)
    assert (view.training, view.prompt_id) == (True, "t-1")
    assert claim(store, ada, round=1) == view, "it is held until it is answered"
    # As the key has it for "one" and "two", with "three" tied to the last of them: of the pairs (1, 2), (1, 3), (2, 3)
    # two agree, and a tie against an order counts half: 2.5 / 3.
    right = {"one": 2, "two": 1, "three": 2}
    receipt = submit(store, ada, Submission(view.submission_id, ranks=tuple(right[text] for text in view.responses)))
    shown = {"one": 2, "two": 1, "three": 3}
    assert receipt.feedback.ranks == tuple(shown[text] for text in view.responses)
    assert receipt.feedback.agreement == pytest.approx(2.5 / 3)
    assert receipt.feedback.explanation == "because"
    assert progress(store, ada, round=1).training_left == 1
    for refused in (open_answer, undo):
        with pytest.raises(LabelError, match="training"):
            refused(store, ada, view.task_id)
    assert work(store, ada, 2) == ["training", "label"]
    assert [row.task_id for row in history(store, ada)] != [view.task_id], "training is no part of the own answers"
    assert claim(store, person("Ben"), round=1).training, "everybody is trained"


def test_training_stays_out_of_export_and_status(store, person, make_sets):
    publish(store, make_sets(1), overlap=1, round=1)
    publish_known(store, [known("t-1")], purpose="training", round=1)
    work(store, person("Ada"), 2)
    rankings, manifest = read_export(store, round=1)
    assert [item.prompt_id for item in rankings] == ["p-0"]
    assert (manifest.rankings, round_status(store, 1).tasks, round_status(store, 1).complete) == (1, 1, True)


def test_gold_comes_at_its_share_unseen_and_once(store, person, make_sets):
    publish(store, make_sets(120), overlap=1, round=1, distribution=Distribution(gold_share=0.2))
    publish_known(store, [known(f"g-{index}") for index in range(40)], purpose="gold", round=1)
    ada = person("Ada")
    seen = work(store, ada, 100)
    # 100 draws at .2: 20 expected, standard deviation 4.
    assert 8 <= seen.count("gold") <= 32
    assert set(seen) == {"gold", "label"}
    assert not claim(store, ada, round=1).training
    assert len({item.prompt_id for item in read_export(store, round=1)[0]}) == seen.count("label")


def test_gold_runs_out_once_everything_was_seen(store, person, make_sets):
    publish(store, make_sets(30), overlap=1, round=1, distribution=Distribution(gold_share=0.5))
    publish_known(store, [known("g-0")], purpose="gold", round=1)
    assert work(store, person("Ada"), 31).count("gold") == 1


def test_a_repeat_shows_an_earlier_task_in_reversed_order(store, person, make_sets):
    publish(store, make_sets(60), overlap=1, round=1, distribution=Distribution(repeat_share=0.5))
    ada = person("Ada")
    assert set(work(store, ada, REPEAT_AFTER)) == {"label"}, "not before there is something to repeat"
    seen = work(store, ada, 30)
    assert "repeat" in seen
    with store.reading() as connection:
        source = tasks.alias("source")
        query = (
            select(tasks.c.prompt, source.c.prompt.label("first"), tasks.c.owner, tasks.c.id, tasks.c.source)
            .join(source, source.c.id == tasks.c.source)
            .where(tasks.c.purpose == "repeat")
        )
        repeats = connection.execute(query).all()
        orders = dict(connection.execute(select(slots.c.task_id, slots.c.display_order)).all())
    assert len(repeats) == seen.count("repeat")
    assert len({row.source for row in repeats}) == len(repeats), "each task is repeated once"
    for row in repeats:
        assert (row.prompt, row.owner) == (row.first, ada.id)
        assert json.loads(orders[row.id]) == json.loads(orders[row.source])[::-1]
    rankings = read_export(store, round=1)[0]
    assert len(rankings) == len({item.prompt_id for item in rankings}), "a repeat is no second vote"


def test_repeats_are_for_their_annotator_alone(store, person, make_sets):
    publish(store, make_sets(40), overlap=2, round=1, distribution=Distribution(repeat_share=0.5))
    work(store, person("Ada"), 30)
    with store.reading() as connection:
        assert connection.execute(select(func.count()).where(tasks.c.purpose == "repeat")).scalar_one()
    assert work(store, person("Ben"), 9) == ["label"] * 9


def test_items_that_left_the_file_are_shown_no_more(store, person, make_sets):
    publish(store, make_sets(1), overlap=1, round=1)
    assert publish_known(store, [known("t-1"), known("t-2")], purpose="training", round=1) == 2
    assert publish_known(store, [known("t-2", ranks=(1, 2, 3))], purpose="training", round=1) == 0
    view = claim(store, person("Ada"), round=1)
    assert view.prompt_id == "t-2"
    receipt = submit(store, person("Ada"), Submission(view.submission_id, ranks=(1, 1, 1)))
    key = {"one": 1, "two": 2, "three": 3}
    assert receipt.feedback.ranks == tuple(key[text] for text in view.responses), "the new key holds"


def test_items_need_a_published_round(store):
    with pytest.raises(LabelError, match="round 1 has no tasks; publish the candidates first"):
        publish_known(store, [known("t-1")], purpose="gold", round=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": None}, "no ranks: give the right order"),
        ({"ranks": [1, 2]}, "2 ranks for 3 responses"),
        ({"ranks": [1, 3, 3]}, "use 1..m without gaps"),
        ({"explanation": 3}, "explanation is no text"),
        ({"rank": [1, 2, 3]}, "unknown field 'rank'"),
        ({"responses": list("0123456789")}, "10 candidates; people rank at most 9"),
    ],
)
def test_bad_items_are_listed_by_line(tmp_path, change, message):
    row = {"prompt_id": "a", "prompt": "b", "responses": ["x", "y", "z"], "ranks": [1, 2, 3]}
    path = tmp_path / "gold.jsonl"
    bad = {name: value for name, value in {**row, **change}.items() if value is not None}
    path.write_text(json.dumps(row) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=f"gold.jsonl line 2: .*{message}"):
        read_known(path)


def test_rank_agreement_by_hand():
    assert rank_agreement((1, 2, 3), (1, 2, 3)) == 1.0
    assert rank_agreement((1, 2, 3), (3, 2, 1)) == 0.0
    # Pairs (1,2) tie against order 1/2, (1,3) alike 1, (2,3) alike 1.
    assert rank_agreement((1, 2, 3), (1, 1, 2)) == pytest.approx(2.5 / 3)


def test_a_closed_round_hands_out_no_repeats(store, person, make_sets):
    publish(store, make_sets(30), overlap=6, round=1, distribution=Distribution(repeat_share=0.5))
    people = [person(f"Person {number}") for number in range(6)]
    for one in people:
        work(store, one, REPEAT_AFTER + 2)
    close_round(store, 1)
    # Each of these would be a repeat with a chance of one half.
    assert [claim(store, one, round=1) for one in people] == [None] * 6
