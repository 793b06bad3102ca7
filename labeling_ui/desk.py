"""The handlers of the ranking page: each gets the browser's payload and the annotator whose session it is."""

from dataclasses import asdict
from typing import Any

from labeling_ui import payloads
from labeling_ui.diff import TooDifferentError, compare
from labeling_ui.mywork import explain
from labeling_ui.payloads import UnreadableError
from labeling_ui.render import render, render_page
from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator, current_guidelines
from rlhf.labels.answers import UNDO_S, Feedback, PastAnswer, Receipt, history, submit, undo
from rlhf.labels.assignment import claim, progress, why_none
from rlhf.labels.diary import guidelines_answered_under, hours_of
from rlhf.labels.drafts import TaskView, drop_correction, open_answer, open_correction
from rlhf.labels.quality import annotator_figures
from rlhf.labels.store import Store
from rlhf.labels.tabs import (
    REVISION,
    TAB,
    StaleDraftError,
    renew_from_tab,
    require_current,
    revision_of,
    save_from_tab,
    view_of,
)

HISTORY = 200
"""Own answers listed at most."""
DAY_S = 86_400
DAYS_SHOWN = 35
DEFAULT_GUIDELINES = """# What to look for

Read the prompt, then every response, then rank. 1 is best.

1. **Does it do what was asked?** A response that misses the request ranks below one that meets it.
2. **Is it true?** A confident mistake is worse than an honest gap.
3. **Is it harmless?** Nothing that hurts somebody, nothing private.
4. **Is it pleasant to read?** Clear, polite, no longer than it needs to be. Length is not a merit in itself.

Give **the same rank** where you see no difference. **None is acceptable** still asks for an order: the least bad first.
**Cannot judge** is an answer; use it when you lack the knowledge. **Skip** whatever you do not want to read: it costs
you nothing, and somebody else gets the task.
"""

GONE = {"ok": False, "gone": True, "error": "This task was answered already, perhaps in another tab."}


