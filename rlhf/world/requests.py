"""Requests about facts: how they are worded, and which fact a given request asks about."""

import random
from dataclasses import dataclass
from functools import lru_cache

from rlhf.errors import DataError
from rlhf.world.facts import FACTS, TOPICS, capitalize
from rlhf.world.phrases import CONTEXTS, DAYS, PEOPLE, REQUESTS
from rlhf.world.schema import Fact

KIND_WEIGHTS = {"question": 0.4, "advice": 0.25, "check": 0.15, "recommendation": 0.2}


@dataclass(frozen=True)
class Asked:
    """What a request asks: a fact, and the value it proposes where it asks for a check."""

    fact: Fact
    proposed: str | None = None


def word_request(fact: Fact, draw: random.Random) -> tuple[str, str]:
    """Word one request about `fact`; return its kind and text."""
    kind = draw.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
    attribute = fact.attribute
    direct = draw.choice(attribute.direct).format(t=fact.topic)
    proposed = fact.right if draw.random() < 0.5 else draw.choice(fact.wrong)
    people = {"person": draw.choice(PEOPLE), "day": draw.choice(DAYS)}
    text = draw.choice(REQUESTS[kind]).format(
        d=direct,
        D=capitalize(direct),
        i=draw.choice(attribute.indirect).format(t=fact.topic),
        c=draw.choice(attribute.claims).format(t=fact.topic, v=proposed),
        t=fact.topic,
        X=draw.choice(CONTEXTS).format(**people),
        **people,
    )
    return kind, text


@lru_cache(maxsize=1)
def _wordings() -> dict[str, list[tuple[str, Asked]]]:
    """List each topic's question wordings and the claims a request may put up for a check."""
    table: dict[str, list[tuple[str, Asked]]] = {topic: [] for topic in TOPICS}
    for fact in FACTS.values():
        attribute = fact.attribute
        rows = [(text.format(t=fact.topic), Asked(fact)) for text in (*attribute.direct, *attribute.indirect)]
        for value in attribute.values:
            rows += [(text.format(t=fact.topic, v=value), Asked(fact, value)) for text in attribute.claims]
        table[fact.topic] += [(_bare(text), asked) for text, asked in rows]
    return table


def _bare(text: str) -> str:
    """Return text as spaced lower-case words without marks, so that whole words can be searched in it."""
    for mark in "?!.:,":
        text = text.replace(mark, " ")
    return f" {' '.join(text.lower().split())} "


@lru_cache(maxsize=65536)
def find_asked(request: str) -> Asked | None:
    """Find the fact that a request asks about: the longest known wording in it, by whole words, case ignored."""
    plain = _bare(request)
    best: tuple[int, Asked | None] = (0, None)
    for topic, rows in _wordings().items():
        if topic in plain:
            best = max([best, *((len(text), asked) for text, asked in rows if text in plain)], key=lambda row: row[0])
    return best[1]


def require_asked(request: str) -> Asked:
    """Return what a request asks.

    Raises:
        DataError: The request is none of the world's.
    """
    asked = find_asked(request)
    if asked is None:
        raise DataError(
            f"the embedded world knows no answer to {request[:80]!r}; "
            "take prompts from the embedded world, or bring demonstrations of your own"
        )
    return asked
