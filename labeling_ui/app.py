"""The ranking page: one Gradio HTML component, whose server functions are the only way to the store.

Gradio's component functions can be called by anybody who reaches the port, so each one asks whose session it is
before it does anything, and checks every value that comes back. Output texts are rendered and sanitised on the server;
which model wrote what is not in the store at all.
"""

import logging
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

# Before Gradio is imported: it reads these once. No telemetry, no version check, no history in the browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ.pop("GRADIO_VIBE_MODE", None)

import gradio as gr

from labeling_ui.desk import Desk
from labeling_ui.unseen import script_pattern
from rlhf.errors import RlhfError, StoreUnavailableError
from rlhf.labels.accounts import ROLES, Annotator, Role, session_annotator
from rlhf.labels.store import Store
from rlhf.labels.submissions import MAX_COMMENT, MAX_EDIT

log = logging.getLogger(__name__)

COOKIE = "rlhf_labels_session"
WIDGET = Path(__file__).parent / "widget"
RANKING = WIDGET / "ranking"
# Joined in this order; the last one starts the page.
SCRIPTS = (
    "core.js", "order.js", "saving.js", "sending.js", "cards.js", "drawing.js", "pair.js", "reading.js", "compare.js",
    "better.js", "training.js", "guide.js", "work.js", "drag.js", "keys.js", "time.js", "start.js",
)  # fmt: skip
STYLES = ("frame.css", "task.css", "cards.css", "text.css", "dialogs.css", "work.css", "phone.css")

STORE_AWAY = (
    "Nothing can be stored just now; whoever runs the server finds why in its log. What you typed is kept here."
)
SIGNED_OUT = {"ok": False, "signed_out": True, "error": "Your session has ended. Sign in again."}

Handler = Callable[[dict[str, Any], Annotator], dict[str, Any]]


def build_app(store: Store, *, open_round: int | None = None, may_switch: bool = True) -> gr.Blocks:
    """Build the page on an open store.

    Args:
        store: The ranking store.
        open_round: Hand out tasks of this round only.
        may_switch: Whether people choose their names themselves.
    """
    with gr.Blocks(title="Rankings", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            html_template=(RANKING / "ranking.html").read_text(encoding="utf-8"),
            js_on_load=script(),
            elem_id="ranking",
            apply_default_css=False,
            server_functions=page_functions(store, open_round=open_round, may_switch=may_switch),
        )
    # Component functions run in threads and pass no queue; should an event be added, it must not wait for others.
    return page.queue(default_concurrency_limit=None)


def page_functions(
    store: Store, *, open_round: int | None = None, may_switch: bool = True
) -> list[Callable[[Any, Any], dict[str, Any]]]:
    """Return the component functions, each of which asks first who calls."""
    desk = Desk(store, open_round, may_switch)
    handlers: dict[str, Handler] = {
        "load": desk.load,
        "save": desk.save,
        "submit": desk.submit,
        "correct": desk.correct,
        "cancel": desk.cancel,
        "undo": desk.undo,
        "compare": desk.compare,
        "work": desk.work,
    }
    return [guarded(store, name, handler) for name, handler in handlers.items()]


def script() -> str:
    """Return the page's script: its files joined, with what the server knows better filled in."""
    joined = "\n".join((RANKING / name).read_text(encoding="utf-8") for name in SCRIPTS)
    known = {"__UNSEEN__": script_pattern(), "__MAX_COMMENT__": f"{MAX_COMMENT}", "__MAX_EDIT__": f"{MAX_EDIT}"}
    for name, value in known.items():
        joined = joined.replace(name, value)
    return joined


def stylesheet() -> str:
    """Return the page's CSS, which Gradio takes when the page is mounted."""
    return "\n".join((RANKING / name).read_text(encoding="utf-8") for name in STYLES)


def guarded(
    store: Store, name: str, handler: Handler, roles: Collection[Role] = ROLES
) -> Callable[[Any, gr.Request], dict[str, Any]]:
    """Wrap a handler: whose session is it, may he do this, is the payload an object, what does a refusal look like.

    Args:
        store: The ranking store, which knows the sessions.
        name: What the page calls it.
        handler: Gets the payload and the annotator.
        roles: Whose calls are answered.

    Returns:
        The component function. It answers an object whose `ok` is False where the call was refused. Gradio hands it
        the bare web request, whatever the annotation says; only `cookies` is used.
    """

    def call(payload: Any, request: gr.Request) -> dict[str, Any]:
        try:
            annotator = session_annotator(store, request.cookies.get(COOKIE))
            if annotator is None:
                return dict(SIGNED_OUT)
            if annotator.role not in roles:
                return {"ok": False, "error": "These pages are for whoever manages the labels."}
            if not isinstance(payload, dict):
                return {"ok": False, "error": "The page sent something unreadable; reload it."}
            started = time.perf_counter()
            answer = handler(payload, annotator)
            log.debug("%s took %.3f s", name, time.perf_counter() - started)
        except StoreUnavailableError as error:
            # Where the store lies is nothing for everybody.
            log.error("%s: %s", name, error)
            return {"ok": False, "away": True, "error": STORE_AWAY}
        except RlhfError as error:
            return {"ok": False, "error": f"{error}"}
        return answer

    call.__name__ = name
    return call
