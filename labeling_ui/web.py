"""The web server around the labeling page: who may reach it, by which routes, with which headers.

In this version the page is for people at this machine: the server binds the loopback interface and is opened with a
link that works once. Gradio carries more routes than the page needs, some without a login; only those listed here
exist for the outside, whatever Gradio adds.
"""

import html
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from labeling_ui.app import COOKIE, WIDGET, build_app
from rlhf.errors import LabelError, ResourceError
from rlhf.labels.accounts import (
    SESSION_LIFETIME_S,
    create_login_token,
    create_session,
    end_session,
    ensure_annotator,
    login_token_owner,
    redeem_login_token,
    session_annotator,
)
from rlhf.labels.store import Store, open_store

# isort: split
# After labeling_ui.app, which sets what Gradio reads while it is imported.
import gradio as gr

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 256 * 1024
LAST_PORT = 65535
PAGE = "/label/"

HEADERS = {
    # Gradio compiles its templates in the browser, hence the two unsafe words. The policy keeps everything from
    # being loaded or sent elsewhere; against scripts in texts the sanitising is the defence.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not "no-referrer": with it, browsers send no usable Origin with our own forms.
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

OPEN_ROUTES = re.compile(r"/open|/signout|/|/label/(assets|static)/[A-Za-z0-9._/@-]+|/label/theme\.css|/favicon\.ico")
SESSION_ROUTES = re.compile(
    r"/label/?|/label/config/?|/label/manifest\.json"
    r"|/label/gradio_api/(theme\.css|app_id|startup-events|heartbeat/[A-Za-z0-9_-]+)"
)
CALL_ROUTES = re.compile(r"/label/gradio_api/component_server/?")


class Gate:
    """ASGI middleware: host, origin, route, session and size first, the security headers last."""

    def __init__(self, app: Any, store: Store, hosts: set[str]) -> None:
        self._app = app
        self._store = store
        self._hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here
        refusal = self._refuse(Request(scope))

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                ours = {name.encode(): value.encode() for name, value in HEADERS.items()}
                if "/assets/" not in scope["path"] and "/static/" not in scope["path"]:
                    ours[b"cache-control"] = b"no-store"
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in ours]
                message = {**message, "headers": [*kept, *ours.items()]}
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refuse(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if host not in self._hosts:
            return Response(f"This page does not answer to the host name {host!r}.", 421)
        reading = request.method in ("GET", "HEAD")
        if not reading and request.headers.get("origin") != f"http://{host}":
            return Response("This request comes from another page.", 403)
        path = request.url.path
        known = OPEN_ROUTES.fullmatch(path) or (
            (SESSION_ROUTES.fullmatch(path) and reading) or (CALL_ROUTES.fullmatch(path) and request.method == "POST")
        )
        if not known or ".." in path:
            return Response("Not found.", 404)
        if not reading and not _small(request.headers.get("content-length")):
            return Response("Too large.", 413)
        if OPEN_ROUTES.fullmatch(path) or session_annotator(self._store, request.cookies.get(COOKIE)):
            return None
        return RedirectResponse("/open", 303) if path in ("/label", PAGE) else Response("No session.", 401)


def build_web(store: Store, hosts: set[str], *, open_round: int | None = None, fixed_name: str | None = None) -> Any:
    """Return the whole ASGI application: the entrance, the Gradio page, and the gate before both.

    Args:
        store: The ranking store.
        hosts: The values of the Host header to answer to.
        open_round: Hand out tasks of this round only.
        fixed_name: The page is for this person; without it, people say who they are.
    """
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_entrance(web, store, fixed_name)
    page = build_app(store, open_round=open_round, may_switch=fixed_name is None)
    gr.mount_gradio_app(
        web,
        page,
        path=PAGE.rstrip("/"),
        css=(WIDGET / "ranking.css").read_text(encoding="utf-8"),
        theme=gr.themes.Base(font="system-ui", font_mono="ui-monospace"),
        auth_dependency=lambda request: _user_id(store, request),
        footer_links=[],
        run_history=False,
        show_error=False,
        allowed_paths=[],
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
    )
    return Gate(web, store, hosts)


def serve(
    database: Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    annotator_name: str | None = None,
    open_round: int | None = None,
    *,
    announce: Callable[[str], None] = log.info,
) -> None:
    """Serve the labeling page until interrupted.

    Args:
        database: The label database.
        host: A loopback address; nothing else in this version.
        port: The port; 0 takes a free one.
        annotator_name: Open the page for this person; without it, the entrance asks for a name.
        open_round: Hand out tasks of this round only.
        announce: Told the link to open.

    Raises:
        LabelError: The host is not a loopback address, there is no such port, or the database is unusable.
        ResourceError: The port is taken.
    """
    if host not in LOOPBACK:
        raise LabelError(
            f"host is {host!r}; this version serves people at this machine only, on {', '.join(LOOPBACK)} "
            "(from elsewhere, use an SSH tunnel: ssh -L 7860:127.0.0.1:7860 THIS_MACHINE)"
        )
    if not 0 <= port <= LAST_PORT:
        raise LabelError(f"port is {port}; give a number from 1 to {LAST_PORT}, or 0 for any that is free")
    store = open_store(database)
    try:
        annotator = ensure_annotator(store, annotator_name) if annotator_name else None
        listener = _listen(host, port)
        port = listener.getsockname()[1]
        hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        web = build_web(store, hosts, open_round=open_round, fixed_name=annotator.name if annotator else None)
        server = uvicorn.Server(
            uvicorn.Config(web, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
        )
        token = create_login_token(store, annotator)
        shown = f"[{host}]" if ":" in host else host
        announce(f"labeling page: http://{shown}:{port}/open?token={token}\n(the link opens one session; Ctrl+C stops)")
        server.run(sockets=[listener])
    finally:
        store.close()


def add_entrance(web: FastAPI, store: Store, fixed_name: str | None) -> None:
    """Add the pages in front of the labeling page: the one that a link opens, and the way out."""

    @web.get("/")
    def home() -> Response:
        return RedirectResponse(PAGE, 303)

    @web.get("/favicon.ico")
    def icon() -> Response:
        return Response((WIDGET / "icon.svg").read_bytes(), media_type="image/svg+xml")

    @web.get("/open")
    def entrance(request: Request, token: str = "") -> Response:
        return _entrance_page(store, request, token, fixed_name)

    @web.post("/open")
    async def enter(request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        token, name = form.get("token", [""])[0], form.get("name", [""])[0]
        try:
            if token:
                secret = redeem_login_token(store, token, name)
            elif _user_id(store, request) and fixed_name is None:
                secret = create_session(store, ensure_annotator(store, name))
            else:
                raise LabelError("this needs the link that `rlhf label serve` printed")
        except LabelError as error:
            return _entrance_page(store, request, token, fixed_name, str(error))
        answer = RedirectResponse(PAGE, 303)
        answer.set_cookie(COOKIE, secret, max_age=SESSION_LIFETIME_S, path="/", httponly=True, samesite="strict")
        return answer

    @web.post("/signout")
    def leave(request: Request) -> Response:
        end_session(store, request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/open", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer


def _entrance_page(store: Store, request: Request, token: str, fixed_name: str | None, error: str = "") -> Response:
    """Show the form that asks for a name; a GET changes nothing, so that a link preview cannot use up the token."""
    template = Template((WIDGET / "open.html").read_text(encoding="utf-8"))
    valid, owner = login_token_owner(store, token) if token else (False, None)
    current = session_annotator(store, request.cookies.get(COOKIE))
    if not valid and (current is None or fixed_name is not None):
        if current is not None and not error:
            return RedirectResponse(PAGE, 303)
        why = error or (
            "This link was used already or has expired." if token else "The page opens with the link that was printed."
        )
        body = f"<p>{html.escape(why)} Run <code>rlhf label serve</code> again for a new one.</p>"
        return HTMLResponse(template.substitute(title="Please use a fresh link", body=body), 403)
    note = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
    if owner is None:
        value = html.escape(current.name if current else "", quote=True)
        field = (
            '<label for="name">Your name</label>'
            f'<input id="name" name="name" value="{value}" maxlength="80" autocomplete="name" required autofocus>'
        )
        lead = "<p>Say who you are. The name stays in this database and brings you back to your own answers.</p>"
    else:
        field, lead = "", f"<p>You will work as {html.escape(owner.name)}.</p>"
    hidden = f'<input type="hidden" name="token" value="{html.escape(token, quote=True)}">' if valid else ""
    body = f'{lead}{note}<form method="post" action="/open">{field}{hidden}<button>Start ranking</button></form>'
    return HTMLResponse(template.substitute(title="Welcome", body=body))


def _user_id(store: Store, request: Request) -> str | None:
    annotator = session_annotator(store, request.cookies.get(COOKIE))
    return annotator.id if annotator else None


def _small(length: str | None) -> bool:
    return length is not None and length.isdigit() and int(length) <= MAX_BODY


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port"
        ) from error
    listener.set_inheritable(True)
    return listener
