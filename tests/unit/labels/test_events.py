"""The hash chain: every kind of tampering shows."""

import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from rlhf.errors import LabelError
from rlhf.labels.events import GENESIS, head_at, verify
from rlhf.labels.exports import export_rankings


@pytest.fixture
def answered(published, person, answer):
    for name in ("Ada", "Ben"):
        answer(published, person(name), comment=f"said {name}")
    return published


def tamper(place, *statements: str) -> None:
    """Change the database behind the store's back, triggers removed or switched off."""
    is_file = isinstance(place, Path)
    engine = create_engine(f"sqlite:///{place}" if is_file else place)
    with engine.begin() as connection:
        if is_file:
            names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
            for name in names:
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("SET session_replication_role = replica"))
        for statement in statements:
            assert connection.execute(text(statement)).rowcount, f"{statement} changed nothing"
    engine.dispose()


def test_an_honest_store_verifies(answered):
    found = verify(answered)
    assert (found.ok, found.answers) == (True, 2)
    # Two people, one publication, two answers.
    assert found.head.event == 5


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE answers SET ranks = '[3,2,1]' WHERE id = 1", "answer 1: its content was changed"),
        ("UPDATE answers SET annotator_id = (SELECT annotator_id FROM answers WHERE id = 2), version = 9 WHERE id = 1",
         "answer 1: its content was changed"),
        ("DELETE FROM answers WHERE id = 2", "its answer is gone"),
        ("UPDATE events SET payload = '{}' WHERE seq = 1", "event 1: its content was changed"),
        ("UPDATE events SET at = 0 WHERE seq = 3", "event 3: its content was changed"),
        ("DELETE FROM events WHERE seq = 2", "event 2 is missing"),
        ("UPDATE texts SET text = 'other' WHERE answer_id = 1", "answer 1: its free text was changed"),
        ("UPDATE tasks SET responses = '[\"a\",\"b\",\"c\"]' WHERE id = 1", r"task 1 \(prompt p-0\): its texts were changed"),
    ],
)  # fmt: skip
def test_tampering_shows(answered, statement, problem):
    tamper(answered.place, statement)
    found = verify(answered)
    assert not found.ok
    assert any(re.search(problem, line) for line in found.problems), found.problems


def test_erasing_a_text_leaves_the_chain_whole(answered):
    tamper(answered.place, "DELETE FROM texts", "DELETE FROM people")
    assert verify(answered).ok


def test_a_rewritten_chain_shows_against_an_earlier_head(answered, tmp_path, person, answer):
    export_rankings(answered, tmp_path)
    answer(answered, person("Ada"))
    assert verify(answered, tmp_path / "export.json").ok, "a longer history still holds the earlier head"
    # The last two events and their answers vanish without a trace inside the file.
    tamper(
        answered.place,
        "DELETE FROM texts WHERE answer_id > 1",
        "DELETE FROM answers WHERE id > 1",
        "DELETE FROM events WHERE seq > 4",
    )
    assert verify(answered).ok
    found = verify(answered, tmp_path / "export.json")
    assert "the past was rewritten" in found.problems[0]


def test_the_manifest_must_be_one(answered, tmp_path):
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(LabelError, match="not an export manifest"):
        verify(answered, tmp_path / "export.json")


def test_heads_by_number(answered):
    with answered.reading() as connection:
        assert head_at(connection, 0).hash == GENESIS
        with pytest.raises(LabelError, match="there is no event 99; the last is 5"):
            head_at(connection, 99)
