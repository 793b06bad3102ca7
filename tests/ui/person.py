"""What a person does at the page, and what can be read off it."""

import io
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from sqlalchemy import text

from rlhf.labels.accounts import list_annotators
from rlhf.labels.exports import read_export
from rlhf.labels.store import open_store
from rlhf.records import Ranking
from tests.ui.doors import PASSWORD

COLOURS = 96


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return rows of the database."""
    with open_store(path) as store, store.reading() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def exported(path: Path, name: str) -> list[Ranking]:
    """Return what an export holds of a person."""
    with open_store(path) as store:
        (person,) = [person for person in list_annotators(store) if person.name == name]
        return [ranking for ranking in read_export(store)[0] if ranking.annotator == person.pseudonym]


def answers_of(path: Path, name: str, columns: str) -> list[tuple[Any, ...]]:
    """Return columns of a person's answers, in the order in which they were given."""
    return query(
        path, f"SELECT {columns} FROM answers JOIN people USING (annotator_id) WHERE name = '{name}' ORDER BY id"
    )


def sign_in(page: Any, name: str) -> None:
    """Sign in as an annotator, by keyboard, and wait for the task."""
    page.goto("/login")
    page.wait_for_selector("#name:focus")
    for words, key in ((name, "Tab"), (PASSWORD, "Enter")):
        page.keyboard.type(words)
        page.keyboard.press(key)
    page.wait_for_selector(".rk-card")


def summary(page: Any) -> str:
    """Return the order as the page writes it."""
    return " ".join(page.inner_text(".rk-summary").split())


def prompt(page: Any) -> str:
    """Return the text of the prompt."""
    return page.inner_text(".rk-prompt")


def count(page: Any) -> int:
    """Return how many responses there are."""
    return page.locator(".rk-card").count()


def shown(page: Any, place: int) -> str:
    """Return the text of the response at a place."""
    return page.locator(f".rk-card[data-place='{place}'] .rk-text").text_content().strip()


def wait_saved(page: Any) -> None:
    """Wait until the server has everything."""
    page.wait_for_function(
        "document.querySelector('.rk-saved').innerText.startsWith('Draft saved')"
        " && !Object.keys(localStorage).some((key) => key.startsWith('rlhf.draft.'))"
    )


def rank_all(page: Any) -> None:
    """Rank every response, the last one shown first, so that the order is not the one shown."""
    places = count(page)
    if places == 2:
        page.keyboard.press("ArrowRight")
        return
    for place in range(places):
        page.locator(f".rk-card[data-place='{place}']").focus()
        page.keyboard.press(str(places - place))


def submit(page: Any, keys: str = "Control+Enter") -> None:
    """Submit, and wait until it is stored."""
    page.evaluate("document.querySelector('.rk-toast').hidden = true")
    page.keyboard.press(keys)
    page.wait_for_function(
        "!document.querySelector('.rk-toast').hidden && document.querySelector('.rk-toast').innerText.includes('tored')"
    )


def open_task(page: Any, words: str) -> None:
    """Skip through the queue until the task with these words in its prompt is at hand."""
    for _ in range(6):
        if words in prompt(page):
            return
        skip(page)
    raise AssertionError(f"no task about {words!r}")


def skip(page: Any) -> None:
    """Skip the task at hand."""
    before = prompt(page)
    page.click("[data-act=skip]")
    page.click(".rk-reason >> text=Other")
    page.wait_for_function(
        "before => document.querySelector('.rk').dataset.view !== 'task'"
        " || document.querySelector('.rk-prompt').innerText !== before",
        arg=before,
    )


def learn(page: Any) -> None:
    """Do the training items, right or wrong."""
    while page.is_visible(".rk-training"):
        rank_all(page)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".rk[data-view=feedback]")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".rk[data-view=task]")


def outside(requests: list[str]) -> list[str]:
    """Return the requests that left this machine."""
    return [url for url in requests if urlsplit(url).hostname != "127.0.0.1" and not url.startswith(("data:", "blob:"))]


def violations(page) -> list[str]:
    """Return axe's serious and critical findings, each with the elements it is about."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe: `pip install axe-playwright-python`"
    )
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} | {node.get('failureSummary', '')[:300]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def is_light(page: Any, selector: str) -> bool:
    """Say whether an element has dark text on a light ground."""
    ink, paper = page.evaluate(
        "(selector) => { const s = getComputedStyle(document.querySelector(selector));"
        " const sum = (c) => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0);"
        " return [sum(s.color), sum(s.backgroundColor)]; }",
        selector,
    )
    return ink < paper


def settle(page: Any) -> None:
    """Wait until nothing moves or waits for the server any more."""
    page.wait_for_function(
        "!document.querySelector('.rk[data-busy]')"
        " && document.getAnimations().every((one) => one.playState !== 'running')"
    )


def shoot(page: Any, name: str, **options: Any) -> None:
    """Take a screenshot where RLHF_SCREENSHOTS names a folder, with few colours, so that it stays small."""
    folder = os.environ.get("RLHF_SCREENSHOTS")
    if not folder:
        return
    if options.get("full_page"):
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_function("window.scrollY === 0")
    settle(page)
    image = Image.open(io.BytesIO(page.screenshot(animations="disabled", **options))).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(Path(folder) / f"{name}.png", optimize=True)
