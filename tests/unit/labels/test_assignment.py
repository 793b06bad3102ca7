"""Claims, leases and drafts: who works on what."""

from collections import Counter

import pytest
from sqlalchemy import text

from rlhf.errors import LabelError, LabelsAtRiskError
from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim, claim_many, progress, release, renew
from rlhf.labels.drafts import drop_correction, open_answer, open_correction, save_draft
from rlhf.labels.events import verify
from rlhf.labels.exports import read_export
from rlhf.labels.publishing import close_round, publish, published_sets, round_status
from rlhf.labels.slots import LEASE_S, display_orders
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet
from tests.load.store import measure


def test_eight_processes_never_exceed_the_overlap(place):
    found = measure(place, wanted=90, processes=8)
    assert found["answers"] == 90
    wrong = {"answers_missing", "tasks_over_overlap", "tasks_under_overlap", "answered_twice", "tasks_out_of_balance"}
    assert {name: found[name] for name in (*wrong, "slots_not_done", "surplus", "problems") if found[name]} == {}


def test_the_same_task_is_claimed_again_until_it_is_answered(published, person):
    first = claim(published, person("Ada"))
    again = claim(published, person("Ada"))
    assert first == again


def test_started_tasks_come_first(published, person):
    one = claim(published, person("Ada"))
    two = claim(published, person("Ben"))
    three = claim(published, person("Cid"))
    assert one.task_id == two.task_id != three.task_id


def test_priority_comes_before_the_seeded_order(store, person, make_sets):
    sets = make_sets(6)
    publish(store, sets, overlap=1, priorities={"p-4": 2.0, "p-2": 1.0})
    views = claim_many(store, person("Ada"), limit=3)
    assert [view.prompt_id for view in views[:2]] == ["p-4", "p-2"]


def test_an_expired_lease_goes_to_others_and_a_late_answer_is_kept(store, clock, person, make_sets, answer):
    publish(store, make_sets(1), overlap=1)
    ada, ben = person("Ada"), person("Ben")
    view = claim(store, ada)
    assert claim(store, ben) is None
    clock.now += LEASE_S + 1
    answer(store, ben)
    late = submit(store, ada, Submission(view.submission_id, ranks=(1, 2, 3)))
    assert late.surplus, "no slot is left"
    assert [ranking.annotator for ranking in read_export(store)[0]] == [ben.pseudonym]
    assert progress(store, ada).surplus == 1


def test_a_late_answer_counts_while_the_slot_is_still_there(store, clock, person, make_sets):
    publish(store, make_sets(1), overlap=1)
    view = claim(store, person("Ada"))
    clock.now += 10 * LEASE_S
    assert not submit(store, person("Ada"), Submission(view.submission_id, ranks=(1, 2, 3))).surplus


@pytest.mark.parametrize("jump_s", [-400 * 86_400, -3600, 86_400, 400 * 86_400])
def test_a_clock_that_jumps_loses_and_doubles_nothing(store, clock, person, make_sets, answer, jump_s):
    publish(store, make_sets(3), overlap=2)
    people = [person(name) for name in ("Ada", "Ben", "Cem")]
    held = [claim(store, one) for one in people]
    answer(store, people[0])
    clock.now += jump_s
    assert save_draft(store, people[1], held[1].submission_id, {"levels": [1, 2, 3]})
    for one in people:
        while claim(store, one) is not None:
            answer(store, one)
    rankings = read_export(store)[0]
    assert Counter(ranking.prompt_id for ranking in rankings) == {"p-0": 2, "p-1": 2, "p-2": 2}
    assert len({(ranking.prompt_id, ranking.annotator) for ranking in rankings}) == 6
    assert verify(store).ok


def test_saving_a_draft_renews_the_lease(store, clock, person, make_sets):
    publish(store, make_sets(1), overlap=1)
    view = claim(store, person("Ada"))
    for _ in range(3):
        clock.now += LEASE_S * 0.9
        assert save_draft(store, person("Ada"), view.submission_id, {"levels": [1, 0, 0]}, active_seconds=12)
        assert claim(store, person("Ben")) is None
    again = claim(store, person("Ada"))
    assert (again.draft, again.active_seconds) == ({"levels": [1, 0, 0]}, 12)


def test_a_draft_outlives_its_lease(store, clock, person, make_sets, answer):
    publish(store, make_sets(1), overlap=1)
    view = claim(store, person("Ada"))
    save_draft(store, person("Ada"), view.submission_id, {"levels": [2, 1, 0]})
    clock.now += LEASE_S + 1
    held = claim(store, person("Ben"))
    assert not renew(store, person("Ada"), view.submission_id)
    assert claim(store, person("Ada")) is None
    submit(store, person("Ben"), Submission(held.submission_id, "skipped", reason="other"))
    back = claim(store, person("Ada"))
    assert (back.draft, back.responses) == ({"levels": [2, 1, 0]}, view.responses)


def test_nobody_saves_into_somebody_elses_draft(published, person):
    view = claim(published, person("Ada"))
    assert not save_draft(published, person("Ben"), view.submission_id, {})
    with pytest.raises(LabelError, match="not handed to you"):
        submit(published, person("Ben"), Submission(view.submission_id, ranks=(1, 2, 3)))


def test_a_huge_draft_is_refused(published, person):
    view = claim(published, person("Ada"))
    with pytest.raises(LabelError, match="shorten the comment"):
        save_draft(published, person("Ada"), view.submission_id, {"comment": "x" * 300_000})


