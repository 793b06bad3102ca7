"""Taking an answer back within its minute."""

import pytest

from rlhf.errors import LabelError
from rlhf.labels.answers import UNDO_S, history, submit, undo
from rlhf.labels.assignment import claim, progress
from rlhf.labels.drafts import open_answer
from rlhf.labels.events import verify
from rlhf.labels.exports import read_export
from rlhf.labels.publishing import publish, round_status
from rlhf.labels.submissions import Submission


def test_it_is_a_draft_again_with_everything(published, person, answer):
    ada = person("Ada")
    flags = (("false",), (), ())
    answer(published, ada, ranks=(2, 1, 3), flags=flags, comment="close", confidence=2, edit_of=2, edit="Better.")
    task_id = history(published, ada)[0].task_id
    view = undo(published, ada, task_id)
    assert view.draft == {
        "levels": [2, 1, 3],
        "strengths": [],
        "flags": [["false"], [], []],
        "all_bad": False,
        "comment": "close",
        "confidence": 2,
        "edit_of": 2,
        "edit": "Better.",
    }
    assert claim(published, ada).task_id == task_id, "the task is in her hands again"
    assert (history(published, ada), read_export(published)[0]) == ([], [])
    assert progress(published, ada).ranked == 0
    assert (round_status(published, 0).filled, round_status(published, 0).leased) == (0, 1)
    submit(published, ada, Submission(view.submission_id, ranks=(1, 2, 3)))
    (ranking,) = read_export(published)[0]
    assert [ranking.ranks[candidate] for candidate in ranking.display_order] == [1, 2, 3]
    assert verify(published).ok


def test_the_window_closes(published, person, answer, clock):
    receipt = answer(published, person("Ada"))
    clock.now += UNDO_S + 1
    with pytest.raises(LabelError, match="can be taken back for 60 seconds"):
        undo(published, person("Ada"), receipt.task_id)


def test_undoing_a_correction_brings_the_first_answer_back(published, person, answer):
    ada = person("Ada")
    receipt = answer(published, ada, ranks=(1, 2, 3), comment="first")
    correction = open_answer(published, ada, receipt.task_id)
    submit(published, ada, Submission(correction.submission_id, ranks=(3, 2, 1), comment="second"))
    view = undo(published, ada, receipt.task_id)
    assert (view.draft["levels"], view.draft["comment"]) == ([3, 2, 1], "second"), "the correction is a draft again"
    (ranking,) = read_export(published)[0]
    assert [ranking.ranks[candidate] for candidate in ranking.display_order] == [1, 2, 3]
    assert open_answer(published, ada, receipt.task_id).version == 3
    assert verify(published).ok


def test_a_skip_is_taken_back_while_a_slot_is_free(store, person, make_sets):
    publish(store, make_sets(1), overlap=1)
    ada = person("Ada")
    view = claim(store, ada)
    submit(store, ada, Submission(view.submission_id, verdict="skipped", reason="other"))
    assert claim(store, ada) is None
    again = undo(store, ada, view.task_id)
    submit(store, ada, Submission(again.submission_id, verdict="skipped", reason="other"))
    assert claim(store, person("Ben")) is not None
    with pytest.raises(LabelError, match="somebody else has this task now"):
        undo(store, ada, view.task_id)


def test_there_is_nothing_to_take_back_twice_or_of_others(published, person, answer):
    receipt = answer(published, person("Ada"))
    with pytest.raises(LabelError, match="no answer of yours"):
        undo(published, person("Ben"), receipt.task_id)
    undo(published, person("Ada"), receipt.task_id)
    with pytest.raises(LabelError, match="no answer of yours"):
        undo(published, person("Ada"), receipt.task_id)


def test_an_answer_whose_correction_was_begun_can_be_taken_back(published, person, answer):
    ada = person("Ada")
    receipt = answer(published, ada, ranks=(2, 1, 3))
    opened = open_answer(published, ada, receipt.task_id)
    back = undo(published, ada, receipt.task_id)
    assert back.submission_id != opened.submission_id
    assert back.draft["levels"] == [2, 1, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence": 4}, "confidence is 4"),
        ({"edit": "Better."}, "does not say which response"),
        ({"edit": "Better.", "edit_of": 3}, "edit_of is 3; there are 3"),
        ({"edit": "x" * 20_001, "edit_of": 0}, "20001 characters"),
    ],
)
def test_extras_are_checked(published, person, fields, message):
    view = claim(published, person("Ada"))
    with pytest.raises(LabelError, match=message):
        submit(published, person("Ada"), Submission(view.submission_id, ranks=(1, 2, 3), **fields))
    assert claim(published, person("Ada")).submission_id == view.submission_id, "the draft is still there"
