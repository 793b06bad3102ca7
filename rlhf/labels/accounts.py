"""Annotators: a random id and a pseudonym everywhere, the name in a table of its own; sessions and login tokens."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, insert, select, update

from rlhf.errors import LabelError
from rlhf.labels.events import SYSTEM, append
from rlhf.labels.schema import annotators, guidelines, login_tokens, people, sessions
from rlhf.labels.store import Store

Kind = Literal["human", "scripted", "imported"]
Role = Literal["annotator", "manager", "admin"]

MAX_NAME = 80
TOKEN_LIFETIME_S = 24 * 3600
SESSION_LIFETIME_S = 30 * 24 * 3600
_PSEUDONYM_PREFIX = {"human": "annotator", "scripted": "scripted", "imported": "imported"}


@dataclass(frozen=True, slots=True)
class Annotator:
    """Who answers. The name is for the annotator's own screen only; exports hold the pseudonym."""

    id: str
    pseudonym: str
    kind: Kind
    name: str
    active: bool = True
    role: Role = "annotator"
    paused: bool = False
    task_limit: int | None = None


def ensure_annotator(store: Store, name: str, kind: Kind = "human") -> Annotator:
    """Return the annotator of that kind and name, made where there is none yet.

    Raises:
        LabelError: The name is empty, too long, or has characters that cannot be shown.
    """
    name = _clean_name(name)
    with store.transaction() as connection:
        found = _find(connection, people.c.kind == kind, people.c.name == name)
        if found:
            return found
        number = connection.execute(select(func.count()).where(annotators.c.kind == kind)).scalar_one() + 1
        made = Annotator(secrets.token_hex(16), f"{_PSEUDONYM_PREFIX[kind]}-{number:02d}", kind, name)
        connection.execute(
            insert(annotators).values(
                id=made.id, pseudonym=made.pseudonym, kind=kind, role="annotator", active=True, created_at=store.clock()
            )
        )
        connection.execute(insert(people).values(annotator_id=made.id, name=name, kind=kind))
        payload = {"annotator": made.id, "pseudonym": made.pseudonym, "kind": kind}
        append(connection, "annotator", SYSTEM, payload, store.clock())
        return made


def list_annotators(store: Store, kind: Kind | None = None) -> list[Annotator]:
    """Return all annotators, in the order in which they came."""
    query = _people_query().order_by(annotators.c.kind, annotators.c.pseudonym)
    if kind:
        query = query.where(annotators.c.kind == kind)
    with store.reading() as connection:
        return [_annotator(row) for row in connection.execute(query)]


def create_login_token(store: Store, annotator: Annotator | None = None) -> str:
    """Return a secret that opens one session, once, within a day; only its hash is stored.

    Args:
        store: The store.
        annotator: The person it is for; without one, whoever opens it says his name.
    """
    token = secrets.token_urlsafe(32)
    now = store.clock()
    with store.transaction() as connection:
        connection.execute(delete(login_tokens).where(login_tokens.c.expires_at < now))
        connection.execute(
            insert(login_tokens).values(
                token_hash=_hash(token),
                annotator_id=annotator.id if annotator else None,
                created_at=now,
                expires_at=now + TOKEN_LIFETIME_S,
            )
        )
    return token


def login_token_owner(store: Store, token: str) -> tuple[bool, Annotator | None]:
    """Return whether the token would still open a session, and the person it is bound to, if any."""
    with store.reading() as connection:
        row = _valid_token(connection, token, store.clock())
        owner = _find(connection, annotators.c.id == row.annotator_id) if row and row.annotator_id else None
        return row is not None, owner


def redeem_login_token(store: Store, token: str, name: str) -> str:
    """Use up a login token; return the new session's secret.

    Raises:
        LabelError: The token is unknown, used or expired, or the name is not usable.
    """
    with store.transaction() as connection:
        row = _valid_token(connection, token, store.clock())
        if row is None:
            raise LabelError("this link was used already or has expired; start `rlhf label serve` again for a new one")
        owner = _find(connection, annotators.c.id == row.annotator_id) if row.annotator_id else None
        annotator = owner or ensure_annotator(store, name)
        connection.execute(
            update(login_tokens).where(login_tokens.c.token_hash == row.token_hash).values(used_at=store.clock())
        )
        return create_session(store, annotator)


def create_session(store: Store, annotator: Annotator) -> str:
    """Open a session; return its secret, of which only the hash is stored.

    Raises:
        LabelError: The annotator is not active.
    """
    if not annotator.active:
        raise LabelError(f"{annotator.name} is not active; ask whoever manages the labels")
    secret = secrets.token_urlsafe(32)
    now = store.clock()
    with store.transaction() as connection:
        connection.execute(delete(sessions).where(sessions.c.expires_at < now))
        connection.execute(
            insert(sessions).values(
                token_hash=_hash(secret),
                annotator_id=annotator.id,
                created_at=now,
                expires_at=now + SESSION_LIFETIME_S,
            )
        )
    return secret


def session_annotator(store: Store, secret: str | None) -> Annotator | None:
    """Return the active annotator whose session this is, or None."""
    if not secret:
        return None
    query = select(sessions.c.annotator_id).where(
        sessions.c.token_hash == _hash(secret), sessions.c.expires_at > store.clock()
    )
    with store.reading() as connection:
        owner = connection.execute(query).scalar()
        found = _find(connection, annotators.c.id == owner) if owner else None
    return found if found and found.active else None


def end_session(store: Store, secret: str) -> None:
    """Close a session."""
    with store.transaction() as connection:
        connection.execute(delete(sessions).where(sessions.c.token_hash == _hash(secret)))


def set_guidelines(store: Store, text: str) -> int:
    """Store a new version of the guidelines where the text changed; return the version in force."""
    with store.transaction() as connection:
        version, current = current_guidelines(connection)
        if current == text:
            return version
        connection.execute(insert(guidelines).values(version=version + 1, text=text, created_at=store.clock()))
        digest = hashlib.sha256(text.encode()).hexdigest()
        append(connection, "guidelines", SYSTEM, {"version": version + 1, "sha256": digest}, store.clock())
        return version + 1


def current_guidelines(connection: Connection) -> tuple[int, str]:
    """Return the version in force and its text; (0, "") where there are none."""
    row = connection.execute(select(guidelines).order_by(guidelines.c.version.desc()).limit(1)).first()
    return (row.version, row.text) if row else (0, "")


def _clean_name(name: str) -> str:
    cleaned = " ".join(name.split())
    if not cleaned:
        raise LabelError("the name is empty; give the name you want to see on your screen")
    if len(cleaned) > MAX_NAME:
        raise LabelError(f"the name has {len(cleaned)} characters; use at most {MAX_NAME}")
    if not cleaned.isprintable():
        raise LabelError("the name has characters that cannot be shown; use letters, digits and spaces")
    return cleaned


def _people_query() -> Any:
    return select(annotators, people.c.name).join(people, people.c.annotator_id == annotators.c.id, isouter=True)


def _find(connection: Connection, *conditions: Any) -> Annotator | None:
    row = connection.execute(_people_query().where(*conditions)).first()
    return _annotator(row) if row else None


def _annotator(row: Any) -> Annotator:
    name = row.name or row.pseudonym
    return Annotator(row.id, row.pseudonym, row.kind, name, row.active, row.role, row.paused, row.task_limit)


def _valid_token(connection: Connection, token: str, now: float) -> Any:
    query = select(login_tokens).where(
        login_tokens.c.token_hash == _hash(token),
        login_tokens.c.used_at.is_(None),
        login_tokens.c.expires_at > now,
    )
    return connection.execute(query).first()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
