"""Annotators: a random id and a pseudonym everywhere, the name in a table of its own; sessions and login tokens.

A session ends 30 days after it was opened, and sooner where it was not used for a week.
"""

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, delete, func, insert, select, update

from rlhf.errors import LabelError
from rlhf.labels.events import SYSTEM, append
from rlhf.labels.schema import annotators, guidelines, login_tokens, people, sessions
from rlhf.labels.store import Store

Kind = Literal["human", "scripted", "imported"]
Role = Literal["annotator", "manager", "admin"]

ROLES: tuple[Role, ...] = get_args(Role)
MANAGING: tuple[Role, ...] = ("manager", "admin")

MAX_NAME = 80
TOKEN_LIFETIME_S = 24 * 3600
SESSION_LIFETIME_S = 30 * 24 * 3600
SESSION_IDLE_S = 7 * 24 * 3600
SESSION_RENEWAL_S = 3600
"""How far a session's end lies behind before it is moved, so that most requests write nothing."""
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

    @property
    def manages(self) -> bool:
        """Whether the manager pages are for this person."""
        return self.role in MANAGING


@dataclass(frozen=True, slots=True)
class Session:
    """An open session, and whether its end should be moved on."""

    annotator: Annotator
    due: bool


def ensure_annotator(store: Store, name: str, kind: Kind = "human") -> Annotator:
    """Return the annotator of that kind and name, made where there is none yet.

    Raises:
        LabelError: The name is empty, too long, or has characters that cannot be shown.
    """
    name = clean_name(name)
    with store.transaction() as connection:
        found = _find(connection, people.c.kind == kind, people.c.name == name)
        return found or insert_annotator(store, connection, name, kind, "annotator")


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
                token_hash=token_hash(token),
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
        LabelError: The token is unknown, used or expired, or the name is not usable or needs its password.
    """
    with store.transaction() as connection:
        row = _valid_token(connection, token, store.clock())
        if row is None:
            raise LabelError("this link was used already or has expired; start `rlhf label serve` again for a new one")
        owner = _find(connection, annotators.c.id == row.annotator_id) if row.annotator_id else None
        annotator = owner or open_by_name(store, name)
        connection.execute(
            update(login_tokens).where(login_tokens.c.token_hash == row.token_hash).values(used_at=store.clock())
        )
        return create_session(store, annotator)


def open_by_name(store: Store, name: str) -> Annotator:
    """Return the person of that name, made where there is none, for somebody at this machine who gave no password.

    The case of the name does not matter, so that nobody has two sets of answers for a capital letter.

    Raises:
        LabelError: The name is not usable, or it opens more than an annotator's own work, which takes its password.
    """
    with store.transaction() as connection:
        alike = [one for one in list_annotators(store, "human") if login_name(one.name) == login_name(name)]
        alike.sort(key=lambda one: one.name != name)
        annotator = alike[0] if alike else ensure_annotator(store, name)
        secret = select(people.c.secret).where(people.c.annotator_id == annotator.id)
        if annotator.manages or connection.execute(secret).scalar() is not None:
            raise LabelError(f"{annotator.name} has an account; sign in with its password, or give another name")
        return annotator


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
                token_hash=token_hash(secret),
                annotator_id=annotator.id,
                created_at=now,
                expires_at=now + SESSION_IDLE_S,
            )
        )
    return secret


def session_annotator(store: Store, secret: str | None) -> Annotator | None:
    """Return the active annotator whose session this is, or None."""
    found = find_session(store, secret)
    return found.annotator if found else None


def find_session(store: Store, secret: str | None) -> Session | None:
    """Return the open session of an active annotator, or None."""
    if not secret:
        return None
    now = store.clock()
    query = select(sessions).where(sessions.c.token_hash == token_hash(secret), sessions.c.expires_at > now)
    with store.reading() as connection:
        row = connection.execute(query).first()
        owner = _find(connection, annotators.c.id == row.annotator_id) if row else None
    if row is None or owner is None or not owner.active:
        return None
    return Session(owner, due=row.expires_at < _session_end(row.created_at, now) - SESSION_RENEWAL_S)


def renew_session(store: Store, secret: str) -> None:
    """Move the end of a session that is in use."""
    now = store.clock()
    mine = (sessions.c.token_hash == token_hash(secret)) & (sessions.c.expires_at > now)
    with store.transaction(chained=False) as connection:
        opened = connection.execute(select(sessions.c.created_at).where(mine)).scalar()
        if opened is not None:
            connection.execute(update(sessions).where(mine).values(expires_at=_session_end(opened, now)))


def end_session(store: Store, secret: str) -> None:
    """Close a session."""
    with store.transaction() as connection:
        connection.execute(delete(sessions).where(sessions.c.token_hash == token_hash(secret)))


def end_sessions(connection: Connection, annotator: Annotator) -> None:
    """Close all sessions of a person."""
    connection.execute(delete(sessions).where(sessions.c.annotator_id == annotator.id))


def set_paused(store: Store, annotator: Annotator, paused: bool, *, actor: str = SYSTEM) -> None:
    """Stop, or resume, giving an annotator new tasks; what he holds he may finish."""
    change_annotator(store, annotator, "pause", {"paused": paused}, actor)


def set_task_limit(store: Store, annotator: Annotator, limit: int | None, *, actor: str = SYSTEM) -> None:
    """Set the most tasks of a round that an annotator may have; None: what the round says."""
    if limit is not None and limit < 0:
        raise LabelError(f"the limit is {limit}; give 0 or more, or none")
    change_annotator(store, annotator, "limit", {"task_limit": limit}, actor)


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


def change_annotator(store: Store, annotator: Annotator, kind: str, values: dict[str, Any], actor: str) -> None:
    """Change columns of an annotator, with an event that says who did it."""
    with store.transaction() as connection:
        connection.execute(update(annotators).where(annotators.c.id == annotator.id).values(**values))
        append(connection, kind, actor, {"annotator": annotator.id, **values}, store.clock())


def clean_name(name: str) -> str:
    """Return a name as it is stored: one way of writing each letter, single spaces.

    Raises:
        LabelError: It is empty, too long, or has characters that cannot be shown.
    """
    cleaned = " ".join(unicodedata.normalize("NFC", name).split())
    if not cleaned:
        raise LabelError("the name is empty; give the name you want to see on your screen")
    if len(cleaned) > MAX_NAME:
        raise LabelError(f"the name has {len(cleaned)} characters; use at most {MAX_NAME}")
    if not cleaned.isprintable():
        raise LabelError("the name has characters that cannot be shown; use letters, digits and spaces")
    return cleaned


def login_name(name: str) -> str:
    """Return what is compared when somebody signs in: a telephone likes to begin with a capital."""
    return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFC", name).split()).casefold())


def insert_annotator(
    store: Store, connection: Connection, name: str, kind: Kind, role: Role, actor: str = SYSTEM
) -> Annotator:
    """Make an annotator inside the open transaction, with the event that says so."""
    number = connection.execute(select(func.count()).where(annotators.c.kind == kind)).scalar_one() + 1
    made = Annotator(secrets.token_hex(16), f"{_PSEUDONYM_PREFIX[kind]}-{number:02d}", kind, name, role=role)
    connection.execute(
        insert(annotators).values(
            id=made.id, pseudonym=made.pseudonym, kind=kind, role=role, active=True, created_at=store.clock()
        )
    )
    connection.execute(insert(people).values(annotator_id=made.id, name=name, kind=kind))
    payload = {"annotator": made.id, "pseudonym": made.pseudonym, "kind": kind, "role": role}
    append(connection, "annotator", actor, payload, store.clock())
    return made


def _session_end(opened: float, now: float) -> float:
    return min(opened + SESSION_LIFETIME_S, now + SESSION_IDLE_S)


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
        login_tokens.c.token_hash == token_hash(token),
        login_tokens.c.kind == "local",
        login_tokens.c.used_at.is_(None),
        login_tokens.c.expires_at > now,
    )
    return connection.execute(query).first()


def token_hash(secret: str) -> str:
    """Return what is stored of a session's or a link's secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
