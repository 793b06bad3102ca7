"""The label server killed at random moments while people submit: nothing that was acknowledged is lost.

Three kills here, more with FAULT_KILLS=20 (`make faults`).
"""

import os
import random
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from rlhf.labels.accounts import create_session, ensure_annotator
from rlhf.labels.publishing import publish
from rlhf.labels.schema import answers
from rlhf.labels.store import open_store
from rlhf.records import CandidateSet
from tests.load.server import COOKIE, LabelServer
from tests.load.store import check_while_open

pytestmark = [pytest.mark.slow, pytest.mark.ui]

KILLS = int(os.environ.get("FAULT_KILLS", "3"))
PEOPLE = 4


class Person(threading.Thread):
    """Submits without a pause; after an error it sends the same submission again until the server answers."""

    def __init__(self, address: str, secret: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self._stop_work = stop
        self._client = httpx.Client(
            base_url=address, headers={"origin": address}, cookies={COOKIE: secret}, trust_env=False, timeout=20
        )
        self._widget = 0

    def run(self) -> None:
        """Work until told to stop."""
        screen = self._call("load", {})["screen"]
        while not self._stop_work.is_set() and screen["task"]:
            task = screen["task"]
            ranks = list(range(1, len(task["outputs"]) + 1))
            fields = {"verdict": "ranked", "ranks": ranks, "strengths": [], "flags": [], "reason": "", "comment": "why"}
            seen = {"submission_id": task["submission_id"], "tab": self.name, "revision": task["revision"]}
            answer = self._call("submit", {**seen, **fields, "active_seconds": 1})
            if answer["ok"]:
                self.acknowledged.append(task["submission_id"])
                screen = answer["screen"]
            else:
                self.refused.append(answer["error"])
                screen = self._call("load", {})["screen"]
        self._client.close()

    def _call(self, name: str, payload: dict) -> dict:
        while True:
            try:
                if not self._widget:
                    parts = self._client.get("/label/config").json()["components"]
                    self._widget = next(part["id"] for part in parts if part["type"] == "html")
                body = {"data": payload, "fn_name": name, "component_id": self._widget, "session_hash": "x"}
                answer = self._client.post("/label/gradio_api/component_server/", json=body)
                answer.raise_for_status()
                return answer.json()
            except (httpx.TransportError, httpx.HTTPStatusError):
                self._widget = 0
                time.sleep(0.05)


@pytest.mark.timeout(900)
def test_what_was_acknowledged_survives_kills(tmp_path: Path):
    path = tmp_path / "labels.db"
    sets = [CandidateSet(f"p-{row}", f"prompt {row}", ("one", "two", "three", "four")) for row in range(4000)]
    with open_store(path, create=True) as store:
        publish(store, sets, overlap=3, round=1)
        secrets = [create_session(store, ensure_annotator(store, f"person {n}")) for n in range(PEOPLE)]
    server = LabelServer(path)
    stop = threading.Event()
    people = [Person(server.address, secret, stop) for secret in secrets]
    for person in people:
        person.start()
    rng = random.Random(1)
    for _ in range(KILLS):
        time.sleep(rng.uniform(0.5, 2.5))
        server.kill(signal.SIGKILL)
        server.start()
    time.sleep(1.0)
    stop.set()
    for person in people:
        person.join(60)
    server.stop()
    acknowledged = [entry for person in people for entry in person.acknowledged]
    assert len(acknowledged) > 10 * KILLS, "there was work between the kills"
    assert [entry for person in people for entry in person.refused] == []
    with open_store(path) as store:
        found = check_while_open(store)
        with store.reading() as connection:
            stored = connection.execute(select(answers.c.submission_id)).scalars().all()
    assert set(acknowledged) <= set(stored), "an acknowledged answer is lost"
    assert len(acknowledged) == len(set(acknowledged))
    # The last submission of each person may have been stored without an answer that reached him.
    assert found["answers"] - len(acknowledged) <= PEOPLE
    wrong = ("tasks_over_overlap", "answered_twice", "tasks_out_of_balance", "problems")
    assert {name: found[name] for name in wrong if found[name]} == {}
