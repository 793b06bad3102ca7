"""Annotators, sessions and the links that open them."""

import pytest
from sqlalchemy import text

from rlhf.errors import LabelError
from rlhf.labels.accounts import (
    SESSION_IDLE_S,
    SESSION_LIFETIME_S,
    SESSION_RENEWAL_S,
    TOKEN_LIFETIME_S,
    create_login_token,
    create_session,
    current_guidelines,
    end_session,
    ensure_annotator,
    find_session,
    list_annotators,
    login_token_owner,
    redeem_login_token,
    renew_session,
    session_annotator,
    set_guidelines,
)


def test_a_name_finds_its_annotator_again(store):
    first = ensure_annotator(store, "  Ada   Lovelace ")
    assert ensure_annotator(store, "Ada Lovelace") == first
    assert (first.pseudonym, first.kind) == ("annotator-01", "human")
    assert ensure_annotator(store, "Ada Lovelace", "imported").pseudonym == "imported-01"
    assert [person.pseudonym for person in list_annotators(store, "human")] == ["annotator-01"]


def test_ids_are_random_and_names_stay_in_their_own_table(store):
    ada = ensure_annotator(store, "Ada")
    assert len(ada.id) == 32
    with store.reading() as connection:
        for table in ("annotators", "events"):
            assert "Ada" not in str(connection.execute(text(f"SELECT * FROM {table}")).all())


@pytest.mark.parametrize(
    ("name", "message"), [("", "empty"), (" \n ", "empty"), ("x" * 81, "81 characters"), ("a\x00b", "shown")]
)
def test_unusable_names(store, name, message):
    with pytest.raises(LabelError, match=message):
        ensure_annotator(store, name)


def test_a_link_works_once(store):
    token = create_login_token(store)
    secret = redeem_login_token(store, token, "Ada")
    assert session_annotator(store, secret).name == "Ada"
    with pytest.raises(LabelError, match="used already"):
        redeem_login_token(store, token, "Ada")
    assert login_token_owner(store, token) == (False, None)


def test_a_link_expires(store, clock):
    token = create_login_token(store)
    clock.now += TOKEN_LIFETIME_S
    with pytest.raises(LabelError, match="expired"):
        redeem_login_token(store, token, "Ada")


def test_a_link_for_one_person_ignores_other_names(store):
    ada = ensure_annotator(store, "Ada")
    token = create_login_token(store, ada)
    assert login_token_owner(store, token) == (True, ada)
    assert session_annotator(store, redeem_login_token(store, token, "Eve")) == ada


def test_a_refused_name_leaves_the_link_usable(store):
    token = create_login_token(store)
    with pytest.raises(LabelError, match="empty"):
        redeem_login_token(store, token, "")
    assert redeem_login_token(store, token, "Ada")


def test_sessions_end(store, clock):
    ada = ensure_annotator(store, "Ada")
    secret, other = create_session(store, ada), create_session(store, ada)
    end_session(store, secret)
    assert session_annotator(store, secret) is None
    assert session_annotator(store, other) == ada
    clock.now += SESSION_IDLE_S
    assert session_annotator(store, other) is None
    for nothing in (None, "", "made up"):
        assert session_annotator(store, nothing) is None


def test_a_session_in_use_goes_on_and_ends_after_a_month_all_the_same(store, clock):
    secret = create_session(store, ensure_annotator(store, "Ada"))
    opened = clock.now
    clock.now += SESSION_RENEWAL_S
    assert not find_session(store, secret).due, "within the hour nothing is written"
    while clock.now < opened + SESSION_LIFETIME_S - SESSION_IDLE_S:
        clock.now += SESSION_IDLE_S / 2
        assert find_session(store, secret).due
        renew_session(store, secret)
    clock.now = opened + SESSION_LIFETIME_S - 1
    assert session_annotator(store, secret)
    assert not find_session(store, secret).due, "its end cannot be moved any more"
    renew_session(store, secret)
    clock.now += 1
    assert session_annotator(store, secret) is None


def test_a_session_that_ended_is_not_renewed(store, clock):
    secret = create_session(store, ensure_annotator(store, "Ada"))
    clock.now += SESSION_IDLE_S
    renew_session(store, secret)
    assert session_annotator(store, secret) is None


def test_a_name_is_the_same_however_its_letters_are_written(store):
    assert ensure_annotator(store, "Zo\u00eb") == ensure_annotator(store, "Zoe\u0308")


def test_a_deactivated_person_has_no_session(store):
    ada = ensure_annotator(store, "Ada")
    secret = create_session(store, ada)
    with store.transaction() as connection:
        connection.execute(text("UPDATE annotators SET active = false"))
    assert session_annotator(store, secret) is None
    with pytest.raises(LabelError, match="not active"):
        create_session(store, ensure_annotator(store, "Ada"))


def test_guidelines_have_versions_and_answers_name_theirs(published, person, answer):
    assert set_guidelines(published, "Be kind.") == 1
    assert set_guidelines(published, "Be kind.") == 1
    answer(published, person("Ada"))
    assert set_guidelines(published, "Be kind and brief.") == 2
    with published.reading() as connection:
        assert current_guidelines(connection) == (2, "Be kind and brief.")
        assert connection.execute(text("SELECT guidelines FROM answers")).scalars().all() == [1]
