"""PPO on a sum of sources: it learns what a function rewards, logs every source, and resumes on the same sum only."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.score import ScoreConfig
from rlhf.errors import ArtifactError, DataError
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.reward.model import RewardInfo, score_ids
from rlhf.reward.sources import ScoreSum, build_score
from rlhf.tracking import read_metrics
from tests.tiny import shake, tiny_base, tiny_classifier, tiny_roles
from tests.unit.ppo.test_resume import require_same
from tests.unit.ppo.world import LEARNS, prompts, train

EVEN = """
def even(prompts, completions, completion_ids, **kwargs):
    return [4 * sum(token % 2 == 0 for token in ids) / len(ids) - 2 for ids in completion_ids]
"""
INFO = RewardInfo("last", score_mean=0.1, score_std=0.7)


def world(folder: Path, **score: Any) -> tuple[SharedBase, ScoreSum]:
    base = tiny_base(folder, scale=3.0)
    shared = build_shared_base(base, tiny_roles())
    shake(shared, "reward")
    config = ScoreConfig(**score)
    info = INFO if config.reward else None
    return shared, build_score(config, shared, base.text, info, prompts(), 4, "fp32")


def learn(folder: Path, score: dict[str, Any], **changes: Any) -> list[dict[str, float]]:
    shared, summed = world(folder, **score)
    train(folder, shared=shared, score=summed, score_identity=summed.identity, **changes)
    return read_metrics(folder / "ppo" / "metrics.jsonl")


def functions(folder: Path, content: str = EVEN) -> dict[str, Any]:
    (folder / "rules.py").write_text(content)
    return {"even": {"function": f"{folder}/rules.py:even"}}


def test_the_default_sum_trains_the_very_bytes_of_the_reward_role(tmp_path: Path) -> None:
    learn(tmp_path / "sum", {}, updates=2)
    shared, _ = world(tmp_path / "role")
    text = tiny_base(tmp_path / "role").text

    def role(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> torch.Tensor:
        return torch.tensor(score_ids(shared, text, INFO, list(zip(prompt_ids, response_ids, strict=True)), 4))

    train(tmp_path / "role", shared=shared, score=role, updates=2)
    require_same(tmp_path / "sum" / "ppo", tmp_path / "role" / "ppo", updates=2)


def test_a_function_and_a_length_penalty_are_learned_without_a_reward_model(tmp_path: Path) -> None:
    score = {"reward": 0, "functions": functions(tmp_path), "length": {"weight": 0.1, "free_tokens": 2}}
    rows = learn(tmp_path, score, **LEARNS, updates=8, critic_learning_rate=1e-2, evaluate_every=4)
    assert rows[-1]["ppo/score_even"] > rows[1]["ppo/score_even"] + 0.5
    for row in rows[1:]:
        total = row["ppo/score_even"] + 0.1 * row["ppo/score_length"]
        assert row["ppo/score_mean"] == pytest.approx(total, abs=1e-5)
        assert row["ppo/score_length"] <= 0
    look = rows[0]
    total = look["validation/score_even"] + 0.1 * look["validation/score_length"]
    assert look["validation/score_mean"] == pytest.approx(total, abs=1e-5)
    samples = [json.loads(line) for line in (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()]
    for row in samples:
        assert row["score"] == pytest.approx(row["scores"]["even"] + 0.1 * row["scores"]["length"], abs=1e-5)


def test_a_stopped_run_goes_on_to_the_same_bytes_on_the_same_sources_only(tmp_path: Path) -> None:
    tone = {"model": str(tiny_classifier(tmp_path / "tone")), "mean": 0.0, "std": 2.0}
    score = {"functions": functions(tmp_path), "classifiers": {"tone": tone}, "reward": 0.5}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    learn(tmp_path / "whole", score, updates=3)
    shared, summed = world(tmp_path / "parts", **score)
    calls = 0

    def breaking(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise DataError("the third batch is lost")
        return summed(prompt_ids, response_ids)

    with pytest.raises(DataError):
        train(tmp_path / "parts", shared=shared, score=breaking, score_identity=summed.identity, updates=3)
    functions(tmp_path, EVEN.replace("4 *", "5 *"))
    with pytest.raises(ArtifactError, match="score sources"):
        learn(tmp_path / "parts", score, updates=3)
    with pytest.raises(ArtifactError, match="score sources"):
        learn(tmp_path / "parts", {}, updates=3)
    functions(tmp_path)
    learn(tmp_path / "parts", score, updates=3)
    require_same(tmp_path / "parts" / "ppo", tmp_path / "whole" / "ppo", updates=3)


def test_shaping_by_preference_compares_whole_sums(tmp_path: Path) -> None:
    score = {"functions": functions(tmp_path), "length": {"weight": 0.1}}
    rows = learn(tmp_path, score, updates=2, score_shaping="preference")
    assert "ppo/score_even" in rows[1]
