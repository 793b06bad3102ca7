"""`rlhf label user`: the words on the command line, passwords from standard input or a prompt, what is printed."""

import io
import re
from typing import Any

import pytest

from rlhf import label_user_cli
from rlhf.cli import main
from rlhf.labels.accounts import list_annotators, session_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.invitations import find_invitation
from rlhf.labels.logins import has_password, log_in
from rlhf.labels.publishing import publish
from rlhf.labels.store import open_store
from rlhf.labels.submissions import Submission

PASSWORD = "correct horse"


class Keyboard(io.StringIO):
    """A terminal with somebody at it."""

    def isatty(self):
        return True


@pytest.fixture
def place(tmp_path, make_sets):
    with open_store(tmp_path / "labels.db", create=True) as store:
        publish(store, make_sets(3), overlap=2, seed=1)
    return tmp_path / "labels.db"


@pytest.fixture
def user(place, capsys, monkeypatch):
    """Run `rlhf label user`; return its exit code, and what it prints."""

    def run(*words, typed="", stdin=io.StringIO):
        monkeypatch.setattr("sys.stdin", stdin(typed))
        with pytest.raises(SystemExit) as left:
            main(["label", "user", str(place), *words])
        said = capsys.readouterr()
        return left.value.code or 0, said.out + said.err

    return run


def find(place, name):
    with open_store(place) as store:
        return next(person for person in list_annotators(store) if person.name == name)


def test_an_account_by_standard_input(user, place):
    code, said = user("add", "Ada", "--role", "admin", typed=f"{PASSWORD}\n")
    assert (code, said) == (0, "annotator-01: Ada, admin; signs in with the password\n")
    with open_store(place) as store:
        assert session_annotator(store, log_in(store, "Ada", PASSWORD, "")).role == "admin"


def test_a_password_at_the_keyboard_is_typed_twice(user, place, monkeypatch):
    asked = []

    def ask(answers):
        given = iter(answers)
        monkeypatch.setattr(label_user_cli, "getpass", lambda prompt: asked.append(prompt) or next(given))

    ask([PASSWORD, "another horse"])
    assert user("add", "Ada", stdin=Keyboard) == (1, "error: the two passwords differ; nothing was changed\n")
    ask(["short"])
    assert "has 5 characters" in user("add", "Ada", stdin=Keyboard)[1]
    ask([PASSWORD, PASSWORD])
    assert user("add", "Ada", stdin=Keyboard)[0] == 0
    assert asked == ["Password: ", "The same again: ", "Password: ", "Password: ", "The same again: "]
    assert "taken" in user("add", "ADA", stdin=Keyboard)[1], "said before a password is asked"


def test_a_password_is_no_argument(user):
    assert user("add", "Ada", PASSWORD)[0] == 2
    assert user("add", "Ada", "--password", PASSWORD)[0] == 2


def test_another_password(user, place):
    user("add", "Ada", typed=f"{PASSWORD}\n")
    assert "every session has ended" in user("password", "annotator-01", typed="another horse\r\n")[1]
    with open_store(place) as store:
        assert log_in(store, "Ada", "another horse", "")
    assert "nobody is called 'Eve'" in user("password", "Eve", typed="another horse\n")[1]


def test_an_invitation_is_a_link(user, place):
    code, said = user("invite", "--role", "manager", "--public-url", "https://Labels.example.org/")
    link = re.search(r"^https://labels\.example\.org/open\?token=(\S+)$", said, re.MULTILINE)
    assert code == 0
    assert "for a new manager; works once, within 7 days" in said
    with open_store(place) as store:
        assert find_invitation(store, link[1]).role == "manager"


def test_an_invitation_for_somebody(user, place):
    said = user("invite", "Ben")[1]
    assert said.startswith("/open?token=")
    assert "for Ben (annotator-01, annotator)" in said
    assert "put the address of the pages before it" in said
    assert "for Ben (annotator-01, annotator)" in user("invite", "ben", "--role", "admin")[1], "the role stays"
    with open_store(place) as store:
        assert not has_password(store, find(place, "Ben"))
    assert "--public-url x: give scheme and host" in user("invite", "--public-url", "x")[1]


def test_the_list_shows_who_is_who(user, place):
    assert "nobody yet" in user("list")[1]
    user("add", "Ada", "--role", "admin", typed=f"{PASSWORD}\n")
    for name in ("Ben", "Cem", "Dee"):
        user("add", name, "--no-password")
    with open_store(place) as store:
        for verdict in ("ranked", "skipped"):
            view = claim(store, find(place, "Ben"))
            given: dict[str, Any] = (
                {"ranks": (1, 2, 3)} if verdict == "ranked" else {"verdict": "skipped", "reason": "other"}
            )
            submit(store, find(place, "Ben"), Submission(view.submission_id, **given))
    user("pause", "Ben")
    user("limit", "Ben", "12")
    user("role", "Cem", "manager")
    user("remove", "Dee")
    assert user("list")[1].splitlines() == [
        "pseudonym     name  role       state        limit  answers",
        "annotator-01  Ada   admin      active       -      0",
        "annotator-02  Ben   annotator  paused       12     1",
        "annotator-03  Cem   manager    no password  -      0",
        "annotator-04  Dee   annotator  removed      -      0",
    ]
    user("resume", "Ben")
    user("limit", "Ben", "none")
    user("restore", "Dee")
    rows = user("list")[1].splitlines()
    assert rows[2].split() == ["annotator-02", "Ben", "annotator", "no", "password", "-", "1"]
    assert rows[4].split() == ["annotator-04", "Dee", "annotator", "no", "password", "-", "0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("role", "Ada", "boss"), "invalid choice"),
        (("limit", "Ada", "-1"), "'-1' is no whole number from 0 to 1000000, or none"),
        (("limit", "Ada", "few"), "'few' is no whole number from 0 to 1000000, or none"),
        (("pause", "Eve"), "nobody is called 'Eve'"),
        (("add", "\x07"), "cannot be shown"),
        (("add", "Ada"), "is taken (by annotator-01)"),
    ],
)
def test_mistakes_are_one_message(user, words, said):
    user("add", "Ada", "--no-password")
    code, shown = user(*words, typed=f"{PASSWORD}\n")
    assert code in (1, 2)
    assert said in shown
    assert "Traceback" not in shown
