"""Building and serving the pages: the entrance, the ranking page and the manager pages behind one gate.

Without a word about the network the server binds the loopback interface and is opened with a link that works once. Any
other address needs TLS, from files or from a proxy in front, and people who sign in.
"""

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.routing import Mount

from labeling_ui.address import Access, Network, check_network, plan_access
from labeling_ui.app import COOKIE, build_app, stylesheet
from labeling_ui.entrance import Entrance
from labeling_ui.gate import LABEL, MANAGE, Gate
from labeling_ui.manage import build_manage
from labeling_ui.manage import stylesheet as manage_stylesheet
from rlhf.errors import LabelError, ResourceError
from rlhf.labels.accounts import create_login_token, ensure_annotator, session_annotator
from rlhf.labels.logins import has_admin
from rlhf.labels.store import Place, Store, open_store

# isort: split
# After labeling_ui.app, which sets what Gradio reads while it is imported.
import gradio as gr

log = logging.getLogger(__name__)

GRACE_S = 3
LOCAL = Network()


def build_web(
    store: Store,
    access: Access,
    *,
    open_round: int | None = None,
    fixed_name: str | None = None,
    run: Path | None = None,
) -> Gate:
    """Return the whole ASGI application: the entrance, the two Gradio apps, and the gate before all of them.

    Args:
        store: The ranking store.
        access: Where the pages answer.
        open_round: Hand out tasks of this round only.
        fixed_name: The pages are for this person; without it, people at this machine say who they are.
        run: The run folder that the labels belong to, if any.
    """
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    Entrance(store, access, fixed_name).add_to(web)
    may_switch = access.local and fixed_name is None
    ranking = build_app(store, open_round=open_round, may_switch=may_switch)
    _mount(web, ranking, LABEL, stylesheet(), _caller(store))
    managing = build_manage(store, open_round=open_round, run=run)
    _mount(web, managing, MANAGE, manage_stylesheet(), _caller(store, managing=True))
    return Gate(web, store, access)


def serve(
    place: Place,
    host: str = "127.0.0.1",
    port: int = 7860,
    annotator_name: str | None = None,
    open_round: int | None = None,
    *,
    network: Network = LOCAL,
    run: Path | None = None,
    announce: Callable[[str], None] = log.info,
) -> None:
    """Serve the pages until interrupted.

    Args:
        place: The label database.
        host: The address to listen on; others than this machine's own need TLS.
        port: The port; 0 takes a free one.
        annotator_name: Open the page for this person; without it, the entrance asks for a name.
        open_round: Hand out tasks of this round only.
        network: How people elsewhere reach the pages.
        run: The run folder that the labels belong to, if any.
        announce: Told what to open.

    Raises:
        LabelError: An option is wrong, nobody could sign in, or the database is unusable.
        ResourceError: The port is taken.
    """
    check_network(host, port, network)
    with open_store(place) as store:
        if network.open:
            _require_admin(store, annotator_name)
        annotator = ensure_annotator(store, annotator_name) if annotator_name else None
        listener = _listen(host, port)
        access = plan_access(host, listener.getsockname()[1], network)
        name = annotator.name if annotator else None
        web = build_web(store, access, open_round=open_round, fixed_name=name, run=run)
        config = uvicorn.Config(
            web,
            log_level="warning",
            server_header=False,
            # The gate does this, and for the known proxies only.
            proxy_headers=False,
            ws="none",
            ssl_certfile=network.tls_cert,
            ssl_keyfile=network.tls_key,
            timeout_graceful_shutdown=GRACE_S,
        )
        if access.local:
            link = f"{access.origins[0]}/open?token={create_login_token(store, annotator)}"
            announce(f"labeling page: {link}\n(the link opens one session; Ctrl+C stops)")
        else:
            announce(f"labeling pages: {access.origins[0]}/\n(people sign in; Ctrl+C stops)")
        uvicorn.Server(config).run(sockets=[listener])


def _mount(web: FastAPI, page: gr.Blocks, path: str, css: str, caller: Callable[[Request], str | None]) -> None:
    gr.mount_gradio_app(
        web,
        page,
        path=path.rstrip("/"),
        css=css,
        theme=gr.themes.Base(font="system-ui", font_mono="ui-monospace"),
        auth_dependency=caller,
        footer_links=[],
        run_history=False,
        show_error=False,
        allowed_paths=[],
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
    )
    mounted = web.routes[-1]
    assert isinstance(mounted, Mount)
    assert isinstance(mounted.app, FastAPI)
    # What Gradio raises where a call names a component that the page does not have.
    mounted.app.add_exception_handler(KeyError, lambda request, error: Response("Not found.", 404))


def _caller(store: Store, *, managing: bool = False) -> Callable[[Request], str | None]:
    """Return what tells Gradio who calls; the gate has asked already, this is the second lock."""

    def find(request: Request) -> str | None:
        person = session_annotator(store, request.cookies.get(COOKIE))
        return person.id if person is not None and (person.manages or not managing) else None

    return find


def _require_admin(store: Store, annotator_name: str | None) -> None:
    if annotator_name is not None:
        raise LabelError("--name is for the page on this machine; over the network people sign in as themselves")
    if not has_admin(store):
        raise LabelError(
            f"{store.place}: nobody could sign in as admin; make one with `rlhf label user {store.place} add NAME --role admin`"
        )


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
    # From now on visitors wait instead of being refused, though nobody serves them yet.
    listener.listen()
    listener.set_inheritable(True)
    return listener
