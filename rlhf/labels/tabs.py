"""Drafts from several tabs of one person: no tab overwrites what another has written since, unless told to.

A saved draft carries the tab that wrote it and a revision. A tab says which revision it has seen; what it sends is
refused where another tab wrote a later one. The tab's own lost acknowledgements do no harm: its name is in the draft.
"""

import json
from typing import Any

from sqlalchemy import Connection, select

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator
from rlhf.labels.assignment import renew
from rlhf.labels.drafts import TaskView, read_view, save_draft
from rlhf.labels.schema import drafts
from rlhf.labels.store import Store

TAB, REVISION = "tab", "revision"


class StaleDraftError(LabelError):
    """Another tab of the same person has saved a later draft of the task.

    Attributes:
        revision: The one that is saved.
    """

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__("this task was changed in another tab meanwhile")


def save_from_tab(
    store: Store,
    annotator: Annotator,
    submission_id: str,
    draft: dict[str, Any],
    *,
    tab: str,
    revision: int,
    active_seconds: float = 0.0,
) -> int | None:
    """Save a draft; return its revision, None where the task was answered already.

    Raises:
        StaleDraftError: Another tab saved a later revision than the one named.
        LabelError: The draft is unreasonably large.
    """
    with store.transaction(chained=False) as connection:
        saved = require_current(connection, annotator, submission_id, tab=tab, revision=revision)
        state = {**draft, TAB: tab, REVISION: saved + 1}
        if not save_draft(store, annotator, submission_id, state, active_seconds=active_seconds):
            return None
        return saved + 1


def renew_from_tab(store: Store, annotator: Annotator, submission_id: str, *, tab: str, revision: int) -> int | None:
    """Renew the lease without a change; returns and raises as `save_from_tab`."""
    with store.transaction(chained=False) as connection:
        if _state(connection, annotator, submission_id) is None:
            return None
        saved = require_current(connection, annotator, submission_id, tab=tab, revision=revision)
        renew(store, annotator, submission_id)
        return saved


def require_current(
    connection: Connection, annotator: Annotator, submission_id: str, *, tab: str, revision: int
) -> int:
    """Return the saved revision, 0 where there is none.

    Raises:
        StaleDraftError: Another tab saved a later revision than the one named.
    """
    state = _state(connection, annotator, submission_id) or {}
    saved = revision_of(state)
    if saved != revision and state.get(TAB) not in (None, tab):
        raise StaleDraftError(saved)
    return saved


def view_of(store: Store, annotator: Annotator, submission_id: str) -> TaskView:
    """Return the annotator's view of the task that a submission id stands for.

    Raises:
        LabelError: It is not one of this annotator's.
    """
    with store.reading() as connection:
        query = select(drafts.c.task_id).where(*_mine(annotator, submission_id))
        task_id = connection.execute(query).scalar()
        if task_id is None:
            raise LabelError("this task is not in your hands, or was answered in another tab; reload the page")
        return read_view(connection, task_id, annotator.id)


def revision_of(state: dict[str, Any]) -> int:
    """Return the revision of a saved draft."""
    return int(state.get(REVISION, 0))


def _state(connection: Connection, annotator: Annotator, submission_id: str) -> dict[str, Any] | None:
    found = connection.execute(select(drafts.c.state).where(*_mine(annotator, submission_id))).scalar()
    return None if found is None else json.loads(found)


def _mine(annotator: Annotator, submission_id: str) -> tuple[Any, ...]:
    return drafts.c.submission_id == submission_id, drafts.c.annotator_id == annotator.id
