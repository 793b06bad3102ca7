"""Responses that say what they are are found; plain words are not."""

import logging

import pytest

from rlhf.config.data import RankingsConfig
from rlhf.labels.for_people import publish_for_people
from rlhf.labels.leaks import describe_leaks, find_leaks
from rlhf.records import CandidateSet


def leaks_of(text: str) -> list[str]:
    return [leak.words for leak in find_leaks([CandidateSet("p", "q", ("plain answer", text))])]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("As ChatGPT, I cannot.", "ChatGPT"),
        ("As GPT-4 I would say no.", "GPT-4"),
        ("As an AI language model, I have no opinion.", "As an AI"),
        ("I'm a language model, so no.", "I'm a language model"),
        ("Hello, I am\nClaude, made by people.", "I am Claude"),
        ("My name is Gemini.", "My name is Gemini"),
        ("I was trained by OpenAI.", "OpenAI"),
        ("I am an AI.", "I am an AI"),
    ],
)
def test_identity_is_found(text, words):
    assert leaks_of(text) == [words]


@pytest.mark.parametrize(
    "text",
    [
        "The llama is an animal of the Andes.",
        "The mistral blows in winter; Gemini is a sign.",
        "Shakespeare, the bard, wrote it. Claude Monet painted it.",
        "An egpt4x label and the word chatter.",
        "As a language, English is odd. She works as an aide.",
        "I am a teacher.",
    ],
)
def test_plain_words_are_not(text):
    assert leaks_of(text) == []


def test_publishing_says_so(store, make_sets, caplog):
    sets = [*make_sets(1), CandidateSet("p-x", "q", ("fine", "As ChatGPT, no.", "I am an AI"))]
    with caplog.at_level(logging.WARNING):
        publish_for_people(store, sets, RankingsConfig(), round=1, seed=1)
    assert "2 responses of 1 prompts say what model they are (prompt p-x, candidate 1: 'ChatGPT')" in caplog.text
    assert describe_leaks([]) == ""
