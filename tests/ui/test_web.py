"""The running server: hosts, origins, routes and sessions from outside; and handlers that trust nothing."""

import json
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import text

from labeling_ui.app import COOKIE
from rlhf.labels.accounts import create_login_token
from rlhf.labels.store import Store, open_store
from tests.ui.doors import form_of

pytestmark = pytest.mark.ui

CALL = "/label/gradio_api/component_server/"
# What a tab says with everything it sends.
SEEN = {"tab": "one", "revision": 0}


@pytest.fixture
def store(server) -> Iterator[Store]:
    """The running server's own database."""
    with open_store(server.database) as opened:
        yield opened


@pytest.fixture
def client(server) -> Iterator[httpx.Client]:
    """A program that speaks to the running server from the right origin."""
    with httpx.Client(base_url=server.origin, headers={"origin": server.origin}, trust_env=False) as made:
        yield made


def enter(client: httpx.Client, store: Store, name: str) -> None:
    token = create_login_token(store)
    form = form_of(client.get(f"/open?token={token}"))
    answer = client.post("/open", data={**form, "name": name})
    assert (answer.status_code, answer.headers["location"]) == (303, "/label/")


def call(client: httpx.Client, name: str, payload) -> dict:
    (widget,) = [part for part in client.get("/label/config").json()["components"] if part["type"] == "html"]
    body = {"data": payload, "fn_name": name, "component_id": widget["id"], "session_hash": "abc"}
    answer = client.post(CALL, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1", "127.0.0.1:1"])
def test_other_host_names_are_refused(client, host):
    assert client.get("/open", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1"])
@pytest.mark.parametrize("path", ["/open", "/signout", CALL])
def test_other_origins_are_refused(client, store, path, origin):
    enter(client, store, "Ada")
    assert client.post(path, headers={"origin": origin}).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/docs", "/openapi.json", "/label/login", "/label/logout", "/label/monitoring", "/label/robots.txt",
        "/label/gradio_api/info", "/label/gradio_api/openapi.json", "/label/gradio_api/runs",
        "/label/gradio_api/run-history/records", "/label/gradio_api/file=/etc/passwd", "/label/gradio_api/proxy=http://x",
        "/label/gradio_api/queue/data", "/label/gradio_api/token", "/label/svelte/x.js",
        "/label/custom_component/1/x/y/z", "/label/gradio_api/vibe-code/", "/label/assets/%2e%2e/config",
        "/label/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/label/assets/%2e%2e/%2e%2e/routes.py", "/label/pwa_icon",
    ],
)  # fmt: skip
def test_routes_that_the_page_does_not_need_do_not_exist(client, store, path):
    enter(client, store, "Ada")
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "run/predict",
        "api/predict",
        "queue/join",
        "upload",
        "call/load",
        "cancel",
        "reset",
        "process_recording",
        "stream/1",
    ],
)
def test_gradio_calls_do_not_exist(client, store, path):
    enter(client, store, "Ada")
    body = {"data": [{}], "fn_index": 0, "session_hash": "abc"}
    assert client.post(f"/label/gradio_api/{path}", json=body).status_code == 404


def test_without_a_session_there_is_only_the_entrance(client):
    assert client.get("/label/").headers["location"] == "/open"
    for path in ("/label/config", "/label/gradio_api/heartbeat/abc", "/label/gradio_api/startup-events"):
        assert client.get(path).status_code == 401
    assert client.post(CALL, json={}).json()["signed_out"]
    assert client.get("/open").status_code == 403
    assert client.post("/open", data={"name": "Eve"}).status_code == 403


def test_secrets_are_stored_as_hashes_only(client, store):
    token = create_login_token(store)
    enter(client, store, "Ada")
    with store.reading() as connection:
        stored = str(connection.execute(text("SELECT * FROM sessions")).all())
        stored += str(connection.execute(text("SELECT * FROM login_tokens")).all())
    assert client.cookies[COOKIE] not in stored
    assert token not in stored


def test_the_page_works_through_the_gate(client, store):
    enter(client, store, "Worker")
    screen = call(client, "load", {})["screen"]
    task = screen["task"]
    draft = {"levels": [1] * len(task["outputs"]), "strengths": [], "flags": [], "all_bad": False, "comment": ""}
    assert call(client, "save", {"submission_id": task["submission_id"], "draft": draft, **SEEN})["ok"]
    assert call(client, "load", {})["screen"]["task"]["draft"]["levels"] == draft["levels"]
    answer = {**draft, **SEEN, "submission_id": task["submission_id"], "verdict": "ranked", "ranks": draft["levels"]}
    first, again = call(client, "submit", answer), call(client, "submit", answer)
    assert (first["message"], first["task_id"]) == ("", again["task_id"])
    assert "that answer stands" in again["message"]
    assert call(client, "save", {"submission_id": task["submission_id"], "draft": draft, **SEEN})["gone"]


def test_the_browser_learns_nothing_about_candidates_models_or_others(client, store):
    enter(client, store, "Reader")
    task = call(client, "load", {})["screen"]["task"]
    assert set(task) == {
        "submission_id", "task_id", "version", "training", "turns", "outputs", "draft", "tab", "revision", "active_seconds",
    }  # fmt: skip
    assert all(set(output) == {"html", "text"} for output in task["outputs"])


def test_nobody_reaches_another_persons_work(client, store):
    enter(client, store, "Victim")
    task = call(client, "load", {})["screen"]["task"]
    call(client, "submit", {"submission_id": task["submission_id"], "verdict": "cannot_judge", "ranks": [],
                            "strengths": [], "flags": [], **SEEN})  # fmt: skip
    other = call(client, "load", {})["screen"]["task"]
    client.cookies.clear()
    enter(client, store, "Intruder")
    empty = {"levels": [], "strengths": [], "flags": []}
    for name, payload in (
        ("save", {"submission_id": other["submission_id"], "draft": empty, **SEEN}),
        ("submit", {"submission_id": other["submission_id"], "verdict": "skipped", "reason": "other", "ranks": [],
                    "strengths": [], "flags": [], **SEEN}),
        ("submit", {"submission_id": task["submission_id"], "verdict": "cannot_judge", "ranks": [], "strengths": [],
                    "flags": [], **SEEN}),
        ("correct", {"task_id": task["task_id"]}),
    ):  # fmt: skip
        assert not call(client, name, payload)["ok"], name


@pytest.mark.parametrize("name", ["load", "save", "submit", "correct", "cancel"])
@pytest.mark.parametrize(
    "payload",
    [None, [], "x", 7, {"submission_id": 7, "task_id": "1", "verdict": []},
     {"submission_id": "x", "draft": {"levels": ["a"]}, "ranks": [1.5], "task_id": True},
     {"submission_id": "x", "draft": [], "ranks": list(range(99)), "task_id": 10**30},
     {"submission_id": "x", "draft": {"levels": [1], "strengths": [], "flags": [[{}]]}, "ranks": [], "strengths": [],
      "flags": [["x" * 99]], "active_seconds": -1, "task_id": -1},
     {"submission_id": "\ud800", "draft": {"comment": "\ud800", "levels": [], "strengths": [], "flags": []}, "ranks": [],
      "strengths": [], "flags": [], "comment": "\ud800"}],
)  # fmt: skip
def test_nonsense_gets_a_polite_answer(client, store, name, payload):
    enter(client, store, "Fuzzer")
    answer = call(client, name, payload)
    assert answer["ok"] or "error" in answer
    if name != "load" and name != "cancel":
        assert not answer["ok"]


def test_the_page_imports_no_torch(server):
    assert server.heavy_imports == "none"
