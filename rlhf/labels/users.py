"""People who work in the browser: what they may do, whether they may still work, the password they sign in with.

Each change is an event that says who made it; names and passwords are in none.
"""

import re

from sqlalchemy import delete, select, update

from rlhf.errors import LabelError
from rlhf.labels.accounts import (
    ROLES,
    Annotator,
    Role,
    change_annotator,
    clean_name,
    end_sessions,
    insert_annotator,
    list_annotators,
    login_name,
)
from rlhf.labels.attempts import by_name, forgive
from rlhf.labels.events import SYSTEM, append
from rlhf.labels.passwords import Hashed, hash_password
from rlhf.labels.schema import login_tokens, people
from rlhf.labels.store import Store

# Commands take either, so a name must not be taken for a pseudonym.
_LIKE_A_PSEUDONYM = re.compile(r"(annotator|scripted|imported)-\d+")


def create_user(
    store: Store, name: str, role: Role = "annotator", password: str | Hashed | None = None, *, actor: str = SYSTEM
) -> Annotator:
    """Make a person who works in the browser.

    Args:
        store: The store.
        name: What the person signs in with.
        role: What the person may do.
        password: Without one, only an invitation or a link on this machine opens a session.
        actor: Who does it.

    Raises:
        LabelError: The name is not usable or taken, there is no such role, or the password is no good.
    """
    name = clean_name(name)
    check_role(role)
    if _LIKE_A_PSEUDONYM.fullmatch(login_name(name)):
        raise LabelError(f"the name {name!r} looks like somebody's pseudonym; choose another")
    hashed = hash_password(password) if password is not None else None
    with store.transaction() as connection:
        taken = [person for person in list_annotators(store, "human") if login_name(person.name) == login_name(name)]
        if taken:
            raise LabelError(f"the name {name!r} is taken (by {taken[0].pseudonym}); add something to tell them apart")
        made = insert_annotator(store, connection, name, "human", role, actor)
        if hashed is not None:
            set_password(store, made, hashed, actor=actor)
        return made


def set_password(store: Store, annotator: Annotator, password: str | Hashed, *, actor: str = SYSTEM) -> None:
    """Give a person a password; sessions and invitations that are open end, failed attempts are forgotten.

    Raises:
        LabelError: The password is no good, or the person cannot have one.
    """
    if annotator.kind != "human" or not annotator.active:
        raise LabelError(f"{annotator.pseudonym} cannot sign in, so there is no password to set")
    hashed = hash_password(password)
    with store.transaction() as connection:
        mine = people.c.annotator_id == annotator.id
        connection.execute(update(people).where(mine).values(secret=hashed.text))
        end_sessions(connection, annotator)
        links = (login_tokens.c.annotator_id == annotator.id) & (login_tokens.c.kind == "invite")
        connection.execute(delete(login_tokens).where(links))
        forgive(connection, by_name(store, login_name(annotator.name)))
        append(connection, "password", actor, {"annotator": annotator.id}, store.clock())


def set_role(store: Store, annotator: Annotator, role: Role, *, actor: str = SYSTEM) -> None:
    """Say what a person may do; it holds from the next click on.

    Raises:
        LabelError: There is no such role, or the annotator is no person.
    """
    check_role(role)
    if annotator.kind != "human":
        raise LabelError(f"{annotator.pseudonym} is {annotator.kind}; roles are for people")
    change_annotator(store, annotator, "role", {"role": role}, actor)


def set_active(store: Store, annotator: Annotator, active: bool, *, actor: str = SYSTEM) -> None:
    """Let a person work, or not any more: sessions and open invitations end, answers stay.

    Raises:
        LabelError: The person was erased and cannot come back.
    """
    with store.transaction() as connection:
        named = connection.execute(select(people.c.name).where(people.c.annotator_id == annotator.id)).scalar()
        if active and named is None:
            raise LabelError(f"{annotator.pseudonym} was erased and cannot come back; add the person anew")
        change_annotator(store, annotator, "active", {"active": active}, actor)
        if not active:
            end_sessions(connection, annotator)
            connection.execute(delete(login_tokens).where(login_tokens.c.annotator_id == annotator.id))


def deactivate(store: Store, annotator: Annotator, *, actor: str = SYSTEM) -> None:
    """Let a person work no more."""
    set_active(store, annotator, False, actor=actor)


def check_role(role: str) -> None:
    """Refuse a role that does not exist.

    Raises:
        LabelError: There is no such role.
    """
    if role not in ROLES:
        raise LabelError(f"role is {role!r}; give {', '.join(ROLES[:-1])} or {ROLES[-1]}")
