"""The gate before all pages: host, origin, route, size, session and role first, the security headers last.

Gradio carries more routes than the pages need, some without a login. Only those in the table below exist for the
outside, whatever Gradio adds.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from labeling_ui.address import Access
from labeling_ui.app import COOKIE, SIGNED_OUT
from labeling_ui.forms import message_page
from labeling_ui.forwarded import as_visited
from rlhf.labels.accounts import Annotator, find_session, renew_session
from rlhf.labels.store import Store

MAX_BODY = 256 * 1024
LABEL, MANAGE = "/label/", "/manage/"
CALLS = ("/component_server", "/component_server/")
PAGES = (LABEL, MANAGE, LABEL.rstrip("/"), MANAGE.rstrip("/"), "/password")

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
# The pages where passwords are typed are not Gradio's, and run no script at all.
SCRIPTLESS = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HSTS = "max-age=31536000"

Who = Literal["anyone", "people", "managers"]
READ, SEND, BOTH = ("GET", "HEAD"), ("POST",), ("GET", "HEAD", "POST")


@dataclass(frozen=True, slots=True)
class Route:
    """Paths that exist, for which methods and for whom."""

    paths: re.Pattern[str]
    methods: tuple[str, ...]
    who: Who


_SCREEN = r"/?|/config/?|/manifest\.json|/gradio_api/(theme\.css|app_id|startup-events|heartbeat/[A-Za-z0-9_-]+)"
_ALLOWED: tuple[tuple[str, tuple[str, ...], Who], ...] = (
    (r"/|/favicon\.ico|/entrance\.css", READ, "anyone"),
    (r"/open|/login", BOTH, "anyone"),
    (r"/signout", SEND, "anyone"),
    (r"/password", BOTH, "people"),
    (r"/(label|manage)/((assets|static)/[A-Za-z0-9._/@-]+|theme\.css)", READ, "anyone"),
    (rf"/label({_SCREEN})", READ, "people"),
    (r"/label/gradio_api/component_server/?", SEND, "people"),
    (rf"/manage({_SCREEN})", READ, "managers"),
    (r"/manage/gradio_api/component_server/?", SEND, "managers"),
)
ROUTES = tuple(Route(re.compile(paths), methods, who) for paths, methods, who in _ALLOWED)


class Gate:
    """ASGI middleware that lets through what the table names.

    Args:
        app: The application behind it.
        store: The ranking store, which knows the sessions.
        access: Where the pages answer.
    """

    def __init__(self, app: Any, store: Store, access: Access) -> None:
        self._app = app
        self._store = store
        self._access = access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here
        scope = as_visited(scope, self._access.proxies)
        answer = await self._refusal(Request(scope)) or self._app
        await answer(scope, receive, _with_headers(send, scope["path"], self._access.secure))

    async def _refusal(self, request: Request) -> Response | None:
        origin = f"{request.url.scheme}://{request.headers.get('host', '').lower()}"
        if origin not in self._access.origins:
            return Response(f"This page does not answer at {origin!r}.", 421)
        reading = request.method in READ
        if not reading and request.headers.get("origin") != origin:
            return Response("This request comes from another page.", 403)
        route = find_route(request.method, request.url.path)
        if route is None:
            return Response("Not found.", 404)
        if not reading and not _small(request.headers.get("content-length")):
            return Response("Too large.", 413)
        if route.who == "anyone":
            return None
        person = await run_in_threadpool(self._person, request.cookies.get(COOKIE))
        if person is None:
            return self._ask_to_enter(request)
        if route.who == "managers" and not person.manages:
            return _not_a_manager(request)
        return None

    def _person(self, secret: str | None) -> Annotator | None:
        found = find_session(self._store, secret)
        if found is None or secret is None:
            return None
        if found.due:
            renew_session(self._store, secret)
        return found.annotator

    def _ask_to_enter(self, request: Request) -> Response:
        path = request.url.path
        if path.endswith(CALLS) and request.method in SEND:
            # With any other status Gradio's script would tell the page no more than that something went wrong.
            return JSONResponse(SIGNED_OUT)
        if path not in PAGES or request.method not in READ:
            return Response("No session.", 401)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A link in a mail or a chat: the browser kept the cookie back. It sends it where our own page asks.
            return HTMLResponse(message_page("One moment", "The page is opening.", refresh=path))
        if self._access.local:
            return RedirectResponse("/open", 303)
        return RedirectResponse("/login?to=manage" if path.startswith("/manage") else "/login", 303)


def find_route(method: str, path: str) -> Route | None:
    """Return the table's line for a request, or None: the route does not exist."""
    # No file has a longer name.
    if ".." in path or max(map(len, path.split("/"))) > 200:
        return None
    return next((route for route in ROUTES if route.paths.fullmatch(path) and method in route.methods), None)


def _not_a_manager(request: Request) -> Response:
    words = "These pages are for whoever manages the labels."
    if request.url.path not in PAGES:
        return Response(words, 403)
    return HTMLResponse(message_page("For managers only", words, link=(LABEL, "To the ranking page")), 403)


def _with_headers(send: Any, path: str, secure: bool) -> Callable[[Any], Any]:
    """Return a `send` that puts the security headers in place of whatever the application says."""
    ours = dict(HEADERS)
    if not path.startswith((LABEL, MANAGE)):
        ours["content-security-policy"] = SCRIPTLESS
    if secure:
        ours["strict-transport-security"] = HSTS
    if "/assets/" not in path and "/static/" not in path:
        ours["cache-control"] = "no-store"
    encoded = {name.encode(): value.encode() for name, value in ours.items()}

    async def send_with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in encoded]
            message = {**message, "headers": [*kept, *encoded.items()]}
        await send(message)

    return send_with_headers


def _small(length: str | None) -> bool:
    return length is not None and length.isdecimal() and int(length) <= MAX_BODY
