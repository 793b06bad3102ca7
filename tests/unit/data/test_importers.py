"""The import of prompts: what stays, what is dropped and why, and that nothing depends on chance."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.data import PromptsConfig, SplitShares
from rlhf.data.importers import PromptImport, import_prompts
from rlhf.errors import DataError
from rlhf.records import PromptText, prompt_to_text

CONTEXT = 64
SPLITS = {"sft", "label", "ppo", "validation", "test"}


def count_words(prompt: PromptText) -> int:
    return len(prompt_to_text(prompt).split())


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def questions(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"What is {n} and {n * n}?", "response": f"Number {n}."} for n in range(count)]


def load(seed: int = 1, **settings: Any) -> PromptImport:
    return import_prompts(PromptsConfig(**settings), seed, count_words, CONTEXT)


def test_rows_become_prompts_and_demonstrations(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", questions(400))
    imported = load(sources=(source,))
    assert len(imported.prompts) == 400
    assert {prompt.split for prompt in imported.prompts} == SPLITS
    assert {prompt.source for prompt in imported.prompts} == {source}
    assert imported.dropped == {}
    split_of = {prompt.id: prompt.split for prompt in imported.prompts}
    demonstrated = {one.prompt_id: one.split for one in imported.demonstrations}
    # Only prompts of these two splits keep their responses, and all of them do.
    expected = {name: split for name, split in split_of.items() if split in ("sft", "validation")}
    assert demonstrated == expected


def test_import_is_the_same_every_time_and_in_every_order(tmp_path: Path) -> None:
    rows = questions(300)
    forward = load(sources=(write_rows(tmp_path / "a.jsonl", rows),))
    again = load(sources=(write_rows(tmp_path / "a.jsonl", rows),), seed=2)
    backward = load(sources=(write_rows(tmp_path / "a.jsonl", rows[::-1]),))
    assert again == forward
    assert sorted(backward.prompts, key=lambda one: one.id) == sorted(forward.prompts, key=lambda one: one.id)


def test_splits_stay_when_prompts_are_added(tmp_path: Path) -> None:
    before = load(sources=(write_rows(tmp_path / "a.jsonl", questions(300)),))
    after = load(sources=(write_rows(tmp_path / "b.jsonl", questions(500)),))
    now = {prompt.id: prompt.split for prompt in after.prompts}
    assert all(now[prompt.id] == prompt.split for prompt in before.prompts)


def test_embedded_prompts_come_with_demonstrations() -> None:
    imported = load(count=300)
    assert len(imported.prompts) == 300
    assert {prompt.split for prompt in imported.prompts} == SPLITS
    counts = Counter(one.split for one in imported.demonstrations)
    assert counts["sft"] == sum(prompt.split == "sft" for prompt in imported.prompts)
    assert load(count=300) == imported
    assert load(count=300, seed=2).prompts != imported.prompts


def test_rows_of_no_use_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        *questions(300),
        {"prompt": "what IS 3  and 9?"},
        {"prompt": "word " * 20},
        {"prompt": "word " * 64},
        {"prompt": "Short"},
        {"prompt": ""},
        {"prompt": "Why?", "response": " "},
    ]
    imported = load(sources=(write_rows(tmp_path / "a.jsonl", rows),), min_tokens=2, max_tokens=10)
    assert len(imported.prompts) == 300
    assert imported.dropped == {
        "empty prompt": 1,
        "empty response": 1,
        "fewer than 2 tokens (min_tokens)": 1,
        "more than 10 tokens (max_tokens)": 1,
        "no room for a response in the base's context of 64 tokens": 1,
        "repeated prompt": 1,
    }
    assert "a.jsonl line 301: repeated prompt (first in a.jsonl line 4)" in imported.problems
    assert "a.jsonl line 302: more than 10 tokens (max_tokens) (20)" in imported.problems


def test_count_keeps_a_seeded_choice_in_order(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", questions(400))
    every = [prompt.id for prompt in load(sources=(source,)).prompts]
    some = load(sources=(source,), count=150)
    kept = [prompt.id for prompt in some.prompts]
    assert len(kept) == 150
    assert kept == [name for name in every if name in set(kept)]
    assert kept != every[:150]
    assert some.dropped == {"more than 150 prompts (count)": 250}
    assert [prompt.id for prompt in load(sources=(source,), count=150, seed=2).prompts] != kept


def test_demonstration_sources_serve_sft_alone(tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "a.jsonl", [{"prompt": row["prompt"]} for row in questions(300)])
    shown = [{"prompt": f"Tell me of item {n}", "response": f"Item {n}."} for n in range(300)]
    shown += [shown[0], {**shown[1], "response": "Another answer."}, {"prompt": "No answer"}]
    imported = load(sources=(prompts,), demonstrations=(write_rows(tmp_path / "b.jsonl", shown),))
    assert len(imported.prompts) == 300
    assert len(imported.demonstrations) == 301
    # One in twenty of 300 is 15; three standard deviations are 11.
    assert 4 <= Counter(one.split for one in imported.demonstrations)["validation"] <= 26
    assert imported.dropped == {"demonstration without a response": 1, "repeated demonstration": 1}


def test_prompt_that_is_also_demonstrated_leaves_the_other_splits(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", questions(400))
    shown = write_rows(tmp_path / "b.jsonl", questions(50))
    imported = load(sources=(source,), demonstrations=(shown,))
    assert {prompt.split for prompt in imported.prompts[:50]} <= {"sft", "validation"}
    assert {prompt.split for prompt in imported.prompts[50:]} == SPLITS


def test_sources_do_not_demonstrate_where_sft_has_no_share(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", questions(400))
    assert load(sources=(source,), shares=SplitShares(sft=0)).demonstrations == []


def test_openings_are_prompts_and_the_rest_demonstrates(tmp_path: Path) -> None:
    texts = [{"text": f"Once there was fox {n} who ran far and came home."} for n in range(300)]
    imported = load(sources=(write_rows(tmp_path / "a.jsonl", texts),), prompt_words=5)
    whole = {row["text"] for row in texts}
    assert all(f"{one.prompt}{one.response}" in whole for one in imported.demonstrations)
    assert {count_words(prompt.prompt) for prompt in imported.prompts} == {5}


def test_all_malformed_rows_of_a_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "fine"}\n{"promt": "typo"}\n{broken\n{"prompt": 7}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load(sources=(str(path),))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 3 bad rows"
    assert [line.strip()[:14] for line in lines[1:]] == ["a.jsonl line 2", "a.jsonl line 3", "a.jsonl line 4"]


def test_nothing_left_says_why(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", questions(3))
    with pytest.raises(DataError, match=r"no prompt is left of .*: 3 more than 2 tokens \(max_tokens\)"):
        load(sources=(source,), max_tokens=2)


def test_too_few_prompts_for_the_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 prompts leave .* empty; import more prompts"):
        load(sources=(write_rows(tmp_path / "a.jsonl", questions(2)),))


def refuse_marks(name: str, text: str) -> None:
    if "<|" in text:
        raise DataError(f"{name} is marked")


def test_rows_that_the_base_cannot_take_are_dropped_and_counted(tmp_path: Path) -> None:
    marked = [{"prompt": "a <|end|> b", "response": "x"}, {"prompt": "What?", "response": "<|user|>"}]
    sources = (write_rows(tmp_path / "a.jsonl", [*marked, *questions(300)]),)
    imported = import_prompts(PromptsConfig(sources=sources), 1, count_words, CONTEXT, refuse_marks)
    assert len(imported.prompts) == 300
    assert imported.dropped == {"text with a special token of the base": 2}
    only = PromptsConfig(sources=(write_rows(tmp_path / "b.jsonl", marked),))
    with pytest.raises(DataError, match=r"no prompt is left .*\n  first: b.jsonl line 1: .* \(prompt is marked\)"):
        import_prompts(only, 1, count_words, CONTEXT, refuse_marks)
    assert imported.problems == [
        "a.jsonl line 1: text with a special token of the base (prompt is marked)",
        "a.jsonl line 2: text with a special token of the base (response is marked)",
    ]
