"""Limits, pauses, priorities with a random share, leases that ran out: who gets what."""

from collections import Counter

import pytest
from sqlalchemy import event, select, text, update

from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim, claim_many, progress, why_none
from rlhf.labels.drafts import save_draft
from rlhf.labels.publishing import Distribution, publish, round_status
from rlhf.labels.schema import annotators, tasks
from rlhf.labels.slots import LEASE_S
from rlhf.labels.submissions import Submission


def set_annotator(store, annotator, **values) -> None:
    with store.transaction() as connection:
        connection.execute(update(annotators).where(annotators.c.id == annotator.id).values(**values))


def free_slots(store) -> tuple[list[int], list[int]]:
    """Return what the tasks count, and what there is."""
    with store.reading() as connection:
        counted = connection.execute(select(tasks.c.free).order_by(tasks.c.id)).scalars().all()
        real = connection.execute(
            text(
                "SELECT sum(CASE WHEN slots.status = 'free' THEN 1 ELSE 0 END) FROM tasks JOIN slots "
                "ON slots.task_id = tasks.id GROUP BY tasks.id ORDER BY tasks.id"
            )
        )
        return list(counted), list(real.scalars())


def test_a_rounds_limit_and_an_annotators_own(store, person, make_sets, answer):
    publish(store, make_sets(5), overlap=2, round=1, distribution=Distribution(task_limit=2))
    ada, ben = person("Ada"), person("Ben")
    set_annotator(store, ben, task_limit=3)
    assert (progress(store, ada, round=1).available, progress(store, ben, round=1).available) == (2, 3)
    for _ in range(2):
        view = claim(store, ada, round=1)
        submit(store, ada, Submission(view.submission_id, ranks=(1, 2, 3)))
    assert (claim(store, ada, round=1), why_none(store, ada, round=1)) == (None, "limit")
    assert len(claim_many(store, ben, limit=9, round=1)) == 3


def test_who_is_paused_keeps_his_task_and_gets_no_other(store, person, make_sets):
    publish(store, make_sets(5), overlap=1, round=1)
    ada = person("Ada")
    view = claim(store, ada, round=1)
    set_annotator(store, ada, paused=True)
    assert claim(store, ada, round=1) == view
    submit(store, ada, Submission(view.submission_id, ranks=(1, 2, 3)))
    assert (claim(store, ada, round=1), why_none(store, ada, round=1)) == (None, "paused")
    set_annotator(store, ada, paused=False)
    assert claim(store, ada, round=1) is not None


def test_counting_stops_where_nobody_needs_to_know(store, person, make_sets, monkeypatch):
    monkeypatch.setattr("rlhf.labels.assignment.COUNTED", 3)
    publish(store, make_sets(5), overlap=1)
    assert progress(store, person("Ada")).available == 3


def test_why_none_when_all_is_done(store, person, make_sets, answer):
    publish(store, make_sets(1), overlap=1)
    answer(store, person("Ada"))
    assert why_none(store, person("Ada")) == "done"


def test_priorities_keep_a_random_share_spread_and_marked(store, person, make_sets):
    sets = make_sets(40)
    priorities = {item.prompt_id: float(index) for index, item in enumerate(sets)}
    publish(store, sets, overlap=1, seed=3, priorities=priorities, distribution=Distribution(random_share=0.25))
    with store.reading() as connection:
        rows = connection.execute(select(tasks).order_by(tasks.c.position)).all()
    assert Counter(row.selection for row in rows) == {"random": 10, "priority": 30}
    chosen = [row.priority for row in rows if row.selection == "priority"]
    assert chosen == sorted(chosen, reverse=True)
    # Every eight tasks in a row hold two of the random ones.
    per_block = [sum(row.selection == "random" for row in rows[start : start + 8]) for start in range(0, 40, 8)]
    assert per_block == [2] * 5
    at_random = [row.priority for row in rows if row.selection == "random"]
    assert at_random != sorted(at_random, reverse=True)
    assert [row.priority for row in rows] == [priorities[row.prompt_id] for row in rows]
    views = claim_many(store, person("Ada"), limit=40)
    assert [view.prompt_id for view in views] == [row.prompt_id for row in rows], "the queue follows the order"


def test_without_priorities_everything_is_random(store, make_sets):
    publish(store, make_sets(6), overlap=1)
    with store.reading() as connection:
        assert set(connection.execute(select(tasks.c.selection)).scalars()) == {"random"}


def test_free_slots_are_counted_right_through_everything(store, person, make_sets, clock):
    publish(store, make_sets(4), overlap=3)
    names = ("Ada", "Ben", "Cid", "Dan")
    for turn in range(12):
        for name in names:
            view = claim(store, person(name))
            if view is None:
                continue
            if (turn + len(name)) % 3 == 0:
                submit(store, person(name), Submission(view.submission_id, verdict="skipped", reason="other"))
            elif turn % 4 == 1:
                clock.now += LEASE_S + 1
            else:
                submit(store, person(name), Submission(view.submission_id, ranks=(1, 2, 3)))
            counted, real = free_slots(store)
            assert counted == real
    publish(store, make_sets(4), overlap=5)
    counted, real = free_slots(store)
    assert counted == real


def test_a_lease_that_ran_out_comes_back_with_its_draft(store, person, make_sets, clock):
    publish(store, make_sets(3), overlap=1)
    ada, ben = person("Ada"), person("Ben")
    view = claim(store, ada)
    draft = {"levels": [1, 0, 0]}
    save_draft(store, ada, view.submission_id, draft)
    clock.now += LEASE_S + 1
    assert claim(store, ben).task_id == view.task_id, "the task is started, so it comes first"
    other = claim(store, ada)
    assert other.task_id != view.task_id
    clock.now += LEASE_S + 1
    assert claim(store, person("Cid")) is not None
    again = claim(store, ada)
    assert again.task_id in (view.task_id, other.task_id)


def test_a_clock_that_jumps_back_loses_nothing(store, person, make_sets, clock):
    publish(store, make_sets(1), overlap=1)
    ada = person("Ada")
    view = claim(store, ada)
    clock.now -= 10 * 24 * 3600
    assert save_draft(store, ada, view.submission_id, {"levels": [1, 2, 3]})
    assert claim(store, ada).draft == {"levels": [1, 2, 3]}
    assert claim(store, person("Ben")) is None
    submit(store, ada, Submission(view.submission_id, ranks=(1, 2, 3)))
    assert round_status(store, 0).complete


@pytest.mark.parametrize("round", [1, None])
def test_the_queue_is_read_from_its_index(file_store, make_sets, round):
    """However many tasks there are: no sort, no scan."""
    publish(file_store, make_sets(3), overlap=1, round=1)
    statements = []
    ada = ensure_annotator(file_store, "Ada")
    with file_store.transaction() as connection:
        event.listen(connection, "before_cursor_execute", lambda *call: statements.append((call[2], call[3])))
        claim(file_store, ada, round=round)
        (queue,) = [entry for entry in statements if "ORDER BY tasks.round, tasks.started DESC" in entry[0]]
        items = next(entry for entry in statements if "tasks.purpose != 'label'" in entry[0])
        item_plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + items[0], items[1]).all()
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + queue[0], queue[1]).all()
    steps = [row[3] for row in plan]
    assert any("USING INDEX tasks_in_queue" in step or "COVERING INDEX tasks_in_queue" in step for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps
    assert any("tasks_of_items" in row[3] for row in item_plan), item_plan
