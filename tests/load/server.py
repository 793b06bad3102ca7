"""Fifty annotators work over HTTP against one server: how long do they wait, and is what they did right?

    python -m tests.load.server [--tasks 10000 100000] [--annotators 50] [--think 5] [--minutes 5]

Beside them, calls of an empty function of an otherwise equal Gradio page are timed in the same minutes: what a submit
takes beyond that is ours. For each size of the store one JSON line says the waiting times, the server's memory, and what
must be 0.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from rlhf.labels.accounts import create_session, ensure_annotator
from rlhf.labels.publishing import publish
from rlhf.labels.store import open_store
from rlhf.records import CandidateSet
from tests.load.store import CANDIDATES, OVERLAP, check_while_open

COOKIE = "rlhf_labels_session"
SERVE = """
import sys
from pathlib import Path
from labeling_ui.web import serve
serve(Path(sys.argv[1]), port=int(sys.argv[2]), open_round=1, announce=lambda text: print(text.split('/open')[0], flush=True))
"""
EMPTY = """
import gradio as gr, socket, uvicorn
from fastapi import FastAPI
with gr.Blocks(analytics_enabled=False) as page:
    gr.HTML(html_template="<p>nothing</p>", js_on_load="", server_functions=[lambda payload: {"ok": True}])
