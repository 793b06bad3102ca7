"""The whole application inside the test's own process, with a clock that the test moves, and visitors of every kind."""

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.testclient import TestClient

from labeling_ui.address import Access
from labeling_ui.app import COOKIE
from labeling_ui.gate import Gate
from labeling_ui.web import build_web
from rlhf.labels.accounts import Annotator, Role, create_session, end_sessions
from rlhf.labels.passwords import hash_password
from rlhf.labels.publishing import publish
from rlhf.labels.store import Store, open_store
from rlhf.labels.users import create_user
from rlhf.records import CandidateSet

HOME = "https://labels.example.org"
TEAM = Access((HOME,), local=False, secure=True)
LOCAL = Access(("http://127.0.0.1:7860", "http://localhost:7860"))
PASSWORD = "correct horse battery"
# Hashed once: it takes a while, on purpose.
HASHED = hash_password(PASSWORD)
ROLES = {"Ada": "admin", "Max": "manager", "Ben": "annotator", "Eve": "annotator"}


def make_team(folder: Path, sets: list[CandidateSet], people: dict[str, Role]) -> Path:
    """Publish tasks for people who sign in with `PASSWORD`."""
    with open_store(folder / "labels.db", create=True) as store:
        publish(store, sets, overlap=9, seed=1, round=1)
        for name, role in people.items():
            create_user(store, name, role, HASHED)
    return folder / "labels.db"


class Team:
    """A store with four people who have accounts, the application over it, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_800_000_000.0
        self.store: Store = open_store(folder / "labels.db", create=True, clock=lambda: self.now)
        self.people: dict[str, Annotator] = {
            name: create_user(self.store, name, role, HASHED)  # pyright: ignore[reportArgumentType]
            for name, role in ROLES.items()
        }
        sets = [CandidateSet(f"p-{number}", f"Why {number}?", ("Air.", "Water.", "No.")) for number in range(6)]
        publish(self.store, sets, overlap=3, seed=1)

    @contextmanager
    def doors(self, access: Access = TEAM, fixed_name: str | None = None) -> Iterator["Doors"]:
        """Open the application."""
        # In a thread of its own: this one may have Playwright's loop running.
        with ThreadPoolExecutor(1) as pool:
            web = pool.submit(asyncio.run, _build(self.store, access, fixed_name)).result()
        with TestClient(web, base_url=access.origins[0]) as running:
            yield Doors(self, web, access.origins[0], running)

    def end_sessions(self) -> None:
        """Sign everybody out."""
        with self.store.transaction() as connection:
            for person in self.people.values():
                end_sessions(connection, person)


async def _build(store: Store, access: Access, fixed_name: str | None) -> Gate:
    """Build where an event loop runs: elsewhere Gradio opens many of its own and leaves them open."""
    return build_web(store, access, fixed_name=fixed_name)


class Doors:
    """The application, open."""

    def __init__(self, team: Team, web: Any, origin: str, running: TestClient) -> None:
        self.team = team
        self.origin = origin
        self._web = web
        self._running = running

    def visitor(self, name: str | None = None, *, address: str = "198.51.100.7", **headers: str) -> TestClient:
        """Return a browser: of a person who is signed in, or of nobody."""
        headers = {"origin": self.origin, **headers}
        made = TestClient(self._web, base_url=self.origin, headers=headers, follow_redirects=False, client=(address, 5))
        # The application runs once; its own event loop serves every visitor.
        made.portal = self._running.portal
        if name is not None:
            made.cookies.set(COOKIE, create_session(self.team.store, self.team.people[name]))
        return made


def form_of(page: httpx.Response) -> dict[str, str]:
    """Return the hidden fields of a page's form."""
    return dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page.text))


def send(client: TestClient, path: str, look: str | None = None, **fields: str) -> httpx.Response:
    """Look at a page, fill its form in, and send it."""
    return client.post(path, data={**form_of(client.get(look or path)), **fields})  # pyright: ignore


def call(client: TestClient, app: str, name: str, payload: Any, component: int | None = None) -> httpx.Response:
    """Call a component function of a Gradio app, as its page does."""
    body = {"data": payload, "fn_name": name, "component_id": component, "session_hash": "abc"}
    return client.post(f"/{app}/gradio_api/component_server/", content=json.dumps(body), headers=JSON)  # pyright: ignore


def component_of(client: TestClient, app: str) -> int:
    """Return the number of an app's one component."""
    (widget,) = [part for part in client.get(f"/{app}/config").json()["components"] if part["type"] == "html"]
    return widget["id"]


JSON = {"content-type": "application/json"}