class Desk:
    """The ranking page's way to the store.

    Args:
        store: The ranking store.
        open_round: Hand out tasks of this round only.
        may_switch: Whether people choose their names themselves.
    """

    def __init__(self, store: Store, open_round: int | None, may_switch: bool) -> None:
        self._store = store
        self._round = open_round
        self._may_switch = may_switch

    def load(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        """Return the task at hand: a correction under way, what is held already, or the next."""
        view = open_correction(self._store, annotator) or claim(self._store, annotator, round=self._round)
        screen = self._screen(annotator, view)
        with self._store.reading() as connection:
            screen["guidelines"]["answered_under"] = guidelines_answered_under(connection, annotator)
        return {"ok": True, "screen": screen}

    def save(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        """Store a draft, or with none renew the lease; refused where another tab wrote later, unless told to."""
        submission_id, seen = payloads.text(payload, "submission_id"), self._seen(payload)
        try:
            if payload.get("draft") is None:
                revision = renew_from_tab(self._store, annotator, submission_id, **seen)
            else:
                draft, seconds = payloads.draft(payload["draft"]), payloads.seconds(payload)
                revision = save_from_tab(self._store, annotator, submission_id, draft, **seen, active_seconds=seconds)
        except StaleDraftError as error:
            return {"ok": False, "stale": True, "revision": error.revision, "error": f"{error}"}
        return GONE if revision is None else {"ok": True, "revision": revision}

    def submit(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        """Store an answer and hand out the next task."""
        given, seen = payloads.submission(payload), self._seen(payload)
        try:
            with self._store.transaction() as connection:
                require_current(connection, annotator, given.submission_id, **seen)
                receipt = submit(self._store, annotator, given)
        except StaleDraftError as error:
            return {"ok": False, "stale": True, "revision": error.revision, "error": f"{error}"}
        view = claim(self._store, annotator, round=self._round)
        return {
            "ok": True,
            "message": _message(receipt),
            "task_id": receipt.task_id,
            # A training answer cannot be taken back: its key is shown.
            "undo_s": 0 if receipt.feedback else UNDO_S,
            "feedback": _feedback(receipt.feedback),
            "screen": self._screen(annotator, view),
        }

    def correct(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        """Open an answer of one's own again."""
        view = open_answer(self._store, annotator, payloads.whole(payload, "task_id"))
        return {"ok": True, "screen": self._screen(annotator, view)}

    def cancel(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        """Leave a correction; the answer stays as it was."""
        drop_correction(self._store, annotator, payloads.text(payload, "submission_id"))
        return self.load(payload, annotator)

    def undo(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        """Take the answer just given back."""
        view = undo(self._store, annotator, payloads.whole(payload, "task_id"))
        return {"ok": True, "screen": self._screen(annotator, view)}

    def compare(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        """Return the word difference of two responses of a task in one's hands, as plain text."""
        view = view_of(self._store, annotator, payloads.text(payload, "submission_id"))
        places = [payloads.whole(payload, name, len(view.responses) - 1) for name in ("first", "second")]
        try:
            parts = compare(*(view.responses[place] for place in places))
        except TooDifferentError:
            raise LabelError("these two are too long to compare word by word; read them side by side") from None
        return {"ok": True, "parts": [list(part) for part in parts]}

    def work(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        """Return one's own answers, days and figures."""
        since = self._store.clock() - DAYS_SHOWN * DAY_S
        done = progress(self._store, annotator, round=self._round)
        return {
            "ok": True,
            "history": [_past(row) for row in history(self._store, annotator, limit=HISTORY)],
            "most": HISTORY,
            "hours": [asdict(hour) for hour in hours_of(self._store, annotator, since=since)],
            "days": DAYS_SHOWN,
            "totals": asdict(done),
            "figures": [asdict(row) for row in explain(annotator_figures(self._store, annotator.id))],
        }

    def _seen(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return which tab asks, and the revision of the draft that it has seen."""
        tab = payloads.text(payload, TAB)
        if not tab:
            raise UnreadableError
        return {TAB: tab, REVISION: payloads.whole(payload, REVISION)}

    def _screen(self, annotator: Annotator, view: TaskView | None) -> dict[str, Any]:
        done = progress(self._store, annotator, round=self._round)
        with self._store.reading() as connection:
            version, guidelines = current_guidelines(connection)
        return {
            "name": annotator.name,
            "who": annotator.pseudonym,
            "manages": annotator.manages,
            "may_switch": self._may_switch,
            "progress": asdict(done),
            "task": _task(view) if view else None,
            "none": None if view else why_none(self._store, annotator, round=self._round),
            "guidelines": {"version": version, "html": render_page(guidelines or DEFAULT_GUIDELINES)},
        }


def _task(view: TaskView) -> dict[str, Any]:
    if isinstance(view.prompt, str):
        turns = [{"role": "prompt", "html": render(view.prompt)}]
    else:
        turns = [{"role": turn.role, "html": render(turn.content)} for turn in view.prompt]
    draft = {name: value for name, value in view.draft.items() if name not in (TAB, REVISION)}
    return {
        "submission_id": view.submission_id,
        "task_id": view.task_id,
        "version": view.version,
        "training": view.training,
        "turns": turns,
        "outputs": [{"html": render(text), "text": text} for text in view.responses],
        "draft": draft,
        "tab": view.draft.get(TAB, ""),
        "revision": revision_of(view.draft),
        "active_seconds": view.active_seconds,
    }


def _message(receipt: Receipt) -> str:
    """Return what is unusual about a stored answer; for what is usual the page has its own words."""
    if receipt.repeated:
        return "This task was stored already, perhaps from another tab; that answer stands."
    if receipt.surplus:
        return "Stored. The task had enough answers by now, so yours is kept but not counted."
    return ""


def _feedback(found: Feedback | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "ranks": list(found.ranks),
        "explanation": render_page(found.explanation) if found.explanation else "",
        "agreement": found.agreement,
    }


def _past(row: PastAnswer) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "version": row.version,
        "verdict": row.verdict,
        "at": row.submitted_at,
        "surplus": row.surplus,
        "excerpt": row.excerpt,
        "ranks": list(row.ranks),
    }
