"""Submitting: validated, idempotent, append-only."""

import pytest
from sqlalchemy import text

from rlhf.errors import DataError, LabelError
from rlhf.labels.answers import history, submit
from rlhf.labels.assignment import claim, progress
from rlhf.labels.drafts import open_answer
from rlhf.labels.exports import read_export
from rlhf.labels.publishing import round_status
from rlhf.labels.submissions import Submission, to_candidates


def test_ranks_and_flags_come_back_in_candidate_order(published, person):
    ada = person("Ada")
    view = claim(published, ada)
    flags = (("harmful",), (), ("refusal", "false"))
    submit(published, ada, Submission(view.submission_id, ranks=(3, 1, 2), strengths=(1, 3), flags=flags))
    (ranking,) = read_export(published)[0]
    number = view.prompt_id.removeprefix("p-")
    for place, shown in enumerate(view.responses):
        candidate = int(shown.removeprefix(f"response {number}."))
        assert ranking.display_order[place] == candidate
        assert ranking.ranks[candidate] == (3, 1, 2)[place]
        assert set(ranking.flags[candidate]) == set(flags[place])
    assert ranking.strengths == (1, 3)


def test_to_candidates_undoes_the_display_order():
    # Candidate 2 was shown first, then 0, then 1.
    assert to_candidates([2, 0, 1], ["c", "a", "b"]) == ["a", "b", "c"]


def test_the_same_submission_twice_is_one_answer(published, person):
    view = claim(published, person("Ada"))
    submission = Submission(view.submission_id, ranks=(1, 2, 3))
    first = submit(published, person("Ada"), submission)
    again = submit(published, person("Ada"), submission)
    assert (first.repeated, again.repeated) == (False, True)
    assert first.answer_id == again.answer_id
    with pytest.raises(LabelError, match="belongs to somebody else"):
        submit(published, person("Ben"), submission)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"ranks": (1, 2)}, LabelError, "2 ranks for 3 responses"),
        ({"ranks": (1, 3, 3)}, DataError, r"use 1..m without gaps"),
        ({"ranks": (0, 1, 2)}, DataError, r"use 1..m without gaps"),
        ({"ranks": (1, 2, 3), "strengths": (1,)}, DataError, "1 strengths for 2 steps"),
        ({"ranks": (1, 2, 3), "strengths": (1, 4)}, DataError, "not graded"),
        ({"ranks": (1, 2, 3), "flags": (("ugly",), (), ())}, LabelError, "flag is 'ugly'"),
        ({"ranks": (1, 2, 3), "flags": ((),)}, LabelError, "1 flag lists for 3 responses"),
        ({"verdict": "liked"}, LabelError, "verdict is 'liked'"),
        ({"verdict": "skipped"}, LabelError, "a skip needs one of"),
        ({"verdict": "cannot_judge", "reason": "other"}, LabelError, "only a skip has a reason"),
        ({"ranks": (1, 2, 3), "comment": "x" * 5000}, LabelError, "use at most 4000"),
    ],
)
def test_bad_submissions_are_refused_and_lose_nothing(published, person, fields, error, message):
    view = claim(published, person("Ada"))
    with pytest.raises(error, match=message):
        submit(published, person("Ada"), Submission(view.submission_id, **fields))
    assert claim(published, person("Ada")) == view, "the draft and the slot are still there"


def test_a_correction_is_a_new_version_and_the_export_takes_the_last(published, person, answer):
    ada = person("Ada")
    first = answer(published, ada, (1, 2, 3))
    before = read_export(published)
    view = open_answer(published, ada, first.task_id)
    second = submit(published, ada, Submission(view.submission_id, ranks=(1, 1, 1)))
    assert (second.version, second.surplus) == (2, False)
    assert [ranking.ranks for ranking in read_export(published)[0]] == [(1, 1, 1)]
    assert read_export(published, event=before[1].event)[0] == before[0], "the past can still be exported"
    assert round_status(published, 0).filled == 1


def test_a_skip_frees_the_slot_and_is_not_offered_again(published, person):
    ada = person("Ada")
    seen = set()
    while (view := claim(published, ada)) is not None:
        assert view.task_id not in seen
        seen.add(view.task_id)
        submit(published, ada, Submission(view.submission_id, "skipped", reason="upsetting"))
    assert len(seen) == 2
    assert round_status(published, 0).filled == 0
    assert read_export(published)[0] == []


def test_cannot_judge_fills_the_slot_but_is_no_ranking(published, person):
    view = claim(published, person("Ada"))
    submit(published, person("Ada"), Submission(view.submission_id, "cannot_judge"))
    assert round_status(published, 0).filled == 1
    assert read_export(published)[0] == []
    assert progress(published, person("Ada")).cannot_judge == 1


def test_a_ranking_corrected_to_a_skip_leaves_the_export(published, person, answer):
    ada = person("Ada")
    first = answer(published, ada)
    view = open_answer(published, ada, first.task_id)
    submit(published, ada, Submission(view.submission_id, "skipped", reason="other"))
    assert read_export(published)[0] == []
    assert round_status(published, 0).filled == 0


def test_comments_stay_out_of_the_chain_and_the_export(published, person, answer):
    answer(published, person("Ada"), comment="my name is Ada Lovelace")
    rankings, _ = read_export(published)
    with published.reading() as connection:
        chained = connection.execute(text("SELECT payload FROM events")).scalars().all()
        stored = connection.execute(text("SELECT * FROM answers")).all()
        kept = connection.execute(text("SELECT text FROM texts")).scalars().all()
    for place in (str(rankings), str(chained), str(stored)):
        assert "Lovelace" not in place
        assert "Ada" not in place
    assert kept == ["my name is Ada Lovelace"]


def test_history_is_ones_own_newest_first(published, person, clock, answer):
    first = answer(published, person("Ada"), (2, 1, 1))
    clock.now += 60
    second = answer(published, person("Ada"))
    answer(published, person("Ben"))
    rows = history(published, person("Ada"))
    assert [row.task_id for row in rows] == [second.task_id, first.task_id]
    assert rows[1].ranks == (2, 1, 1), "in the order in which they were shown"
