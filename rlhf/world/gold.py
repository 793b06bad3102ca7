"""The hidden gold scorer of the embedded world: what a careful person would think of a response.

It serves scripted annotators and evaluation. No trained part of the pipeline may see it.
"""

from dataclasses import dataclass

from rlhf.world.grammar import Sentence, read_sentence, split_sentences
from rlhf.world.requests import Asked, find_asked

WEIGHTS = {"relevance": 0.3, "correctness": 0.3, "courtesy": 0.2, "concision": 0.2}
COURTESY_BY_PHRASES = (0.4, 0.75, 1.0, 0.8, 0.5, 0.2)
"""Courtesy by the number of different courteous phrases: two are best, a flood of them is servile."""
LONG_WORDS = 45
"""Words that a good answer does not exceed."""


@dataclass(frozen=True)
class GoldParts:
    """The four qualities of a response, each from 0 to 1."""

    relevance: float
    correctness: float
    courtesy: float
    concision: float

    @property
    def total(self) -> float:
        """Return the weighted sum, from 0 to 1."""
        return sum(weight * getattr(self, name) for name, weight in WEIGHTS.items())


@dataclass(frozen=True)
class _Reading:
    """A response as the scorer reads it: its different well-formed sentences, and the share that these make up."""

    sentences: tuple[Sentence, ...]
    soundness: float
    words: int

    def of(self, *kinds: str) -> list[Sentence]:
        return [sentence for sentence in self.sentences if sentence.kind in kinds]


def gold_parts(prompt_text: str, response: str) -> GoldParts:
    """Judge a response to a request.

    Every part is multiplied by the share of sentences that are well-formed and not a repetition, so that gibberish
    and saying a thing twice cost on every side and never pay.

    Args:
        prompt_text: The user's request; one outside the world has neither relevant nor correct answers.
        response: The text to judge.
    """
    reading = _read(response)
    asked = find_asked(prompt_text)
    return GoldParts(
        relevance=reading.soundness * _relevance(asked, reading),
        correctness=reading.soundness * _correctness(asked, reading),
        courtesy=reading.soundness * _courtesy(reading),
        concision=reading.soundness * _concision(asked, reading),
    )


def _read(response: str) -> _Reading:
    texts = split_sentences(response)
    different = dict.fromkeys(texts)
    sentences = tuple(sentence for text in different if (sentence := read_sentence(text)).kind != "broken")
    return _Reading(sentences, len(sentences) / len(texts) if texts else 0.0, len(response.split()))


def _answers(asked: Asked, reading: _Reading) -> list[Sentence]:
    """Return the sentences that name a value for the asked fact."""
    return [
        sentence
        for sentence in reading.of("claim", "fragment")
        if (sentence.fact is asked.fact) or (sentence.fact is None and sentence.value in asked.fact.attribute.values)
    ]


def _strays(asked: Asked, reading: _Reading) -> list[Sentence]:
    """Return the claims, fragments and supports that belong to another fact."""
    answers = _answers(asked, reading)
    rest = [sentence for sentence in reading.of("claim", "fragment", "support") if sentence not in answers]
    return [sentence for sentence in rest if sentence.fact is not asked.fact]


def _relevance(asked: Asked | None, reading: _Reading) -> float:
    """Grade the answer's aim: the asked fact in a sentence .8, as a bare value .5, the topic alone .35; support adds .2."""
    if asked is None:
        return 0.0
    answers, strays = _answers(asked, reading), _strays(asked, reading)
    near = [stray for stray in strays if stray.fact is not None and stray.fact.topic == asked.fact.topic]
    supported = any(sentence.fact is asked.fact for sentence in reading.of("support"))
    if any(sentence.kind == "claim" for sentence in answers):
        aim = 0.8
    elif answers:
        aim = 0.5
    else:
        aim = 0.35 if near or supported else 0.0
    if answers and supported:
        aim += 0.2
    return aim * (1.0 - 0.15 * min(len(strays), 4))


def _correctness(asked: Asked | None, reading: _Reading) -> float:
    """Grade the asked value: right 1, wrong, contradictory or absent 0; halved by each false claim beside it."""
    if asked is None:
        return 0.0
    answers = _answers(asked, reading)
    if {sentence.value for sentence in answers} != {asked.fact.right}:
        return 0.0
    verdicts = {sentence.verdict for sentence in answers} - {None}
    agrees = asked.proposed is None or verdicts <= {asked.proposed == asked.fact.right}
    false_asides = sum(
        sentence.fact is not None and sentence.value != sentence.fact.right
        for sentence in reading.of("claim")
        if sentence not in answers
    )
    return (1.0 if agrees else 0.5) * 0.5**false_asides


def _courtesy(reading: _Reading) -> float:
    """Grade the tone by different courteous phrases; a rude one leaves at most .2."""
    kind = COURTESY_BY_PHRASES[min(len(reading.of("kind")), len(COURTESY_BY_PHRASES) - 1)]
    rude = len(reading.of("rude"))
    return kind if not rude else 0.5 * max(0.0, kind - 0.4 * rude)


def _concision(asked: Asked | None, reading: _Reading) -> float:
    """Grade economy: filler costs .35, strays and a second wording of the answer .2 each, words above 45 one by one.

    A response that names no value at all is not concise but empty: it keeps .2.
    """
    values = reading.of("claim", "fragment")
    if not values:
        return 0.2 if reading.sentences else 0.0
    repeated = len(_answers(asked, reading)) - 1 if asked else 0
    strays = len(_strays(asked, reading)) if asked else len(values)
    cost = 0.35 * len(reading.of("filler")) + 0.2 * max(0, repeated) + 0.2 * max(0, strays - 1)
    cost += max(0, reading.words - LONG_WORDS) / LONG_WORDS
    return max(0.0, 1.0 - cost)
