"""Files as people publish them, from the shared folder of real data."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.config.data import PromptsConfig, SplitShares
from rlhf.data.importers import import_prompts
from rlhf.data.judgements import import_pairs
from rlhf.jsonl import read_rows
from rlhf.records import PromptText, prompt_to_text


def count_words(prompt: PromptText) -> int:
    return len(prompt_to_text(prompt).split())


def rows_of(path: Path) -> list[Any]:
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize(
    ("name", "conversational", "turns"),
    [
        ("hh_rlhf_harmless", True, 2),
        ("llamafactory_dpo_demo", True, 2),
        ("llmbar", False, 0),
        ("mtbench_human_majority", False, 0),
    ],
)
def test_preference_files_are_read_whole(shared: Path, name: str, conversational: bool, turns: int) -> None:
    path = shared / "data" / name / "preferences.jsonl"
    rows = rows_of(path)
    pairs = import_pairs(path).records
    assert len(pairs) == len(rows)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(row["chosen"], row["rejected"]) for row in rows]
    assert all(isinstance(pair.prompt, tuple) is conversational for pair in pairs)
    assert max(len(pair.prompt) for pair in pairs if isinstance(pair.prompt, tuple) or not turns) > turns


def test_transcripts_lose_no_words(shared: Path) -> None:
    path = shared / "data" / "hh_rlhf_harmless" / "preferences.jsonl"
    texts = [row["prompt"] for row in rows_of(path)]
    for text, pair in zip(texts, import_pairs(path).records, strict=True):
        words = text.replace("\n\nHuman:", " ").replace("\n\nAssistant:", " ").split()
        assert not isinstance(pair.prompt, str)
        assert [word for turn in pair.prompt for word in turn.content.split()] == words


def test_stories_become_openings_and_fairy_tales_demonstrate(shared: Path) -> None:
    config = PromptsConfig(
        sources=(str(shared / "data" / "tinystories" / "stories.jsonl"),),
        demonstrations=(str(shared / "data" / "grimm_fairy_tales" / "grimm.txt"),),
        prompt_words=14,
        shares=SplitShares(sft=0),
    )
    imported = import_prompts(config, 1, count_words, 512)
    assert len(imported.prompts) > 700
    assert len(imported.demonstrations) > 500
    assert {one.split for one in imported.demonstrations} == {"sft", "validation"}
    assert all(count_words(one.prompt) == 14 for one in imported.prompts)


def test_best_replies_and_instructions_are_recognised(shared: Path) -> None:
    sources = (
        str(shared / "data" / "oasst_en_rankings" / "sft_best.jsonl"),
        str(shared / "data" / "self_instruct"),
    )
    imported = import_prompts(PromptsConfig(sources=sources, max_tokens=400), 1, count_words, 1024)
    kinds = {source: {type(one.prompt) for one in imported.prompts if one.source == source} for source in sources}
    assert kinds == {sources[0]: {tuple}, sources[1]: {str}}
    assert len(imported.demonstrations) > 100
