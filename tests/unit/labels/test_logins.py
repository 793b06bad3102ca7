"""Signing in by name and password: who gets in, what a refusal tells, how often one may try."""

import pytest
from sqlalchemy import text

from rlhf.errors import LabelError
from rlhf.labels.accounts import create_session, ensure_annotator, session_annotator
from rlhf.labels.attempts import PER_NAME, WINDOW_S, TooManyAttemptsError, by_address, by_name, count_attempt
from rlhf.labels.logins import WrongPasswordError, change_password, has_admin, has_password, log_in, with_password
from rlhf.labels.passwords import hash_password
from rlhf.labels.users import create_user, deactivate, set_password, set_role

PASSWORD = "correct horse"
HOME = "192.0.2.1"


@pytest.fixture(scope="module")
def hashed():
    return hash_password(PASSWORD)


@pytest.fixture
def ada(store, hashed):
    return create_user(store, "Ada Lovelace", password=hashed)


def fail_often(store, times):
    for _ in range(times):
        count_attempt(store, (by_name(store, "ada lovelace"), by_address(store, "192.0.2.9")))


@pytest.mark.parametrize("name", ["Ada Lovelace", " ada  LOVELACE "])
def test_name_and_password_open_a_session(store, ada, name):
    assert session_annotator(store, log_in(store, name, PASSWORD, HOME)) == ada


def test_a_refusal_does_not_say_what_was_wrong(store, ada):
    create_user(store, "Without")
    said = []
    for name, password in (
        ("Ada Lovelace", "wrong"), ("Nobody", PASSWORD), ("Without", ""), ("", ""), ("annotator-01", PASSWORD), ("\x00", "x"),
    ):  # fmt: skip
        with pytest.raises(WrongPasswordError) as caught:
            log_in(store, name, password, f"{HOME}0")
        said.append(f"{caught.value}")
    assert set(said) == {"name or password is wrong"}


def test_who_was_removed_does_not_get_in(store, ada):
    deactivate(store, ada)
    with pytest.raises(WrongPasswordError):
        log_in(store, ada.name, PASSWORD, HOME)


def test_the_right_password_does_not_get_through_while_blocked(store, ada, clock):
    for _ in range(2):
        with pytest.raises(WrongPasswordError):
            log_in(store, ada.name, "wrong", HOME)
    fail_often(store, PER_NAME - 2)
    with pytest.raises(TooManyAttemptsError, match="wait 15 minutes"):
        log_in(store, ada.name, PASSWORD, HOME)
    clock.now += WINDOW_S
    assert log_in(store, ada.name, PASSWORD, HOME)


def test_getting_in_forgets_the_failures(store, ada):
    fail_often(store, PER_NAME - 1)
    assert log_in(store, ada.name, PASSWORD, HOME)
    fail_often(store, PER_NAME - 1)
    assert log_in(store, ada.name, PASSWORD, HOME)


def test_names_of_other_kinds_do_not_sign_in(store, hashed):
    robot = ensure_annotator(store, "Robot", "scripted")
    with store.transaction() as connection:
        connection.execute(text("UPDATE people SET secret = :secret"), {"secret": hashed.text})
    assert has_password(store, robot)
    with pytest.raises(WrongPasswordError):
        log_in(store, "Robot", PASSWORD, HOME)


def test_changing_the_password_ends_every_session_but_the_new_one(store, ada):
    here, there = create_session(store, ada), create_session(store, ada)
    new = change_password(store, ada, PASSWORD, "another horse", HOME)
    assert [session_annotator(store, secret) for secret in (here, there)] == [None, None]
    assert session_annotator(store, new) == ada
    with pytest.raises(WrongPasswordError):
        log_in(store, ada.name, PASSWORD, HOME)
    assert log_in(store, ada.name, "another horse", HOME)


def test_changing_the_password_takes_the_current_one(store, ada):
    secret = create_session(store, ada)
    with pytest.raises(WrongPasswordError, match="current password is wrong"):
        change_password(store, ada, "wrong", "another horse", HOME)
    with pytest.raises(LabelError, match="has 5 characters"):
        change_password(store, ada, PASSWORD, "short", HOME)
    fail_often(store, PER_NAME - 1)
    with pytest.raises(TooManyAttemptsError):
        change_password(store, ada, PASSWORD, "another horse", HOME)
    assert session_annotator(store, secret) == ada


def test_an_admin_is_one_who_can_sign_in(store, hashed):
    assert not has_admin(store)
    ada = create_user(store, "Ada", "admin")
    assert not has_admin(store), "without a password"
    set_password(store, ada, hashed)
    assert has_admin(store)
    assert with_password(store) == {ada.id}
    set_role(store, ada, "manager")
    assert not has_admin(store)
    set_role(store, ada, "admin")
    deactivate(store, ada)
    assert not has_admin(store)
