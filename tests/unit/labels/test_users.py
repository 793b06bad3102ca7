"""People with accounts: roles, passwords, removal; each change an event that names nobody."""

import json

import pytest
from sqlalchemy import text

from rlhf.errors import LabelError
from rlhf.labels.accounts import (
    create_session,
    ensure_annotator,
    list_annotators,
    open_by_name,
    session_annotator,
    set_paused,
    set_task_limit,
)
from rlhf.labels.attempts import PER_NAME, by_address, by_name, count_attempt
from rlhf.labels.erasure import erase_person
from rlhf.labels.events import verify
from rlhf.labels.invitations import create_invitation, find_invitation
from rlhf.labels.passwords import hash_password
from rlhf.labels.users import create_user, deactivate, set_active, set_password, set_role


@pytest.fixture(scope="module")
def hashed():
    return hash_password("correct horse")


def again(store, person):
    (found,) = (one for one in list_annotators(store) if one.id == person.id)
    return found


def events(store):
    with store.reading() as connection:
        rows = connection.execute(text("SELECT kind, actor, payload FROM events ORDER BY seq")).all()
    return [(row.kind, row.actor, json.loads(row.payload)) for row in rows]


def test_an_account_has_a_role_and_is_an_event(store, hashed):
    ada = create_user(store, " Ada  Lovelace ", "admin", hashed, actor="somebody")
    assert (ada.name, ada.role, ada.pseudonym, ada.manages) == ("Ada Lovelace", "admin", "annotator-01", True)
    assert again(store, ada) == ada
    made = {"annotator": ada.id, "pseudonym": "annotator-01", "kind": "human", "role": "admin"}
    assert events(store) == [("annotator", "somebody", made), ("password", "somebody", {"annotator": ada.id})]


def test_a_name_is_taken_in_any_case_and_spelling(store):
    create_user(store, "Zoë Straße")
    for name in ("zoe\u0308 strasse", "ZOË STRASSE", " Zoë   Straße"):
        with pytest.raises(LabelError, match="is taken \\(by annotator-01\\)"):
            create_user(store, name)
    assert len(list_annotators(store)) == 1


@pytest.mark.parametrize("role", ["", "boss", "Admin"])
def test_there_are_three_roles(store, role):
    with pytest.raises(LabelError, match="give annotator, manager or admin"):
        create_user(store, "Ada", role)
    ada = create_user(store, "Ada")
    with pytest.raises(LabelError, match="give annotator, manager or admin"):
        set_role(store, ada, role)


def test_a_bad_password_makes_no_account(store):
    with pytest.raises(LabelError, match="has 5 characters"):
        create_user(store, "Ada", password="short")
    assert list_annotators(store) == []


def test_every_change_is_an_event_without_names_or_secrets(store, hashed):
    ada = create_user(store, "Adalovelace")
    set_role(store, ada, "manager", actor="boss")
    set_paused(store, ada, True, actor="boss")
    set_task_limit(store, ada, 7, actor="boss")
    set_password(store, ada, hashed, actor="boss")
    deactivate(store, ada, actor="boss")
    found = again(store, ada)
    assert (found.role, found.paused, found.task_limit, found.active) == ("manager", True, 7, False)
    mine = {"annotator": ada.id}
    assert events(store)[1:] == [
        ("role", "boss", {**mine, "role": "manager"}),
        ("pause", "boss", {**mine, "paused": True}),
        ("limit", "boss", {**mine, "task_limit": 7}),
        ("password", "boss", mine),
        ("active", "boss", {**mine, "active": False}),
    ]
    assert "dalovelace" not in str(events(store))
    assert verify(store).ok


def test_a_new_password_ends_sessions_invitations_and_the_wait(store, hashed):
    ada = create_user(store, "Ada")
    secret, token = create_session(store, ada), create_invitation(store, annotator=ada)
    for _ in range(PER_NAME):
        count_attempt(store, (by_name(store, "ada"), by_address(store, "192.0.2.1")))
    set_password(store, ada, hashed)
    assert session_annotator(store, secret) is None
    assert find_invitation(store, token) is None
    count_attempt(store, (by_name(store, "ada"),))


def test_a_removed_person_has_neither_session_nor_invitation_and_may_come_back(store, hashed):
    ada = create_user(store, "Ada", password=hashed)
    secret, token = create_session(store, ada), create_invitation(store, annotator=ada)
    deactivate(store, ada)
    assert session_annotator(store, secret) is None
    assert find_invitation(store, token) is None
    with pytest.raises(LabelError, match="cannot sign in"):
        set_password(store, again(store, ada), hashed)
    with pytest.raises(LabelError, match="cannot sign in"):
        create_invitation(store, annotator=again(store, ada))
    set_active(store, ada, True)
    assert session_annotator(store, secret) is None, "the old session stays ended"
    assert session_annotator(store, create_session(store, again(store, ada))).active


def test_who_was_erased_does_not_come_back(store, hashed):
    ada = create_user(store, "Ada", password=hashed)
    erase_person(store, ada)
    with pytest.raises(LabelError, match="was erased and cannot come back"):
        set_active(store, ada, True)


def test_only_people_have_roles_and_passwords(store, hashed):
    robot = ensure_annotator(store, "robot", "scripted")
    with pytest.raises(LabelError, match="roles are for people"):
        set_role(store, robot, "admin")
    with pytest.raises(LabelError, match="cannot sign in"):
        set_password(store, robot, hashed)


def test_without_a_password_one_becomes_nobody_who_has_one(store, hashed):
    create_user(store, "Ada", password=hashed)
    create_user(store, "Max", "manager")
    for name in ("Ada", "ada", "MAX"):
        with pytest.raises(LabelError, match="has an account; sign in"):
            open_by_name(store, name)
    ben = open_by_name(store, "Ben")
    assert open_by_name(store, "ben") == ben
    assert [person.name for person in list_annotators(store)] == ["Ada", "Max", "Ben"]
