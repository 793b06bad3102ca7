"""What the `rlhf label user` commands do: plain functions that return the text to show."""

from collections.abc import Callable
from urllib.parse import urlencode

from sqlalchemy import func, select

from rlhf.errors import LabelError
from rlhf.labels.accounts import (
    Annotator,
    Role,
    clean_name,
    list_annotators,
    login_name,
    set_paused,
    set_task_limit,
)
from rlhf.labels.erasure import find_annotator
from rlhf.labels.invitations import INVITATION_LIFETIME_S, create_invitation
from rlhf.labels.logins import with_password
from rlhf.labels.publishing import current_answer_ids
from rlhf.labels.schema import answers, tasks
from rlhf.labels.store import Place, Store, open_store
from rlhf.labels.users import check_role, create_user, set_active, set_password, set_role

DAY_S = 86_400
COLUMNS = ("pseudonym", "name", "role", "state", "limit", "answers")


def list_command(place: Place) -> str:
    """Return a table of everybody who answers: who, what they may do, how much they did."""
    with open_store(place) as store:
        found = list_annotators(store)
        counts, signing_in = _answer_counts(store), with_password(store)
    rows = [COLUMNS] + [
        (
            person.pseudonym,
            person.name if person.name != person.pseudonym else "-",
            person.role if person.kind == "human" else person.kind,
            _state(person, person.id in signing_in),
            "-" if person.task_limit is None else f"{person.task_limit}",
            f"{counts.get(person.id, 0)}",
        )
        for person in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines if found else [f"{place}: nobody yet; `rlhf label user {place} add NAME` makes an account"])


def add_command(place: Place, name: str, role: Role, password: str | None) -> str:
    """Make an account; without a password the person signs in by an invitation."""
    with open_store(place) as store:
        made = create_user(store, name, role, password)
    how = "signs in with the password" if password is not None else "has no password yet"
    return f"{made.pseudonym}: {made.name}, {made.role}; {how}"


def check_new_name(place: Place, name: str) -> None:
    """Refuse a name that cannot be added, before anybody types a password for it.

    Raises:
        LabelError: It is not usable, or taken.
    """
    name = clean_name(name)
    with open_store(place) as store:
        for person in list_annotators(store, "human"):
            if login_name(person.name) == login_name(name):
                raise LabelError(
                    f"{store.place}: the name {name!r} is taken (by {person.pseudonym}); add something to tell them apart"
                )


def invite_command(place: Place, name: str | None, role: Role, public_url: str | None) -> str:
    """Make an invitation, for whoever gets the link or for one person; say the link.

    Args:
        place: The database.
        name: The person; one who has an account gets a link for a new password, and keeps the role.
        role: What the new person may do.
        public_url: Where the pages answer; without it only the path is said.
    """
    check_role(role)
    with open_store(place) as store, store.transaction():
        owner = None
        if name is not None:
            known = [one for one in list_annotators(store, "human") if login_name(one.name) == login_name(name)]
            owner = known[0] if known else create_user(store, name, role)
        token = create_invitation(store, owner.role if owner else role, owner)
    link = f"{(public_url or '').rstrip('/')}/open?{urlencode({'token': token})}"
    whose = f"{owner.name} ({owner.pseudonym}, {owner.role})" if owner else f"a new {role}"
    where = "" if public_url else "\nput the address of the pages before it, or name it with --public-url"
    return f"{link}\nfor {whose}; works once, within {INVITATION_LIFETIME_S // DAY_S} days{where}"


def role_command(place: Place, name: str, role: Role) -> str:
    """Say what a person may do."""
    with open_store(place) as store:
        person = find_annotator(store, name)
        set_role(store, person, role)
    return f"{person.pseudonym}: {role}"


def password_command(place: Place, name: str, ask: Callable[[], str]) -> str:
    """Give a person another password, which is asked once it is known that there is such a person."""
    with open_store(place) as store:
        person = find_annotator(store, name)
        set_password(store, person, ask())
    return f"{person.pseudonym}: the password is changed, and every session has ended"


def pause_command(place: Place, name: str, *, paused: bool) -> str:
    """Give a person no new tasks, or give them again."""
    with open_store(place) as store:
        person = find_annotator(store, name)
        set_paused(store, person, paused)
    return f"{person.pseudonym}: " + (
        "gets no new tasks; what is open may be finished" if paused else "gets tasks again"
    )


def limit_command(place: Place, name: str, limit: int | None) -> str:
    """Set the most tasks of a round that a person may have."""
    with open_store(place) as store:
        person = find_annotator(store, name)
        set_task_limit(store, person, limit)
    return f"{person.pseudonym}: " + (f"at most {limit} tasks of a round" if limit is not None else "as the round says")


def active_command(place: Place, name: str, *, active: bool) -> str:
    """Let a person work no more, or again."""
    with open_store(place) as store:
        person = find_annotator(store, name)
        set_active(store, person, active)
    if active:
        return f"{person.pseudonym}: may work again"
    return f"{person.pseudonym}: cannot sign in any more; the answers stay. `rlhf label erase-person` also removes name and words"


def _state(person: Annotator, signs_in: bool) -> str:
    if person.kind != "human":
        return "-"
    if not person.active:
        return "removed"
    if person.paused:
        return "paused"
    return "active" if signs_in else "no password"


def _answer_counts(store: Store) -> dict[str, int]:
    query = select(answers.c.annotator_id, func.count()).join(tasks, tasks.c.id == answers.c.task_id)
    query = query.where(
        answers.c.id.in_(current_answer_ids()),
        answers.c.verdict.in_(("ranked", "cannot_judge")),
        answers.c.adjudicates.is_(None),
        tasks.c.purpose != "training",
    )
    with store.reading() as connection:
        return {row[0]: row[1] for row in connection.execute(query.group_by(answers.c.annotator_id))}
