"""The grammar of answers: what each sentence of a response says, or that it says nothing in this world."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rlhf.world.facts import FACTS, FAMILIES, TOPICS, uncapitalize
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
from rlhf.world.schema import Fact

_SENTENCE = re.compile(r"[^.!?]+(?:[.!?]|$)")
_PREFIXES = tuple(uncapitalize(prefix) for prefix in (*WRAPPERS[1:], YES, NO, ASIDE))


@dataclass(frozen=True)
class Sentence:
    """What one sentence says.

    Attributes:
        kind: `claim` names a value for a fact, `fragment` a value alone, `support` backs a fact up, `broken` is none
            of the world's sentences; the others are tones and filler.
        fact: The fact of a claim, or the one a support belongs to.
        value: The value of a claim or fragment.
        verdict: Whether a claim begins with yes (True) or no (False).
    """

    kind: Literal["claim", "fragment", "support", "kind", "rude", "filler", "broken"]
    fact: Fact | None = None
    value: str = ""
    verdict: bool | None = None


BROKEN = Sentence("broken")


def split_sentences(response: str) -> list[str]:
    """Cut a response at full stops, question and exclamation marks; an unfinished rest counts as a sentence."""
    return [text.strip() for text in _SENTENCE.findall(response) if text.strip()]


@lru_cache(maxsize=65536)
def read_sentence(text: str) -> Sentence:
    """Say what a sentence says; it must begin with a capital and end with its mark."""
    if text != text[:1].upper() + text[1:]:
        return BROKEN
    key = uncapitalize(text)
    whole = _whole_sentences().get(key)
    if whole is not None:
        return whole
    prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "")
    claim = _claims().get(key.removeprefix(prefix).removesuffix(".")) if key.endswith(".") else None
    if claim is None:
        return BROKEN
    verdict = {YES: True, NO: False}.get(prefix)
    return Sentence("claim", *claim, verdict)


def is_well_formed(response: str) -> bool:
    """Say whether a response is a sequence of sentences of the world's grammar, each of them finished."""
    sentences = split_sentences(response)
    return bool(sentences) and all(read_sentence(text).kind != "broken" for text in sentences)


@lru_cache(maxsize=1)
def _claims() -> dict[str, tuple[Fact, str]]:
    return {
        clause.format(t=fact.topic, v=value): (fact, value)
        for fact in FACTS.values()
        for value in fact.attribute.values
        for clause in fact.attribute.claims
    }


@lru_cache(maxsize=1)
def _whole_sentences() -> dict[str, Sentence]:
    table: dict[str, Sentence] = {}
    for fact in FACTS.values():
        for support in fact.attribute.supports:
            table[support.format(t=fact.topic)] = Sentence("support", fact)
        for value in fact.attribute.values:
            table |= {text.format(v=value): Sentence("fragment", value=value) for text in FRAGMENTS}
    for topic in TOPICS:
        table |= {text.format(t=topic): Sentence("filler") for text in FILLERS}
    thanks = tuple(text for family in FAMILIES for text in family.thanks)
    table |= dict.fromkeys((*KIND_OPENINGS, *KIND_CLOSINGS, *thanks), Sentence("kind"))
    table |= dict.fromkeys((*RUDE_OPENINGS, *RUDE_CLOSINGS), Sentence("rude"))
    return {uncapitalize(text): sentence for text, sentence in table.items()}
