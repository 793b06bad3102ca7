"""Invitations: a link that works once, within a week, and gives whoever opens it an account with a password."""

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator, Role, create_session, list_annotators, token_hash
from rlhf.labels.events import SYSTEM, append
from rlhf.labels.passwords import check_password, hash_password
from rlhf.labels.schema import login_tokens
from rlhf.labels.store import Store
from rlhf.labels.users import check_role, create_user, set_password

INVITATION_LIFETIME_S = 7 * 24 * 3600
SPENT = "this invitation was used already or has expired; ask for a new one"


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation that can be taken up.

    Attributes:
        role: The role of the account that it makes.
        annotator: The person whom it is for; None where whoever opens it chooses a name.
    """

    role: Role
    annotator: Annotator | None


def create_invitation(
    store: Store, role: Role = "annotator", annotator: Annotator | None = None, *, actor: str = SYSTEM
) -> str:
    """Return the secret of a new invitation, of which only the hash is stored; earlier ones for the person end.

    Args:
        store: The store.
        role: The role of the account that it makes; of a known person, the role stays.
        annotator: A person who is to choose a password, also instead of one that was forgotten.
        actor: Who invites.

    Raises:
        LabelError: There is no such role, or the person cannot sign in.
    """
    check_role(role)
    if annotator is not None and (annotator.kind != "human" or not annotator.active):
        raise LabelError(f"{annotator.pseudonym} cannot sign in, so there is nothing to invite to")
    token, now = secrets.token_urlsafe(32), store.clock()
    owner = annotator.id if annotator else None
    with store.transaction() as connection:
        connection.execute(delete(login_tokens).where(login_tokens.c.expires_at < now))
        if owner is not None:
            earlier = (login_tokens.c.annotator_id == owner) & (login_tokens.c.kind == "invite")
            connection.execute(delete(login_tokens).where(earlier))
        connection.execute(
            insert(login_tokens).values(
                token_hash=token_hash(token),
                annotator_id=owner,
                created_at=now,
                expires_at=now + INVITATION_LIFETIME_S,
                kind="invite",
                role=role,
            )
        )
        append(connection, "invite", actor, {"annotator": owner, "role": role}, now)
    return token


def find_invitation(store: Store, token: str) -> Invitation | None:
    """Return the invitation with this secret, where it can still be taken up; looking at it changes nothing."""
    with store.reading() as connection:
        row = _open_invitation(connection, token, store.clock())
        if row is None:
            return None
        owner = next((one for one in list_annotators(store, "human") if one.id == row.annotator_id), None)
    return Invitation(row.role, owner)


def accept_invitation(store: Store, token: str, name: str, password: str) -> str:
    """Make the account, or give the person a password; use the invitation up; return a new session's secret.

    Args:
        store: The store.
        token: The invitation's secret.
        name: The name that the person chose; not read where the invitation is for somebody known.
        password: The password that the person chose.

    Raises:
        LabelError: The invitation is unknown, used or expired, or the name or the password is no good; a refused name or
            password does not use it up.
    """
    if find_invitation(store, token) is None:
        raise LabelError(SPENT)
    check_password(password)
    hashed = hash_password(password)
    with store.transaction() as connection:
        now = store.clock()
        row, found = _open_invitation(connection, token, now), find_invitation(store, token)
        if row is None or found is None:
            raise LabelError(SPENT)
        owner = found.annotator
        connection.execute(update(login_tokens).where(login_tokens.c.token_hash == row.token_hash).values(used_at=now))
        if owner is None:
            owner = create_user(store, name, found.role, hashed)
        else:
            set_password(store, owner, hashed, actor=owner.id)
        return create_session(store, owner)


def _open_invitation(connection: Connection, token: str, now: float) -> Any:
    query = select(login_tokens).where(
        login_tokens.c.token_hash == token_hash(token),
        login_tokens.c.kind == "invite",
        login_tokens.c.used_at.is_(None),
        login_tokens.c.expires_at > now,
    )
    return connection.execute(query).first()
