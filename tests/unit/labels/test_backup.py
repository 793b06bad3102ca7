"""A copy while people work, from file or server to file or server."""

import sqlite3
from pathlib import Path

import pytest

from rlhf.errors import LabelError
from rlhf.labels.accounts import create_session, ensure_annotator, session_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.backup import back_up
from rlhf.labels.drafts import save_draft
from rlhf.labels.events import verify
from rlhf.labels.exports import export_bytes, read_export
from rlhf.labels.publishing import publish, round_status
from rlhf.labels.store import open_store
from rlhf.labels.submissions import Submission


def test_a_copy_holds_everything_and_goes_on(published, person, answer, tmp_path):
    ada = person("Ada")
    secret = create_session(published, ada)
    answer(published, ada, comment="close", edit="Better.", edit_of=0)
    draft = claim(published, ada)
    save_draft(published, ada, draft.submission_id, {"comment": "to be"})
    done = back_up(published, tmp_path / "copy.db")
    assert (done.answers, done.head) == (1, verify(published).head)
    with open_store(tmp_path / "copy.db") as copy:
        assert verify(copy).ok
        assert export_bytes(read_export(copy)[0]) == export_bytes(read_export(published)[0])
        assert claim(copy, ada).draft == {"comment": "to be"}
        assert session_annotator(copy, secret) is None, "sessions stay behind"
        submit(copy, ada, Submission(draft.submission_id, ranks=(1, 2, 3)))
        ensure_annotator(copy, "Ben")
        assert verify(copy).ok
    assert round_status(published, 0).filled == 1, "the copy is apart"


def test_from_a_file_to_a_server_and_on(file_store, postgres, make_sets, tmp_path):
    publish(file_store, make_sets(3), overlap=2)
    ada = ensure_annotator(file_store, "Ada")
    submit(file_store, ada, Submission(claim(file_store, ada).submission_id, ranks=(1, 2, 3)))
    back_up(file_store, postgres)
    with open_store(postgres) as copy:
        assert export_bytes(read_export(copy)[0]) == export_bytes(read_export(file_store)[0])
        submit(copy, ada, Submission(claim(copy, ada).submission_id, ranks=(1, 2, 3)))
        publish(copy, make_sets(5), overlap=2)
        assert (verify(copy).ok, verify(copy).answers) == (True, 2), "new rows are numbered after the copied ones"
        back_up(copy, tmp_path / "back.db")
    with pytest.raises(LabelError, match="has tables already"):
        back_up(file_store, postgres)


def test_a_backup_never_replaces_a_file(published, tmp_path):
    (tmp_path / "there.db").write_text("precious")
    with pytest.raises(LabelError, match="exists already"):
        back_up(published, tmp_path / "there.db")
    assert (tmp_path / "there.db").read_text() == "precious"
    with pytest.raises(LabelError, match="no such folder"):
        back_up(published, tmp_path / "none" / "copy.db")


def test_a_copy_of_a_changed_history_is_no_backup(file_store, make_sets, tmp_path):
    publish(file_store, make_sets(1), overlap=1)
    connection = sqlite3.connect(file_store.place)
    connection.execute("UPDATE tasks SET prompt = '\"other\"'")
    connection.commit()
    connection.close()
    with pytest.raises(LabelError, match="not sound"):
        back_up(file_store, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_what_an_interrupted_backup_left_is_no_obstacle(published, tmp_path):
    Path(tmp_path / "copy.db.part").write_text("half")
    back_up(published, tmp_path / "copy.db")
    assert [path.name for path in tmp_path.glob("copy.db*")] == ["copy.db"]