def test_a_released_task_is_free_at_once(store, person, make_sets):
    publish(store, make_sets(1), overlap=1)
    release(store, person("Ada"), claim(store, person("Ada")).submission_id)
    assert claim(store, person("Ben")) is not None


def test_inactive_annotators_get_nothing(published, person):
    ada = person("Ada")
    with published.transaction() as connection:
        connection.execute(text("UPDATE annotators SET active = false"))
    with pytest.raises(LabelError, match="not active"):
        claim(published, ensure_annotator(published, "Ada"))
    assert ada.active, "the handle that was taken before is a snapshot"


def test_corrections_come_back_until_they_are_dropped(published, person, answer):
    ada = person("Ada")
    done = answer(published, ada, (2, 1, 1), strengths=(3,), comment="hm")
    assert open_correction(published, ada) is None
    view = open_answer(published, ada, done.task_id)
    assert (view.version, view.draft["levels"], view.draft["strengths"]) == (1, [2, 1, 1], [3])
    assert view.draft["comment"] == "hm"
    assert open_correction(published, ada).submission_id == view.submission_id
    drop_correction(published, ada, view.submission_id)
    assert open_correction(published, ada) is None


def test_others_answers_cannot_be_opened(published, person, answer):
    done = answer(published, person("Ada"))
    with pytest.raises(LabelError, match="not among your answers"):
        open_answer(published, person("Ben"), done.task_id)


@pytest.mark.parametrize("candidates", [2, 3, 4, 9])
def test_display_orders_are_balanced(candidates):
    orders = display_orders(candidates, 3 * candidates, seed=7, prompt_id="p-1")
    for block in range(3):
        rows = orders[block * candidates : (block + 1) * candidates]
        for place in range(candidates):
            assert sorted(order[place] for order in rows) == list(range(candidates)), "each candidate once per place"
    assert orders == display_orders(candidates, 3 * candidates, seed=7, prompt_id="p-1")


def test_display_orders_depend_on_seed_and_prompt():
    orders = display_orders(6, 6, seed=7, prompt_id="p-1")
    assert orders != display_orders(6, 6, seed=8, prompt_id="p-1")
    assert orders != display_orders(6, 6, seed=7, prompt_id="p-2")


def test_publishing_again_changes_nothing(store, make_sets):
    first = publish(store, make_sets(3), overlap=2, seed=3)
    with store.reading() as connection:
        before = (
            connection.execute(text("SELECT * FROM tasks")).all(),
            connection.execute(text("SELECT * FROM events")).all(),
        )
    again = publish(store, list(reversed(make_sets(3))), overlap=2, seed=3)
    with store.reading() as connection:
        after = (
            connection.execute(text("SELECT * FROM tasks")).all(),
            connection.execute(text("SELECT * FROM events")).all(),
        )
    assert (first.new, again.new, again.slots) == (3, 0, 6)
    assert before == after


def test_a_larger_overlap_adds_slots(store, make_sets):
    publish(store, make_sets(3), overlap=1)
    assert publish(store, make_sets(3), overlap=3).slots == 9


def test_answers_of_people_block_a_change_of_their_task(published, person, answer):
    answer(published, person("Ada"))
    answer(published, person("Ada"))
    changed = [CandidateSet("p-0", "prompt 0", ("new", "texts")), *make_changed(published)]
    with pytest.raises(LabelsAtRiskError, match=r"round 0: 1 answers that people gave .*1 prompts: p-0"):
        publish(published, changed, overlap=2, seed=1)
    done = publish(published, changed, overlap=2, seed=1, discard_answers=True)
    assert (done.new, done.withdrawn) == (1, 1)
    assert {ranking.prompt_id for ranking in read_export(published)[0]} == {"p-1"}
    back = publish(published, published_before(), overlap=2, seed=1, discard_answers=True)
    assert back.new == 0, "texts that come back find their task, and its answers"
    assert {ranking.prompt_id for ranking in read_export(published)[0]} == {"p-0", "p-1"}


def published_before() -> list[CandidateSet]:
    return [
        CandidateSet(f"p-{index}", f"prompt {index}", tuple(f"response {index}.{place}" for place in range(3)))
        for index in range(2)
    ]


def make_changed(store) -> list[CandidateSet]:
    return [item for item in published_sets(store, 0) if item.prompt_id != "p-0"]


def test_a_closed_round_is_complete_and_keeps_late_answers_as_surplus(published, person, answer):
    answer(published, person("Ada"))
    view = claim(published, person("Ben"))
    assert not round_status(published, 0).complete
    assert close_round(published, 0) == 2
    assert round_status(published, 0).complete
    assert claim(published, person("Cid")) is None
    late = submit(published, person("Ben"), Submission(view.submission_id, ranks=(1, 2, 3)))
    assert late.surplus
    assert len(read_export(published)[0]) == 1


def test_rounds_are_apart(store, person, make_sets):
    publish(store, make_sets(1), overlap=1, round=0)
    publish(store, make_sets(2), overlap=1, round=1)
    assert len(claim_many(store, person("Ada"), limit=9, round=1)) == 2
    assert progress(store, person("Ada"), round=0).available == 1


def test_overlap_must_be_positive_and_prompts_unique(store, make_sets):
    with pytest.raises(LabelError, match="overlap is 0"):
        publish(store, make_sets(1), overlap=0)
    with pytest.raises(LabelError, match="p-0 has two candidate sets"):
        publish(store, make_sets(1) * 2, overlap=1)
