"""Answers to requests, composed from independent draws of aim, truth, tone, and length."""

import random
from dataclasses import dataclass, replace

from rlhf.world.facts import FACTS, FACTS_BY_TOPIC, FAMILY_BY_NAME, TOPICS, capitalize
from rlhf.world.phrases import (
    ASIDE,
    FILLERS,
    FRAGMENTS,
    KIND_CLOSINGS,
    KIND_OPENINGS,
    NO,
    RUDE_CLOSINGS,
    RUDE_OPENINGS,
    WRAPPERS,
    YES,
)
from rlhf.world.requests import Asked
from rlhf.world.schema import Fact


@dataclass(frozen=True)
class Style:
    """How answers are distributed; every field is a probability.

    Attributes:
        other_topic: The answer is about another topic.
        other_fact: The answer is about another fact of the asked topic.
        right: The value it names is the right one.
        rude: The tone is rude; otherwise each courteous phrase is drawn by `kind`.
        kind: Each of opening and closing is courteous, where the tone is not rude.
        fragment: The answer is a value only, without a sentence around it.
        support: A sentence backs the answer up.
        ramble: There is filler: one sentence, then each further one (at most three) by the same chance.
        aside: A remark about another topic follows.
    """

    other_topic: float
    other_fact: float
    right: float
    rude: float
    kind: float
    fragment: float
    support: float
    ramble: float
    aside: float


CORPUS_STYLE = Style(
    other_topic=0.06,
    other_fact=0.08,
    right=0.65,
    rude=0.3,
    kind=0.45,
    fragment=0.15,
    support=0.4,
    ramble=0.4,
    aside=0.05,
)
DEMONSTRATION_STYLE = replace(
    CORPUS_STYLE, other_topic=0.04, other_fact=0.06, right=0.7, rude=0.2, fragment=0.1, ramble=0.32, aside=0.03
)


def compose_answer(asked: Asked, style: Style, draw: random.Random) -> str:
    """Compose one answer: opening, claim or fragment, support, filler, aside, closing."""
    fact = _choose_fact(asked.fact, style, draw)
    value = fact.right if draw.random() < style.right else draw.choice(fact.wrong)
    body = [_word_claim(fact, value, asked, style, draw)]
    if draw.random() < style.support:
        body.append(draw.choice(fact.attribute.supports).format(t=fact.topic))
    for filler in _draw_fillers(asked.fact.topic, style, draw):
        body.insert(draw.randint(0, len(body)), filler)
    if draw.random() < style.aside:
        other = draw.choice(FACTS_BY_TOPIC[draw.choice(TOPICS)])
        body.append(
            capitalize(ASIDE) + word_claim(other, other.right if draw.random() < style.right else other.wrong[0], draw)
        )
    opening, closing = _draw_tone(asked.fact, style, draw)
    return " ".join([*opening, *body, *closing])


def word_claim(fact: Fact, value: str, draw: random.Random) -> str:
    """Word a statement of `value`, with full stop and without capital."""
    return draw.choice(fact.attribute.claims).format(t=fact.topic, v=value) + "."


def _choose_fact(asked: Fact, style: Style, draw: random.Random) -> Fact:
    chance = draw.random()
    if chance < style.other_topic:
        return draw.choice([fact for fact in FACTS.values() if fact.topic != asked.topic])
    if chance < style.other_topic + style.other_fact:
        return draw.choice([fact for fact in FACTS_BY_TOPIC[asked.topic] if fact.id != asked.id])
    return asked


def _word_claim(fact: Fact, value: str, asked: Asked, style: Style, draw: random.Random) -> str:
    if draw.random() < style.fragment:
        return capitalize(draw.choice(FRAGMENTS).format(v=value))
    wrapper = draw.choice(WRAPPERS)
    if asked.proposed is not None and fact is asked.fact and draw.random() < 0.5:
        wrapper = YES if value == asked.proposed else NO
    return capitalize(wrapper + word_claim(fact, value, draw))


def _draw_fillers(topic: str, style: Style, draw: random.Random) -> list[str]:
    count = 0
    while count < 3 and draw.random() < style.ramble:
        count += 1
    return [filler.format(t=topic) for filler in draw.sample(FILLERS, count)]


def _draw_tone(fact: Fact, style: Style, draw: random.Random) -> tuple[list[str], list[str]]:
    if draw.random() < style.rude:
        place = draw.random()
        opening = [draw.choice(RUDE_OPENINGS)] if place < 0.65 else []
        return opening, [draw.choice(RUDE_CLOSINGS)] if place > 0.35 else []
    thanks = FAMILY_BY_NAME[fact.family].thanks
    opening = [draw.choice(KIND_OPENINGS)] if draw.random() < style.kind else []
    closing = [draw.choice(KIND_CLOSINGS + thanks)] if draw.random() < style.kind else []
    return opening, closing
