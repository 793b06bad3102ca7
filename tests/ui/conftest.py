"""Labeling servers in processes of their own, and Debian's Chromium to look at them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from rlhf.labels.accounts import create_login_token
from rlhf.labels.items import KnownItem, publish_known
from rlhf.labels.publishing import publish
from rlhf.labels.store import open_store
from rlhf.records import CandidateSet, Message
from tests.ui.labels_of_a_team import make_labels
from tests.ui.lessons import lesson_items, lesson_sets

CHROMIUM = os.environ.get("RLHF_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SERVER = """
import sys
from pathlib import Path
from labeling_ui.web import serve
print(*{"torch", "transformers", "trl", "peft", "datasets"} & set(sys.modules) or ["none"], flush=True)
serve(Path(sys.argv[1]), port=int(sys.argv[2]), announce=lambda text: print(text, flush=True))
"""


@dataclass
class LabelServer:
    """A running `serve`, its link, and what it takes to kill and restart it."""

    database: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None
    link: str = ""
    heavy_imports: str = ""

    def start(self) -> None:
        """Start the server and wait for the link that it prints."""
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = [self.process.stdout.readline() for _ in range(2)]
        self.heavy_imports = said[0].strip()
        found = re.search(r"https?://\S+", "".join(said))
        assert found, "the server printed no link"
        self.link = found[0]
        self.port = urlsplit(self.link).port or 0

    def command(self) -> list[str]:
        """Return the line that starts it."""
        return [sys.executable, "-c", SERVER, str(self.database), str(self.port)]

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    @property
    def origin(self) -> str:
        """The address without the path."""
        return f"{urlsplit(self.link).scheme}://127.0.0.1:{self.port}"


@dataclass
class TeamServer(LabelServer):
    """`rlhf label serve` over HTTPS, for people who sign in."""

    certificate: tuple[Path, Path] = (Path(), Path())

    def command(self) -> list[str]:
        """Return the line that starts it."""
        cert, key = map(str, self.certificate)
        line = [sys.executable, "-m", "rlhf.cli", "label", "serve", str(self.database)]
        return [*line, "--host", "127.0.0.1", "--port", str(self.port), "--tls-cert", cert, "--tls-key", key]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate and its key in a folder."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=labels"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """One Chromium for all tests."""
    if not Path(CHROMIUM).exists():
        pytest.skip("no Chromium: `apt-get install chromium`, or set RLHF_CHROMIUM to its path")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: `pip install playwright`")
    with playwright.sync_playwright() as engine:
        found = engine.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


def open_context(browser: Any, **options: Any) -> Any:
    """Open a browser of its own; a page waits long, since the machine may have other work to do."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)
    return context


@dataclass
class Visit:
    """A person at the page, and everything the browser asked for."""

    page: Any  # Playwright's page; the package may be missing here
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def hostile_sets() -> list[CandidateSet]:
    """Return three tasks: a plain one, a conversation, and one full of attacks."""
    return [
        CandidateSet(
            "p-1",
            "Why does water boil sooner on a mountain?",
            (
                "Less air presses on it.",
                "It does not.",
                "Because of **pressure**.\n\n1. Less air\n2. Less pressure",
                "Cold.",
            ),
        ),
        CandidateSet(
            "p-2",
            (Message("user", "Pancakes?"), Message("assistant", "With butter?"), Message("user", "Oil.")),
            ("Fine.", "No.", "Use a little less oil than butter."),
        ),
        CandidateSet(
            "p-3",
            "<script>window.hacked=1</script>What is <b>this</b>?",
            (
                '<img src="http://evil.example/a.png" onerror="window.hacked=2"><script>window.hacked=3</script>',
                "![track](http://evil.example/b.png) [click](javascript:window.hacked=4) <http://evil.example/c>",
                "${window.hacked=5} {{constructor.constructor('window.hacked=6')()}} </template></div><svg onload=window.hacked=7>",
                "a <style>*{display:none}</style> b <a href=//evil.example onclick=window.hacked=8>c</a>",
            ),
        ),
    ]


def make_database(folder: Path, sets: list[CandidateSet], training: list[KnownItem] | None = None) -> Path:
    """Publish tasks; with so many slots that the people of all tests find work."""
    with open_store(folder / "labels.db", create=True) as store:
        publish(store, sets, overlap=40, seed=5)
        publish_known(store, training or [], purpose="training")
    return folder / "labels.db"


def run_server(database: Path) -> Iterator[LabelServer]:
    """Start a server; kill it at the end."""
    running = LabelServer(database)
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    """One server for all tests (it takes seconds to start); each test is another person."""
    yield from run_server(make_database(tmp_path_factory.mktemp("labels"), hostile_sets()))


@pytest.fixture(scope="session")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    """A server whose people learn first, and then see pairs, formulas, code and long texts."""
    yield from run_server(make_database(tmp_path_factory.mktemp("school"), lesson_sets(), lesson_items()))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[LabelServer]:
    """A server that the test may kill."""
    yield from run_server(make_database(tmp_path, hostile_sets()))


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Visit]]:
    """Open a server's page as a named person; every context is closed at the end."""
    contexts = []

    def enter(server: LabelServer, name: str, **options: object) -> Visit:
        context = open_context(browser, viewport={"width": 1280, "height": 860}, **options)
        contexts.append(context)
        seen = Visit(context.new_page())
        page = seen.page
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        with open_store(server.database) as store:
            token = create_login_token(store)
        page.goto(f"{server.origin}/open?token={token}")
        page.fill("#name", name)
        page.click("button")
        page.wait_for_selector(".rk:not([data-view=loading])")
        return seen

    yield enter
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The team's database; tests that change it take a copy."""
    return make_labels(tmp_path_factory.mktemp("team") / "labels.db")
