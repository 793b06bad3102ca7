"""The pages in front of the app: sign in, take up an invitation or a link, change the password, sign out.

Looking at a page changes nothing, so that a link preview cannot use up a token. What changes something is a form with
its token; what takes time (a password's digest) runs in few threads of its own, so that nobody can keep all busy.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from labeling_ui.address import Access
from labeling_ui.app import COOKIE, WIDGET
from labeling_ui.forms import (
    VISIT_COOKIE,
    Form,
    form_page,
    has_token,
    make_token,
    message_page,
    name_field,
    new_password_fields,
    new_visit,
    password_field,
    read_form,
    sentence,
    style_file,
)
from labeling_ui.gate import LABEL, MANAGE
from rlhf.errors import LabelError
from rlhf.labels.accounts import (
    SESSION_LIFETIME_S,
    Annotator,
    create_session,
    end_session,
    login_token_owner,
    open_by_name,
    redeem_login_token,
    session_annotator,
)
from rlhf.labels.attempts import TooManyAttemptsError
from rlhf.labels.invitations import Invitation, accept_invitation, find_invitation
from rlhf.labels.logins import WrongPasswordError, change_password, has_password, log_in
from rlhf.labels.store import Store

SIGN_OUT_COOKIE = "rlhf_labels_form"
"""Holds the form token of the session, for the scripts of our pages: they sign out by a form that they make."""
PASSWORDS_AT_ONCE = 2
STALE = "this page was open for too long, or cookies are off; try again"
DIFFERENT = "the two passwords differ; type the new one twice"

Fields = dict[str, str]
Handler = Callable[[Request, Fields], Response]


class Entrance:
    """The pages, on an open store.

    Args:
        store: The ranking store.
        access: Where the pages answer.
        fixed_name: The app is for this person; without it, people at this machine say who they are.
    """

    def __init__(self, store: Store, access: Access, fixed_name: str | None) -> None:
        self._store = store
        self._access = access
        self._fixed_name = fixed_name
        self._limiter = CapacityLimiter(PASSWORDS_AT_ONCE)

    def add_to(self, web: FastAPI) -> None:
        """Add the pages to an application."""
        web.add_api_route("/", lambda: RedirectResponse(LABEL, 303), methods=["GET"])
        web.add_api_route("/favicon.ico", _file(WIDGET / "icon.svg", "image/svg+xml"), methods=["GET"])
        web.add_api_route("/entrance.css", _file(style_file(), "text/css"), methods=["GET"])
        for path, look, act in (
            ("/login", self.login, self.log_in),
            ("/open", self.open, self.enter),
            ("/password", self.password, self.change_password),
        ):
            web.add_api_route(path, look, methods=["GET"])
            web.add_api_route(path, self._form(act), methods=["POST"])
        web.add_api_route("/signout", self._form(self.sign_out), methods=["POST"])

    # ---- looking ----------------------------------------------------------------------------------

    def login(self, request: Request, to: str = "") -> Response:
        """Show the form for name and password."""
        person = self._person(request)
        return RedirectResponse(_home(person, to), 303) if person else self._login_page(request, to=to)

    def open(self, request: Request, token: str = "") -> Response:
        """Show what a link opens."""
        invitation = find_invitation(self._store, token) if token else None
        if invitation is not None:
            return self._invitation_page(request, token, invitation)
        if self._access.local:
            return self._local_page(request, token)
        if token:
            return _spent(False)
        return RedirectResponse(LABEL if self._person(request) else "/login", 303)

    def password(self, request: Request) -> Response:
        """Show the form for a new password."""
        return self._password_page(request, self._person(request))

    # ---- acting -----------------------------------------------------------------------------------

    def log_in(self, request: Request, form: Fields) -> Response:
        """Open a session for whoever knows a name and its password."""
        name, to = form.get("name", ""), form.get("to", "")
        if not has_token(request, form):
            return self._login_page(request, name, to, STALE, 403)
        try:
            secret = log_in(self._store, name, form.get("password", ""), _address(request))
        except TooManyAttemptsError as error:
            return _wait(self._login_page(request, name, to, f"{error}", 429), error)
        except LabelError as error:
            return self._login_page(request, name, to, f"{error}", 403)
        return self._let_in(request, secret, _home(session_annotator(self._store, secret), to))

    def enter(self, request: Request, form: Fields) -> Response:
        """Use a link: an invitation, or one that this machine's operator was given."""
        token = form.get("token", "")
        invitation = find_invitation(self._store, token) if token else None
        if invitation is not None:
            return self._accept(request, form, token, invitation)
        return self._enter_locally(request, form, token) if self._access.local else _spent(False)

    def change_password(self, request: Request, form: Fields) -> Response:
        """Change one's own password; every other session ends."""
        person = self._person(request)
        if person is None:
            return RedirectResponse("/login", 303)
        if not has_token(request, form):
            return self._password_page(request, person, STALE, 403)
        current, new = form.get("current", ""), form.get("new", "")
        try:
            if new != form.get("again", ""):
                raise LabelError(DIFFERENT)
            secret = change_password(self._store, person, current, new, _address(request))
        except TooManyAttemptsError as error:
            return _wait(self._password_page(request, person, f"{error}", 429), error)
        except WrongPasswordError as error:
            return self._password_page(request, person, f"{error}", 403)
        except LabelError as error:
            return self._password_page(request, person, f"{error}", 422)
        words = "It holds from now on. Wherever else you were signed in, you are signed out."
        done = HTMLResponse(message_page("Your password is changed", words, link=(LABEL, "To the ranking page")))
        return self._with_session(done, secret)

    def sign_out(self, request: Request, form: Fields) -> Response:
        """End the session."""
        if self._person(request) and not has_token(request, form):
            return self._show(request, Form("Sign out?", "", "/signout", "Sign out", link=(LABEL, "Stay")), 403)
        end_session(self._store, request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/open" if self._access.local else "/login", 303)
        for name in (COOKIE, SIGN_OUT_COOKIE):
            answer.delete_cookie(name, path="/", httponly=True, samesite="strict", secure=self._access.secure)
        return answer

    # ---- pages ------------------------------------------------------------------------------------

    def _login_page(
        self, request: Request, name: str = "", to: str = "", error: str = "", status: int = 200
    ) -> Response:
        fields = name_field(name), password_field(focus=bool(name))
        below = "Forgot your password? Whoever manages the labels can send you a link for a new one."
        hidden = {"to": "manage"} if to == "manage" else {}
        form = Form("Sign in", "", "/login", "Sign in", fields, hidden, error=error, below=below)
        return self._show(request, form, status)

    def _invitation_page(
        self, request: Request, token: str, invitation: Invitation, name: str = "", error: str = "", status: int = 200
    ) -> Response:
        owner = invitation.annotator
        work = "rank responses" if invitation.role == "annotator" else "manage the labels"
        lead = f"You are invited to {work}. Choose a name and a password; you sign in with them from now on."
        if owner is not None:
            lead = f"Choose a password. You sign in as {owner.name} from now on."
        hint = "Whoever manages the labels sees it; other annotators do not."
        names = () if owner else (name_field(name, label="Your name", hint=hint),)
        fields = (*names, *new_password_fields(focus=owner is not None or bool(name)))
        shown = owner.name if owner else ""
        form = Form("Welcome", lead, "/open", "Begin", fields, {"token": token}, shown, error)
        return self._show(request, form, status)

    def _local_page(self, request: Request, token: str, error: str = "", status: int = 200) -> Response:
        valid, owner = login_token_owner(self._store, token) if token else (False, None)
        current = self._person(request)
        if not valid and current is not None and self._fixed_name is not None and not error:
            return RedirectResponse(LABEL, 303)
        if not valid and (current is None or self._fixed_name is not None):
            return _spent(True, token, error)
        hidden = {"token": token} if valid else {}
        if owner is not None:
            form = Form("Welcome", f"You will work as {owner.name}.", "/open", "Start ranking", (), hidden, error=error)
            return self._show(request, form, status)
        lead = "Say who you are. The name stays in this database and brings you back to your own answers."
        name = name_field(current.name if current else "", label="Your name", autocomplete="name")
        return self._show(
            request, Form("Welcome", lead, "/open", "Start ranking", (name,), hidden, error=error), status
        )

    def _password_page(
        self, request: Request, person: Annotator | None, error: str = "", status: int = 200
    ) -> Response:
        back = (LABEL, "Back to the ranking page")
        if person is None or not has_password(self._store, person):
            words = "You came in by a link and have no password. Whoever manages the labels can give you one."
            return HTMLResponse(message_page("No password", words, link=back), status)
        current = password_field(focus=True, name="current", label="Current password")
        fields = current, *new_password_fields(label="New password")
        lead = f"You are signed in as {person.name}. Wherever else you are signed in, you will be signed out."
        form = Form("Change your password", lead, "/password", "Change it", fields, {}, person.name, error, link=back)
        return self._show(request, form, status)

    def _show(self, request: Request, form: Form, status: int = 200) -> Response:
        """Show a form with the token of this browser, which gets a cookie where it has none."""
        secret = request.cookies.get(COOKIE) if self._person(request) else request.cookies.get(VISIT_COOKIE)
        visit = None if secret else new_visit()
        answer = HTMLResponse(form_page(form, make_token(secret or visit or "")), status)
        if visit:
            answer.set_cookie(VISIT_COOKIE, visit, httponly=True, samesite="strict", secure=self._access.secure)
        return answer

    # ---- sessions ---------------------------------------------------------------------------------

    def _accept(self, request: Request, form: Fields, token: str, invitation: Invitation) -> Response:
        name = form.get("name", "")
        if not has_token(request, form):
            return self._invitation_page(request, token, invitation, name, STALE, 403)
        try:
            if form.get("new", "") != form.get("again", ""):
                raise LabelError(DIFFERENT)
            secret = accept_invitation(self._store, token, name, form.get("new", ""))
        except LabelError as error:
            return self._invitation_page(request, token, invitation, name, f"{error}", 422)
        return self._let_in(request, secret, _home(session_annotator(self._store, secret)))

    def _enter_locally(self, request: Request, form: Fields, token: str) -> Response:
        name = form.get("name", "")
        if not has_token(request, form):
            return self._local_page(request, token, STALE, 403)
        try:
            if token:
                secret = redeem_login_token(self._store, token, name)
            elif self._person(request) and self._fixed_name is None:
                secret = create_session(self._store, open_by_name(self._store, name))
            else:
                return _spent(True)
        except LabelError as error:
            return self._local_page(request, token, f"{error}", 422)
        return self._let_in(request, secret, LABEL)

    def _let_in(self, request: Request, secret: str, where: str) -> Response:
        """Go on with a new session; the one before it, if any, ends."""
        end_session(self._store, request.cookies.get(COOKIE, ""))
        return self._with_session(RedirectResponse(where, 303), secret)

    def _with_session(self, answer: Response, secret: str) -> Response:
        for name, value, hidden in ((COOKIE, secret, True), (SIGN_OUT_COOKIE, make_token(secret), False)):
            answer.set_cookie(
                name,
                value,
                max_age=SESSION_LIFETIME_S,
                path="/",
                httponly=hidden,
                samesite="strict",
                secure=self._access.secure,
            )
        return answer

    def _person(self, request: Request) -> Annotator | None:
        return session_annotator(self._store, request.cookies.get(COOKIE))

    def _form(self, act: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return await run_sync(act, request, await read_form(request), limiter=self._limiter)

        return handle


def _home(person: Annotator | None, to: str = "") -> str:
    return MANAGE if person is not None and person.manages and to != "label" else LABEL


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _wait(answer: Response, error: TooManyAttemptsError) -> Response:
    answer.headers["retry-after"] = f"{error.wait_s}"
    return answer


def _spent(local: bool, token: str = "", error: str = "") -> Response:
    """Say that a link is no good, and what is."""
    why = error or (
        "this link was used already or has expired"
        if token or not local
        else "the page opens with the link that was printed"
    )
    remedy = "Run `rlhf label serve` again for a new one." if local else "Ask whoever sent it for a new one."
    link = ("/login", "Sign in with name and password")
    return HTMLResponse(message_page("Please use a fresh link", f"{sentence(why)} {remedy}", link=link), 403)


def _file(path: Any, kind: str) -> Callable[[], Response]:
    return lambda: FileResponse(path, media_type=kind)
