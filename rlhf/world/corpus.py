"""What the pipeline takes from the world: prompts, demonstrations, and a pretraining corpus."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from rlhf.errors import DataError
from rlhf.world.answers import CORPUS_STYLE, DEMONSTRATION_STYLE, compose_answer
from rlhf.world.facts import FACTS, TOPICS
from rlhf.world.requests import Asked, find_asked, require_asked, word_request

__all__ = ["MOST_PROMPTS", "TOPICS", "WorldPrompt", "world_corpus", "world_demonstration", "world_prompts"]

MOST_PROMPTS = 20_000
"""Prompts that `world_prompts` can give without searching long for one it has not given yet."""


@dataclass(frozen=True)
class WorldPrompt:
    """A request, and what it asks: `fact` is the id of a fact, `kind` the form of the request."""

    id: str
    text: str
    topic: str
    fact: str
    kind: str


def world_prompts(count: int, seed: int) -> list[WorldPrompt]:
    """Draw different requests, spread evenly over the facts, in random order.

    Raises:
        DataError: More are asked for than there are.
    """
    if not 0 < count <= MOST_PROMPTS:
        raise DataError(f"{count} prompts asked of the embedded world; it gives 1 to {MOST_PROMPTS}")
    draw = random.Random(f"world prompts {seed}")
    prompts: dict[str, WorldPrompt] = {}
    while len(prompts) < count:
        facts = list(FACTS.values())
        draw.shuffle(facts)
        for fact in facts[: count - len(prompts)]:
            kind, text = word_request(fact, draw)
            name = f"world-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
            prompts.setdefault(text, WorldPrompt(name, text, fact.topic, fact.id, kind))
    return list(prompts.values())


def world_demonstration(prompt_text: str, seed: int) -> str:
    """Return the answer that supervised fine-tuning imitates: on the whole better than the corpus, not perfect.

    Raises:
        DataError: The request is none of the world's.
    """
    draw = random.Random(f"world demonstration {seed} {prompt_text}")
    return compose_answer(require_asked(prompt_text), DEMONSTRATION_STYLE, draw)


def world_corpus(documents: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (request, answer) pairs of every kind and quality, for pretraining."""
    draw = random.Random(f"world corpus {seed}")
    facts = list(FACTS.values())
    for _ in range(documents):
        fact = draw.choice(facts)
        _, request = word_request(fact, draw)
        yield request, compose_answer(find_asked(request) or Asked(fact), CORPUS_STYLE, draw)