app = FastAPI()
gr.mount_gradio_app(app, page.queue(default_concurrency_limit=None), path="/label", footer_links=[], run_history=False)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(f"page: http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
"""


class Server:
    """A program that prints its address; its memory can be asked for."""

    def __init__(self, code: str, *arguments: str, wrapper: tuple[str, ...] = ()) -> None:
        self.command = [*wrapper, sys.executable, "-c", code, *arguments]
        self.start()

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def start(self) -> None:
        """Start it and wait for its address."""
        self._process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=os.environ | SILENT)
        assert self._process.stdout is not None
        self.address = "http" + self._process.stdout.readline().strip().split("http")[1]

    def resident_bytes(self) -> int:
        """Return the memory that it has now."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

    def stop(self) -> None:
        """End it."""
        self.kill(signal.SIGTERM)

    def kill(self, number: int) -> None:
        """Send it a signal, and wait until it is gone."""
        self._process.send_signal(number)
        self._process.communicate()


class LabelServer(Server):
    """The labeling pages on a database; started again, it has the same address."""

    def __init__(self, path: Path) -> None:
        super().__init__(SERVE, str(path), "0")
        self.command[-1] = self.address.rpartition(":")[2]


SILENT = {"GRADIO_ANALYTICS_ENABLED": "False"}


class Page:
    """One browser's calls of a page's functions."""

    def __init__(self, client: httpx.AsyncClient, widget: int, function: str | None = None) -> None:
        self._client, self._widget, self._function = client, widget, function

    async def call(self, name: str, payload: Any) -> tuple[dict[str, Any], float]:
        """Call a function; return what it answered and the seconds that took."""
        body = {
            "data": payload,
            "fn_name": self._function or name,
            "component_id": self._widget,
            "session_hash": "load",
        }
        began = time.perf_counter()
        answer = await self._client.post("/label/gradio_api/component_server/", json=body)
        seconds = time.perf_counter() - began
        answer.raise_for_status()
        return answer.json(), seconds


async def open_page(address: str, secret: str = "") -> Page:
    """Read a page's configuration, as a browser does."""
    cookies = {COOKIE: secret} if secret else None
    client = httpx.AsyncClient(
        base_url=address, headers={"origin": address}, cookies=cookies, trust_env=False, timeout=60
    )
    config = (await client.get("/label/config")).json()
    (widget,) = [part for part in config["components"] if part["type"] == "html"]
    names = widget["props"].get("server_fns") or [None]
    return Page(client, widget["id"], None if secret else names[0])


async def annotate(page: Page, rng: random.Random, think_s: float, end: float, found: dict[str, list[Any]]) -> None:
    """Work as a person does: read, save a draft or two, submit, until the time is over."""
    tab = f"tab-{rng.random()}"
    screen = (await page.call("load", {}))[0]["screen"]
    while time.perf_counter() < end and screen["task"]:
        await asyncio.sleep(rng.expovariate(1 / think_s))
        task = screen["task"]
        count = len(task["outputs"])
        ranks = rng.sample(range(1, count + 1), count)
        seen = {"submission_id": task["submission_id"], "tab": tab, "revision": task.get("revision", 0)}
        draft = {"levels": ranks, "strengths": [], "flags": [[]] * count, "all_bad": False, "comment": ""}
        saved, seconds = await page.call("save", {**seen, "draft": draft, "active_seconds": 3})
        found["save"].append(seconds)
        seen["revision"] = saved.get("revision", seen["revision"])
        fields = {"verdict": "ranked", "ranks": ranks, "strengths": [], "flags": [], "reason": "", "comment": ""}
        answer, seconds = await page.call("submit", {**seen, **fields, "active_seconds": 3})
        found["submit"].append(seconds)
        if not answer["ok"] or not saved["ok"]:
            found["errors"].append(answer.get("error") or saved.get("error"))
            screen = (await page.call("load", {}))[0]["screen"]
        else:
            screen = answer["screen"]


async def beat(page: Page, rate: float, end: float, found: dict[str, list[Any]]) -> None:
    """Call the empty function `rate` times a second."""
    while time.perf_counter() < end:
        found["empty"].append((await page.call("", {}))[1])
        await asyncio.sleep(1 / rate)


async def watch(server: Server, end: float, found: dict[str, list[Any]]) -> None:
    """Note the server's memory every two seconds."""
    while time.perf_counter() < end:
        found["memory"].append(server.resident_bytes())
        await asyncio.sleep(2)


async def run(
    server: Server, empty: Server, secrets: list[str], think_s: float, seconds: float
) -> dict[str, list[Any]]:
    """Let everybody work at once; return the waiting times, errors and memory."""
    found: dict[str, list[Any]] = {name: [] for name in ("save", "submit", "empty", "errors", "memory")}
    pages = [await open_page(server.address, secret) for secret in secrets]
    nothing = await open_page(empty.address)
    end = time.perf_counter() + seconds
    people = [annotate(page, random.Random(index), think_s, end, found) for index, page in enumerate(pages)]
    await asyncio.gather(*people, beat(nothing, len(pages) / think_s, end, found), watch(server, end, found))
    return found


def measure(tasks: int, annotators: int, think_s: float, minutes: float) -> dict[str, Any]:
    """Serve a store of so many tasks to so many annotators."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.db"
        sets = [
            CandidateSet(f"p-{row}", f"Prompt {row}: " + "why? " * 20, tuple(f"{row}.{n} " + "because " * 40 for n in range(CANDIDATES)))
            for row in range(tasks)
        ]  # fmt: skip
        with open_store(path, create=True) as store:
            began = time.perf_counter()
            publish(store, sets, overlap=OVERLAP, round=1)
            published_s = time.perf_counter() - began
            secrets = [create_session(store, ensure_annotator(store, f"person {n}")) for n in range(annotators)]
        server, empty = LabelServer(path), Server(EMPTY)
        try:
            found = asyncio.run(run(server, empty, secrets, think_s, 60 * minutes))
        finally:
            server.stop()
            empty.stop()
        with open_store(path) as store:
            checked = check_while_open(store)
    third = len(found["memory"]) // 3
    return {
        "tasks": tasks,
        "published_s": published_s,
        "submits": len(found["submit"]),
        **{f"{name}_{q}_s": quantile(found[name], q) for name in ("submit", "save", "empty") for q in (50, 95, 99)},
        "memory_first_third": statistics.median(found["memory"][:third]),
        "memory_last_third": statistics.median(found["memory"][-third:]),
        "errors": len(found["errors"]),
        "error": found["errors"][0] if found["errors"] else "",
        "answers_missing": len(found["submit"]) - len(found["errors"]) - checked.pop("answers"),
        **checked,
    }


def quantile(values: list[float], percent: int) -> float:
    """Return a percentile."""
    return statistics.quantiles(values, n=100)[percent - 1]


def main() -> None:
    """Measure each size of the store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--think", type=float, default=5.0, help="mean seconds between tasks")
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    for tasks in options.tasks:
        found = measure(tasks, options.annotators, options.think, options.minutes)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
