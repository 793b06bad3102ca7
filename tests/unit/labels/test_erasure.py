"""Names and words can be removed, and answers taken out of use; the history stays whole."""

from pathlib import Path

import pytest

from rlhf.errors import LabelError
from rlhf.labels.accounts import create_session, ensure_annotator, session_annotator
from rlhf.labels.answers import history, submit
from rlhf.labels.assignment import claim
from rlhf.labels.backup import back_up
from rlhf.labels.commands import delete_command, erase_command
from rlhf.labels.drafts import save_draft
from rlhf.labels.erasure import erase_person, find_annotator
from rlhf.labels.events import verify
from rlhf.labels.exports import export_rankings, read_export
from rlhf.labels.publishing import round_status
from rlhf.labels.submissions import Submission

SECRETS = ("Adalovelace", "wordsofmine", "betterofmine", "draftofmine")


@pytest.fixture
def answered(published, person, answer):
    """A store in which Ada left her name, a comment, a better answer and a draft."""
    ada = person("Adalovelace")
    answer(published, ada, comment="wordsofmine", edit="betterofmine", edit_of=1)
    save_draft(published, ada, claim(published, ada).submission_id, {"comment": "draftofmine"})
    answer(published, person("Ben"), comment="kept")
    return published


def contents(*paths: Path) -> bytes:
    return b"".join(path.read_bytes() for path in paths if path.exists())


def test_nothing_of_a_person_is_left_but_the_rankings(answered, tmp_path):
    ada = find_annotator(answered, "Adalovelace")
    secret = create_session(answered, ada)
    done = erase_person(answered, ada)
    assert (done.pseudonym, done.texts, done.drafts, done.answers) == (ada.pseudonym, 2, 1, 1)
    assert session_annotator(answered, secret) is None
    assert verify(answered).ok
    export_rankings(answered, tmp_path)
    back_up(answered, tmp_path / "copy.db")
    files = [*tmp_path.glob("*.json*"), tmp_path / "copy.db"]
    if isinstance(answered.place, Path):
        files += [answered.place, answered.place.with_name(answered.place.name + "-wal")]
    found = contents(*files)
    assert [word for word in SECRETS if word.encode() in found] == []
    assert b"kept" in found, "other people's words are still there"
    assert {row.annotator for row in read_export(answered)[0]} == {"annotator-01", "annotator-02"}
    assert round_status(answered, 0).leased == 0, "the task she held is free"
    with pytest.raises(LabelError, match="not active"):
        claim(answered, find_annotator(answered, ada.pseudonym))


def test_the_words_were_there_before(answered):
    if isinstance(answered.place, Path):
        found = contents(answered.place, answered.place.with_name(answered.place.name + "-wal"))
        assert all(word.encode() in found for word in SECRETS)


def test_erasing_asks_first(answered):
    place = str(answered.place) if not isinstance(answered.place, Path) else answered.place
    with pytest.raises(LabelError, match="for good.*--yes"):
        erase_command(place, "Adalovelace", confirmed=False)
    assert find_annotator(answered, "Adalovelace").active
    assert "2 texts and 1 drafts erased, 1 answers stay" in erase_command(place, "Adalovelace", confirmed=True)
    with pytest.raises(LabelError, match="nobody is called 'Adalovelace'"):
        erase_command(place, "Adalovelace", confirmed=True)


def test_a_name_of_two_annotators_needs_the_pseudonym(published, person):
    person("Ada")
    ensure_annotator(published, "Ada", "imported")
    with pytest.raises(LabelError, match="give one of annotator-01, imported-01"):
        find_annotator(published, "Ada")
    assert find_annotator(published, "imported-01").kind == "imported"


def test_deleted_answers_count_no_more_and_their_tasks_are_given_out_again(answered, person):
    ada_answer = next(row for row in read_export(answered)[0] if row.annotator == "annotator-01")
    number = int(ada_answer.answer_id.removeprefix("a-"))
    chosen = {"answer_ids": [number], "annotator": "Adalovelace"}
    with pytest.raises(LabelError, match="deletes 1 answers of 1 annotators.*--yes"):
        delete_command(answered.place, **chosen)
    with pytest.raises(LabelError, match="the reason has 0 characters"):
        delete_command(answered.place, **chosen, confirmed=True)
    assert delete_command(answered.place, **chosen, why="clicked through", confirmed=True) == "1 answers count no more"
    assert [row.annotator for row in read_export(answered)[0]] == ["annotator-02"]
    assert history(answered, find_annotator(answered, "Adalovelace")) == []
    assert verify(answered).ok
    view = claim(answered, person("Cid"))
    assert view.prompt_id == ada_answer.prompt_id, "the slot is free again, and the task is started"
    submit(answered, person("Cid"), Submission(view.submission_id, ranks=(1, 2, 3)))
    with pytest.raises(LabelError, match=f"a-{number}: no answer that counts now"):
        delete_command(answered.place, **chosen, why="again", confirmed=True)


def test_deleting_needs_a_selection(answered):
    with pytest.raises(LabelError, match="say which answers"):
        delete_command(answered.place, why="x", confirmed=True)


def test_deleting_a_round(answered):
    assert delete_command(answered.place, round=0, why="pilot", confirmed=True) == "2 answers count no more"
    assert read_export(answered)[0] == []
    assert round_status(answered, 0).filled == 0
