"""Responses in which a model says what it is: whoever reads "As ChatGPT, ..." no longer ranks blindly."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rlhf.records import CandidateSet

# Names of assistants, models and their makers as they introduce themselves, and the phrases that go with them. Words that are also
# plain English (bard, llama, gemini, mistral, claude) count only where somebody introduces himself by them.
_NAMES = r"chat\s?gpt|gpt-?[345][\w.]*|openai|anthropic|deepseek|qwen|vicuna|alpaca-\w+|mixtral|koala-\w+|chatglm|ernie bot|copilot"
_ALSO_WORDS = r"claude|bard|gemini|llama|mistral|phi|grok|falcon|assistant"
_PHRASES = r"as an? (?:ai|artificial intelligence|large language model|language model)\b|i(?:'m| am) an? (?:ai|large language model|language model)\b"
IDENTITY = re.compile(
    rf"\b(?:{_NAMES})\b|(?:{_PHRASES})|\b(?:i am|i'm|my name is|called|as)\s+(?:{_ALSO_WORDS})(?=[\s,.!]|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Leak:
    """Where a response says what it is: the candidate's number and the words."""

    prompt_id: str
    candidate: int
    words: str


def find_leaks(candidate_sets: Iterable[CandidateSet]) -> list[Leak]:
    """Return the first telling words of every response that has any."""
    leaks: list[Leak] = []
    for item in candidate_sets:
        for candidate, response in enumerate(item.responses):
            found = IDENTITY.search(response)
            if found:
                leaks.append(Leak(item.prompt_id, candidate, " ".join(found[0].split())))
    return leaks


def describe_leaks(leaks: list[Leak]) -> str:
    """Return one sentence about what was found, "" where nothing was."""
    if not leaks:
        return ""
    first = leaks[0]
    prompts = len({leak.prompt_id for leak in leaks})
    return (
        f"{len(leaks)} responses of {prompts} prompts say what model they are (prompt {first.prompt_id}, candidate "
        f"{first.candidate}: {first.words!r}); people do not rank those blindly, so leave them out or cut the words"
    )
