"""The pages in front of the app, as HTML without scripts, and the token that each of their forms carries.

The token is a keyed digest of a secret that only this browser has: its session, or before there is one a cookie that
the first form sets. Another site can make a browser send a form; it cannot know the token.
"""

import hashlib
import hmac
import html
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request

from labeling_ui.app import COOKIE, WIDGET
from rlhf.labels.accounts import MAX_NAME
from rlhf.labels.passwords import MAX_PASSWORD, MIN_PASSWORD

ENTRANCE = WIDGET / "entrance"
VISIT_COOKIE = "rlhf_labels_visit"
TOKEN_FIELD = "form_token"
MAX_FIELDS = 20


@dataclass(frozen=True, slots=True)
class Field:
    """An input of a form."""

    name: str
    label: str
    kind: str = "text"
    autocomplete: str = "off"
    value: str = ""
    hint: str = ""
    longest: int = MAX_NAME
    shortest: int = 0
    focus: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """A page with one form.

    Attributes:
        title: The heading.
        lead: One sentence below it.
        action: Where the form goes.
        button: What its button says.
        fields: Its inputs.
        hidden: Values that go along.
        owner: Whose password it is, for the browser's password manager.
        error: What went wrong, as the store says it.
        below: Sentences below the form.
        link: Address and words of a link below that.
    """

    title: str
    lead: str
    action: str
    button: str
    fields: tuple[Field, ...] = ()
    hidden: dict[str, str] = field(default_factory=dict[str, str])
    owner: str = ""
    error: str = ""
    below: str = ""
    link: tuple[str, str] | None = None


def name_field(value: str = "", *, label: str = "Name", autocomplete: str = "username", hint: str = "") -> Field:
    """Return the input for a name."""
    return Field("name", label, autocomplete=autocomplete, value=value, hint=hint, focus=not value)


def password_field(*, focus: bool = False, name: str = "password", label: str = "Password") -> Field:
    """Return the input for a password that exists."""
    return Field(name, label, "password", "current-password", longest=MAX_PASSWORD, focus=focus)


def new_password_fields(*, focus: bool = False, label: str = "Password") -> tuple[Field, Field]:
    """Return the two inputs for a new password."""
    hint = f"At least {MIN_PASSWORD} characters, any you like. Three or four unrelated words do well."
    new = {"kind": "password", "autocomplete": "new-password", "longest": MAX_PASSWORD, "shortest": MIN_PASSWORD}
    return Field("new", label, hint=hint, focus=focus, **new), Field("again", "The same again", **new)


def form_page(form: Form, token: str) -> str:
    """Return a page with a form that carries the token."""
    hidden = "".join(
        f'<input type="hidden" name="{_safe(name)}" value="{_safe(value)}">'
        for name, value in {**form.hidden, TOKEN_FIELD: token}.items()
    )
    if form.owner:
        hidden += f'<input name="username" autocomplete="username" value="{_safe(form.owner)}" readonly hidden>'
    error = f'<p class="error" role="alert">{_prose(sentence(form.error))}</p>' if form.error else ""
    inputs = "".join(_input(one) for one in form.fields)
    body = f'<p class="lead">{_prose(form.lead)}</p>' if form.lead else ""
    body += f'{error}<form method="post" action="{_safe(form.action)}">{inputs}{hidden}<button>{_safe(form.button)}</button></form>'
    body += f'<p class="below">{_safe(form.below)}</p>' if form.below else ""
    return _page(form.title, body + _link(form.link))


def message_page(title: str, words: str, *, link: tuple[str, str] | None = None, refresh: str = "") -> str:
    """Return a page that says something, and may go on to another by itself."""
    head = f'<meta http-equiv="refresh" content="0;url={_safe(refresh)}">' if refresh else ""
    return _page(title, f'<p class="lead">{_prose(words)}</p>{_link(link)}', head)


def sentence(text: str) -> str:
    """Return a message of the store as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def new_visit() -> str:
    """Return the secret of a browser that has no session."""
    return secrets.token_urlsafe(32)


def make_token(secret: str) -> str:
    """Return the token of this browser's forms."""
    return hmac.new(secret.encode(), b"form", hashlib.sha256).hexdigest()


def has_token(request: Request, form: dict[str, str]) -> bool:
    """Return whether a form that came back is one that this browser was given."""
    given = form.get(TOKEN_FIELD, "").encode()
    owned = [request.cookies.get(name) for name in (COOKIE, VISIT_COOKIE)]
    return any(hmac.compare_digest(make_token(secret).encode(), given) for secret in owned if secret)


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, the first value of each; none of one that nobody fills in by hand."""
    try:
        found: dict[str, Any] = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in found.items()}


def _input(one: Field) -> str:
    lengths = f' maxlength="{one.longest}"' + (f' minlength="{one.shortest}"' if one.shortest else "")
    described = f' aria-describedby="{one.name}-hint"' if one.hint else ""
    hint = f'<p class="hint" id="{one.name}-hint">{_safe(one.hint)}</p>' if one.hint else ""
    capitals = "words" if one.kind == "text" else "none"
    plain = f' autocapitalize="{capitals}" spellcheck="false"'
    focus = " autofocus" if one.focus else ""
    return (
        f'<div class="field"><label for="{one.name}">{_safe(one.label)}</label>'
        f'<input id="{one.name}" name="{one.name}" type="{one.kind}" value="{_safe(one.value)}" '
        f'autocomplete="{one.autocomplete}"{lengths}{described}{plain}{focus} required>{hint}</div>'
    )


def _link(link: tuple[str, str] | None) -> str:
    return f'<p class="below"><a href="{_safe(link[0])}">{_safe(link[1])}</a></p>' if link else ""


def _page(title: str, body: str, head: str = "") -> str:
    template = Template((ENTRANCE / "entrance.html").read_text(encoding="utf-8"))
    return template.substitute(title=_safe(title), body=body, head=head)


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


def _prose(text: str) -> str:
    """Return a sentence as HTML, with what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", _safe(text))


def style_file() -> Path:
    """Return the stylesheet of these pages."""
    return ENTRANCE / "entrance.css"
