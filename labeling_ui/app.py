"""The labeling page: one Gradio HTML component, whose server functions are the only way to the store.

Gradio's component functions can be called by anybody who reaches the port, so each one asks whose session it is
before it does anything, and checks every value that comes back. Output texts are rendered and sanitised here; which
model wrote what is not in the store at all.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before Gradio is imported: it reads these once. No telemetry, no version check, no history in the browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ.pop("GRADIO_VIBE_MODE", None)

import gradio as gr

from labeling_ui.render import render, render_page
from rlhf.errors import RlhfError
from rlhf.labels.accounts import Annotator, current_guidelines, session_annotator
from rlhf.labels.answers import Submission, history, submit
from rlhf.labels.assignment import (
    TaskView,
    claim,
    drop_correction,
    open_answer,
    open_correction,
    progress,
    save_draft,
)
from rlhf.labels.store import Store
from rlhf.records import MAX_CANDIDATES

log = logging.getLogger(__name__)

COOKIE = "rlhf_labels_session"
WIDGET = Path(__file__).parent / "widget"
MAX_SECONDS = 24 * 3600
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

Handler = Callable[[dict[str, Any], Annotator], dict[str, Any]]


def build_app(store: Store, *, open_round: int | None = None, may_switch: bool = True) -> gr.Blocks:
    """Build the page on an open store.

    Args:
        store: The ranking store.
        open_round: Hand out tasks of this round only.
        may_switch: Whether people choose their names themselves.
    """
    desk = _Desk(store, open_round, may_switch)
    with gr.Blocks(title="Rankings", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            html_template=(WIDGET / "ranking.html").read_text(encoding="utf-8"),
            js_on_load=(WIDGET / "ranking.js").read_text(encoding="utf-8"),
            elem_id="ranking",
            apply_default_css=False,
            server_functions=[
                guarded(store, "load", desk.load),
                guarded(store, "save", desk.save),
                guarded(store, "submit", desk.submit),
                guarded(store, "correct", desk.correct),
                guarded(store, "cancel", desk.cancel),
            ],
        )
    # Component functions run in threads and pass no queue; should an event be added, it must not wait for others.
    return page.queue(default_concurrency_limit=None)


class _Desk:
    """The handlers of one page; each gets the browser's payload and the annotator whose session it is."""

    def __init__(self, store: Store, open_round: int | None, may_switch: bool) -> None:
        self._store = store
        self._round = open_round
        self._may_switch = may_switch

    def load(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        view = open_correction(self._store, annotator) or claim(self._store, annotator, round=self._round)
        return {"ok": True, "screen": self._screen(annotator, view)}

    def save(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        known = save_draft(
            self._store,
            annotator,
            _text(payload, "submission_id"),
            _draft(payload.get("draft")),
            active_seconds=_seconds(payload),
        )
        if known:
            return {"ok": True}
        return {"ok": False, "gone": True, "error": "This task was answered already, perhaps in another tab."}

    def submit(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        receipt = submit(self._store, annotator, _submission(payload))
        view = claim(self._store, annotator, round=self._round)
        message = "Stored." if receipt.version == 1 else "Correction stored."
        if receipt.repeated:
            message = "This task was stored already, perhaps from another tab; that answer stands."
        elif receipt.surplus:
            message = "Stored. The task had enough answers by now, so yours is kept but not counted."
        screen = self._screen(annotator, view)
        return {"ok": True, "message": message, "task_id": receipt.task_id, "screen": screen}

    def correct(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        view = open_answer(self._store, annotator, _whole(payload, "task_id"))
        return {"ok": True, "screen": self._screen(annotator, view)}

    def cancel(self, payload: dict[str, Any], annotator: Annotator) -> dict[str, Any]:
        drop_correction(self._store, annotator, _text(payload, "submission_id"))
        return self.load(payload, annotator)

    def _screen(self, annotator: Annotator, view: TaskView | None) -> dict[str, Any]:
        done = progress(self._store, annotator, round=self._round)
        with self._store.reading() as connection:
            _, guidelines = current_guidelines(connection)
        rows = [
            {
                "task_id": row.task_id,
                "version": row.version,
                "verdict": row.verdict,
                "at": row.submitted_at,
                "surplus": row.surplus,
                "excerpt": row.excerpt,
                "ranks": list(row.ranks),
            }
            for row in history(self._store, annotator)
        ]
        return {
            "name": annotator.name,
            "may_switch": self._may_switch,
            "progress": {"ranked": done.ranked, "cannot_judge": done.cannot_judge, "available": done.available},
            "task": _task(view) if view else None,
            "history": rows,
            "guidelines": render_page(guidelines or DEFAULT_GUIDELINES),
        }


def guarded(store: Store, name: str, handler: Handler) -> Callable[[Any, gr.Request], dict[str, Any]]:
    """Wrap a handler: whose session is it, is the payload an object, what does a refusal look like.

    Args:
        store: The ranking store, which knows the sessions.
        name: What the page calls it.
        handler: Gets the payload and the annotator.

    Returns:
        The component function. It answers an object whose `ok` is False where the call was refused. Gradio hands it
        the bare web request, whatever the annotation says; only `cookies` is used.
    """

    def call(payload: Any, request: gr.Request) -> dict[str, Any]:
        annotator = session_annotator(store, request.cookies.get(COOKIE))
        if annotator is None:
            return {"ok": False, "signed_out": True, "error": "Your session has ended. Open the page's link again."}
        if not isinstance(payload, dict):
            return {"ok": False, "error": "The page sent something unreadable; reload it."}
        try:
            started = time.perf_counter()
            answer = handler(payload, annotator)
            log.debug("%s took %.3f s", name, time.perf_counter() - started)
        except RlhfError as error:
            return {"ok": False, "error": f"{error}"}
        return answer

    call.__name__ = name
    return call


def _task(view: TaskView) -> dict[str, Any]:
    if isinstance(view.prompt, str):
        turns = [{"role": "prompt", "html": render(view.prompt)}]
    else:
        turns = [{"role": turn.role, "html": render(turn.content)} for turn in view.prompt]
    return {
        "submission_id": view.submission_id,
        "task_id": view.task_id,
        "version": view.version,
        "turns": turns,
        "outputs": [{"html": render(text), "text": text} for text in view.responses],
        "draft": view.draft,
        "resumed": bool(view.draft) and not view.version,
        "active_seconds": view.active_seconds,
    }


# ---- what the browser sends is anybody's guess: take the known fields, in the known types ----


def _submission(payload: dict[str, Any]) -> Submission:
    return Submission(
        submission_id=_text(payload, "submission_id"),
        verdict=_text(payload, "verdict"),  # pyright: ignore[reportArgumentType]  (submit checks it)
        ranks=_numbers(payload.get("ranks")),
        strengths=_numbers(payload.get("strengths")),
        flags=_flag_lists(payload.get("flags")),
        all_bad=payload.get("all_bad") is True,
        reason=_text(payload, "reason"),
        comment=_text(payload, "comment"),
        active_seconds=_seconds(payload),
    )


def _draft(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unreadable
    return {
        "levels": list(_numbers(value.get("levels"))),
        "strengths": list(_numbers(value.get("strengths"))),
        "flags": [list(entry) for entry in _flag_lists(value.get("flags"))],
        "all_bad": value.get("all_bad") is True,
        "comment": _text(value, "comment"),
    }


class _Unreadable(RlhfError):
    """The payload has a field of the wrong type: not something our page sends."""

    def __str__(self) -> str:
        return "The page sent something unreadable; reload it."


def _text(payload: dict[str, Any], name: str) -> str:
    value = payload.get(name, "")
    # Half a surrogate pair is valid JSON and no text.
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        raise _Unreadable
    return value


def _whole(payload: dict[str, Any], name: str) -> int:
    value = payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise _Unreadable
    return value


def _seconds(payload: dict[str, Any]) -> float:
    value = payload.get("active_seconds", 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_SECONDS:
        raise _Unreadable
    return float(value)


def _numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_CANDIDATES:
        raise _Unreadable
    if not all(isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry <= 9 for entry in value):
        raise _Unreadable
    return tuple(value)


def _flag_lists(value: Any) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list) or len(value) > MAX_CANDIDATES:
        raise _Unreadable
    if not all(isinstance(entry, list) and len(entry) <= 9 for entry in value):
        raise _Unreadable
    if not all(isinstance(flag, str) and len(flag) <= 40 for entry in value for flag in entry):
        raise _Unreadable
    return tuple(tuple(entry) for entry in value)
