"""Invitations: once, within a week, with the role that they were made for."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from rlhf.errors import LabelError
from rlhf.labels.accounts import (
    create_login_token,
    create_session,
    list_annotators,
    login_token_owner,
    redeem_login_token,
    session_annotator,
)
from rlhf.labels.events import verify
from rlhf.labels.invitations import INVITATION_LIFETIME_S, accept_invitation, create_invitation, find_invitation
from rlhf.labels.logins import log_in
from rlhf.labels.users import create_user

PASSWORD = "correct horse"


def test_an_invitation_makes_an_account_with_its_role(store):
    token = create_invitation(store, "manager")
    assert find_invitation(store, token).role == "manager"
    max_ = session_annotator(store, accept_invitation(store, token, "Max", PASSWORD))
    assert (max_.name, max_.role) == ("Max", "manager")
    assert session_annotator(store, log_in(store, "max", PASSWORD, "192.0.2.1")) == max_


def test_an_invitation_works_once(store):
    token = create_invitation(store)
    assert find_invitation(store, token) == find_invitation(store, token), "looking uses nothing up"
    accept_invitation(store, token, "Ben", PASSWORD)
    assert find_invitation(store, token) is None
    with pytest.raises(LabelError, match="used already or has expired"):
        accept_invitation(store, token, "Eve", PASSWORD)


def test_an_invitation_works_once_also_at_the_same_time(store):
    token = create_invitation(store)

    def accept(number):
        try:
            return accept_invitation(store, token, f"Name {number}", PASSWORD)
        except LabelError:
            return None

    with ThreadPoolExecutor(3) as pool:
        secrets = [secret for secret in pool.map(accept, range(3)) if secret]
    assert len(secrets) == len(list_annotators(store)) == 1


def test_an_invitation_expires(store, clock):
    token = create_invitation(store)
    clock.now += INVITATION_LIFETIME_S - 1
    assert find_invitation(store, token)
    clock.now += 1
    assert find_invitation(store, token) is None
    with pytest.raises(LabelError, match="expired"):
        accept_invitation(store, token, "Ben", PASSWORD)


@pytest.mark.parametrize(
    ("name", "password", "message"), [("", PASSWORD, "empty"), ("Ada", PASSWORD, "taken"), ("B", "b", "1 char")]
)
def test_what_is_refused_leaves_the_invitation_usable(store, name, password, message):
    create_user(store, "Ada", "admin")
    token = create_invitation(store)
    with pytest.raises(LabelError, match=message):
        accept_invitation(store, token, name, password)
    assert len(list_annotators(store)) == 1
    assert find_invitation(store, token)


def test_an_invitation_for_somebody_sets_a_new_password_and_nothing_else(store):
    ada = create_user(store, "Ada", "admin")
    session = create_session(store, ada)
    first = create_invitation(store, "annotator", ada)
    token = create_invitation(store, "annotator", ada)
    assert find_invitation(store, first) is None, "a later one takes the place of the first"
    assert session_annotator(store, accept_invitation(store, token, "Eve", PASSWORD)) == ada
    assert session_annotator(store, session) is None
    assert find_invitation(store, token) is None
    assert [person.name for person in list_annotators(store)] == ["Ada"]


def test_links_of_one_kind_do_not_open_the_other_door(store):
    local, invitation = create_login_token(store), create_invitation(store, "admin")
    assert find_invitation(store, local) is None
    assert login_token_owner(store, invitation) == (False, None)
    with pytest.raises(LabelError):
        redeem_login_token(store, invitation, "Eve")
    with pytest.raises(LabelError):
        accept_invitation(store, local, "Eve", PASSWORD)


def test_tampered_tokens_are_nobodys(store):
    token = create_invitation(store)
    for other in ("", token[:-1], token + "A", token.swapcase(), token[::-1], "x" * 100_000):
        assert find_invitation(store, other) is None


def test_the_store_and_the_chain_do_not_hold_the_token(store):
    token = create_invitation(store, actor="boss")
    with store.reading() as connection:
        kept = str(connection.execute(text("SELECT * FROM login_tokens")).all())
        kept += str(connection.execute(text("SELECT * FROM events")).all())
    assert token not in kept
    assert "invite" in kept
    assert "boss" in kept
    assert verify(store).ok
