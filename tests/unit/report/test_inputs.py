"""A file of a finished stage that is no longer what the stage wrote: one message with the file and the remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import ArtifactError
from rlhf.report.inputs import ReportInputs, read_json, read_samples, read_series, read_verification

READERS: dict[str, Callable[[Path], object]] = {
    "metrics.jsonl": lambda path: read_series(ReportInputs("x", metrics={"ppo": path}), "ppo", "ppo/kl_nats"),
    "samples.jsonl": lambda path: read_samples(path),
    "evaluation.json": lambda path: read_json(path, "evaluate"),
    "verification.json": read_verification,
}
STAGES = {
    "metrics.jsonl": "ppo", "samples.jsonl": "evaluate", "evaluation.json": "evaluate", "verification.json": "export"
}  # fmt: skip
PART: dict[str, Any] = {"max_logit_difference": 0.0, "greedy_identical": 1, "prompts": 1}
JUDGED = {"sft": 0.0, "best_of_n": 0.5, "ppo": 1.0}
SAMPLE: dict[str, Any] = {
    "prompt_id": "p", "prompt": "x", "sft": "a", "best_of_n": "b", "ppo": "c", "scores": JUDGED,
    "golds": dict.fromkeys(JUDGED),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", "[1]\n"),
        ("metrics.jsonl", '{"step": \n'),
        ("metrics.jsonl", '{"ppo/kl_nats": 1}\n'),
        ("metrics.jsonl", '{"step": "1", "ppo/kl_nats": 1}\n'),
        ("metrics.jsonl", b"\xff\n"),
        ("samples.jsonl", ""),
        ("samples.jsonl", "[1]\n"),
        ("samples.jsonl", '{"prompt_id": \n'),
        ("samples.jsonl", b"\xff\n"),
        ("samples.jsonl", json.dumps(SAMPLE | {"scores": {}})),
        ("samples.jsonl", json.dumps(SAMPLE | {"scores": JUDGED | {"ppo": None}})),
        ("samples.jsonl", json.dumps(SAMPLE | {"golds": 3})),
        ("samples.jsonl", json.dumps(SAMPLE | {"ppo": 3})),
        ("samples.jsonl", json.dumps(SAMPLE | {"prompt": 3})),
        ("samples.jsonl", json.dumps(SAMPLE | {"prompt": [{"role": "user"}]})),
        ("evaluation.json", '{"prompts": '),
        ("evaluation.json", "[1]"),
        ("evaluation.json", b"\xff"),
        ("evaluation.json", "[" * 100_000),
        ("verification.json", '{"passed": '),
        ("verification.json", "{}"),
        ("verification.json", json.dumps({"passed": 1, "adapter": PART, "merged": None})),
        ("verification.json", json.dumps({"passed": True, "adapter": {}, "merged": None})),
        ("verification.json", json.dumps({"passed": True, "adapter": PART, "merged": [1]})),
    ],
)
def test_damaged_file_is_named_with_the_stage_to_run_again(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtifactError) as caught:
        READERS[name](path)
    assert str(caught.value).startswith(f"{path}: damaged (")
    assert f"`rlhf {STAGES[name]} RECIPE`" in str(caught.value)


@pytest.mark.parametrize("merged", [None, PART])
def test_whole_files_are_read(tmp_path: Path, merged: dict[str, Any] | None) -> None:
    verification = {"passed": False, "adapter": PART, "merged": merged}
    (tmp_path / "verification.json").write_text(json.dumps(verification))
    assert read_verification(tmp_path / "verification.json") == verification
    turns = SAMPLE | {"prompt": [{"role": "user", "content": "x"}]}
    (tmp_path / "samples.jsonl").write_text(f"{json.dumps(SAMPLE)}\n{json.dumps(turns)}\n")
    assert read_samples(tmp_path / "samples.jsonl") == [SAMPLE, turns]
