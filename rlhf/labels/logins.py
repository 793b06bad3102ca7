"""Signing in by name and password, and changing the password."""

from typing import Any

from sqlalchemy import Connection, exists, select

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator, create_session, list_annotators, login_name
from rlhf.labels.attempts import by_address, by_name, count_attempt, forgive
from rlhf.labels.passwords import check_password, hash_password, password_fits
from rlhf.labels.schema import annotators, people
from rlhf.labels.store import Store
from rlhf.labels.users import set_password

WRONG = "name or password is wrong"


class WrongPasswordError(LabelError):
    """The name, the password or both are wrong; which of them is not said."""


def log_in(store: Store, name: str, password: str, address: str) -> str:
    """Open a session for whoever knows a name and its password; return the session's secret.

    Args:
        store: The store.
        name: As typed; its case does not matter.
        password: As typed.
        address: Where the request comes from, for counting failures.

    Raises:
        TooManyAttemptsError: There were too many failures for this name or from this address.
        WrongPasswordError: There is no such person, or the password is another.
    """
    counted = by_name(store, login_name(name)), by_address(store, address)
    count_attempt(store, counted)
    with store.reading() as connection:
        found = _find_login(connection, login_name(name))
    if not password_fits(password, found.secret if found else None) or found is None:
        raise WrongPasswordError(WRONG)
    with store.transaction() as connection:
        # Who changed the password or removed the person meanwhile comes first.
        if _find_login(connection, login_name(name)) != found:
            raise WrongPasswordError(WRONG)
        forgive(connection, *counted)
        (owner,) = (person for person in list_annotators(store, "human") if person.id == found.annotator_id)
        return create_session(store, owner)


def change_password(store: Store, annotator: Annotator, current: str, new: str, address: str) -> str:
    """Change one's own password; all sessions end, and the secret of a new one is returned.

    Raises:
        TooManyAttemptsError: There were too many failures for this name or from this address.
        WrongPasswordError: The current password is another, or there is none.
        LabelError: The new password is no good.
    """
    check_password(new)
    counted = by_name(store, login_name(annotator.name)), by_address(store, address)
    count_attempt(store, counted)
    with store.reading() as connection:
        stored = _secret_of(connection, annotator)
    if not password_fits(current, stored):
        raise WrongPasswordError("the current password is wrong")
    hashed = hash_password(new)
    with store.transaction() as connection:
        if _secret_of(connection, annotator) != stored:
            raise WrongPasswordError("the password was changed meanwhile; sign in with the new one")
        forgive(connection, *counted)
        set_password(store, annotator, hashed, actor=annotator.id)
        return create_session(store, annotator)


def has_password(store: Store, annotator: Annotator) -> bool:
    """Return whether the person can sign in with a password."""
    with store.reading() as connection:
        return _secret_of(connection, annotator) is not None


def with_password(store: Store) -> set[str]:
    """Return the ids of everybody who has a password."""
    query = select(people.c.annotator_id).where(people.c.secret.is_not(None))
    with store.reading() as connection:
        return set(connection.execute(query).scalars())


def has_admin(store: Store) -> bool:
    """Return whether there is an admin who can sign in."""
    query = select(people.c.annotator_id).join(annotators, annotators.c.id == people.c.annotator_id)
    query = query.where(annotators.c.role == "admin", annotators.c.active.is_(True), people.c.secret.is_not(None))
    with store.reading() as connection:
        return bool(connection.execute(select(exists(query))).scalar())


def _find_login(connection: Connection, name: str) -> Any:
    """Return id, name and secret of the active person of that name who has a password, or None."""
    query = select(people.c.annotator_id, people.c.name, people.c.secret)
    query = query.join(annotators, annotators.c.id == people.c.annotator_id)
    query = query.where(people.c.kind == "human", people.c.secret.is_not(None), annotators.c.active.is_(True))
    found = [row for row in connection.execute(query) if login_name(row.name) == name]
    return found[0] if len(found) == 1 else None


def _secret_of(connection: Connection, annotator: Annotator) -> str | None:
    return connection.execute(select(people.c.secret).where(people.c.annotator_id == annotator.id)).scalar()
