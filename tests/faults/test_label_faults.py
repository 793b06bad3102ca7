"""The label server killed at random moments while people submit, and on a full disk: nothing acknowledged is lost.

Three kills here, more with FAULT_KILLS=20 (`make faults`).
"""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from labeling_ui.app import STORE_AWAY
from rlhf.labels.accounts import create_session, ensure_annotator
from rlhf.labels.publishing import publish
from rlhf.labels.schema import answers
from rlhf.labels.store import open_store
from rlhf.records import CandidateSet
from tests.load.server import COOKIE, SERVE, LabelServer, Server
from tests.load.store import check_while_open

pytestmark = [pytest.mark.slow, pytest.mark.ui]

KILLS = int(os.environ.get("FAULT_KILLS", "3"))
PEOPLE = 4


def submission_of(screen: dict, comment: str) -> dict:
    """Return what the page sends when the task on the screen is ranked as shown."""
    task = screen["task"]
    ranks = list(range(1, len(task["outputs"]) + 1))
    fields = {"verdict": "ranked", "ranks": ranks, "strengths": [], "flags": [], "reason": "", "comment": comment}
    return {"submission_id": task["submission_id"], "tab": "t", "revision": task["revision"], **fields}


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
        screen = self.call("load", {})["screen"]
        while not self._stop_work.is_set() and screen["task"]:
            submission = submission_of(screen, "why")
            answer = self.call("submit", submission)
            if answer["ok"]:
                self.acknowledged.append(submission["submission_id"])
                screen = answer["screen"]
            else:
                self.refused.append(answer["error"])
                screen = self.call("load", {})["screen"]
        self.close()

    def close(self) -> None:
        """Leave."""
        self._client.close()

    def call(self, name: str, payload: dict) -> dict:
        """Call a function of the page until the server answers."""
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


def fill(path: Path) -> None:
    """Write to a file until the disk refuses."""
    with path.open("wb", buffering=0) as file:
        while file.write(b"0" * 4096):
            pass


def test_a_full_disk_refuses_an_answer_and_takes_it_when_there_is_room(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    path = tmp_path / "labels.db"
    sets = [CandidateSet(f"p-{row}", f"prompt {row}", ("one", "two", "three")) for row in range(20)]
    with open_store(path, create=True) as store:
        publish(store, sets, overlap=3, round=1)
        secret = create_session(store, ensure_annotator(store, "Ada"))
    mount = f"mount -t tmpfs -o size=8m tmpfs {disk} && cp {path} {disk} && exec"
    if subprocess.run(["unshare", "-m", "sh", "-c", f"{mount} true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here; run as root")
    server = Server(SERVE, str(disk / "labels.db"), "0", wrapper=("unshare", "-m", "sh", "-c", f'{mount} "$0" "$@"'))
    seen_from_outside = Path(f"/proc/{server.pid}/root{disk}")
    filler = seen_from_outside / "filler"
    try:
        person = Person(server.address, secret, threading.Event())
        screen = person.call("load", {})["screen"]
        with pytest.raises(OSError, match="No space left"):
            fill(filler)
        # What a log that is already there can hold is stored; then there is no room.
        submission = submission_of(screen, "why " * 900)
        taken = 0
        while (answer := person.call("submit", submission))["ok"]:
            taken += 1
            assert taken < 20
            submission = submission_of(answer["screen"], "why " * 900)
        assert answer["error"] == STORE_AWAY
        filler.unlink()
        assert person.call("submit", submission)["ok"], "the same submission again"
        shutil.copytree(seen_from_outside, tmp_path / "kept")
        person.close()
    finally:
        server.stop()
    with open_store(tmp_path / "kept" / "labels.db") as store, store.reading() as connection:
        stored = connection.execute(select(answers.c.submission_id)).scalars().all()
        assert stored.count(submission["submission_id"]) == 1
        assert len(stored) == len(set(stored)) == taken + 1
    with open_store(tmp_path / "kept" / "labels.db") as store:
        assert check_while_open(store)["problems"] == 0
