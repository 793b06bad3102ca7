"""The weighted sum of sources: its arithmetic, its scales, and what is written of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.score import ScoreConfig
from rlhf.errors import ArtifactError, ConfigError, TrainingError
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.records import Prompt
from rlhf.reward.external import open_classifier
from rlhf.reward.model import RewardInfo, score_ids
from rlhf.reward.sources import SCORE_FILE, Scores, ScoreSum, build_score
from rlhf.text import TextFormat
from tests.tiny import shake, tiny_base, tiny_classifier, tiny_roles

PROMPTS = [Prompt(f"p{index}", text, "ppo") for index, text in enumerate(["the cat", "a dog ran to the house"])]
INFO = RewardInfo("last", score_mean=0.1, score_std=0.7)
ANSWERS = [" sat on the mat", " ran"]
RULES = "def vowels(prompts, completions, completion_ids, **kwargs):\n    return [text.count('a') for text in completions]\n"


def world(folder: Path) -> tuple[SharedBase, TextFormat, list[list[int]], list[list[int]]]:
    base = tiny_base(folder)
    shared = build_shared_base(base, tiny_roles())
    shake(shared, "reward")
    ids = [base.text.encode_prompt(row.prompt) for row in PROMPTS]
    answers = [
        base.text.encode_response(row.prompt, text, end=text != " ran")
        for row, text in zip(PROMPTS, ANSWERS, strict=True)
    ]
    return shared, base.text, ids, answers


def build(folder: Path, *, info: RewardInfo | None = INFO, **score: Any) -> tuple[ScoreSum, Any]:
    shared, text, ids, answers = world(folder)
    found = build_score(ScoreConfig(**score), shared, text, info, PROMPTS, 2, "fp32")
    raw = score_ids(shared, text, INFO, list(zip(ids, answers, strict=True)), 2)
    return found, (ids, answers, raw)


def rules(folder: Path, content: str = RULES) -> dict[str, Any]:
    path = folder / "rules.py"
    path.write_text(content)
    return {"vowels": {"function": f"{path}:vowels", "weight": -0.25}}


def test_the_default_is_the_reward_role_alone_to_the_bit(tmp_path: Path) -> None:
    score, (ids, answers, raw) = build(tmp_path)
    found = score(ids, answers)
    assert found.total.tolist() == raw
    assert (found.parts, score.identity) == ({}, None)
    score.write(tmp_path)
    assert not (tmp_path / SCORE_FILE).exists()
    assert score.as_recorded(tmp_path) is score


def test_the_total_is_the_weighted_sum_of_all_sources(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "tone")
    score, (ids, answers, raw) = build(
        tmp_path,
        reward=0.5,
        classifiers={"tone": {"model": str(folder), "weight": 2.0, "mean": 0.3, "std": 4.0}},
        functions=rules(tmp_path),
        length={"weight": 0.01, "free_tokens": 1},
    )
    found = score(ids, answers)
    plain, _ = build(
        tmp_path, info=None, reward=0, classifiers={"tone": {"model": str(folder), "mean": 0.0, "std": 1.0}}
    )
    tone = [(value - 0.3) / 4.0 for value in plain(ids, answers).total.tolist()]
    vowels = [2.0, 1.0]  # " sat on the mat" and " ran"
    beyond = [len(answers[0]) - 1, len(answers[1]) - 1]  # the end token of the first counts
    expected = [
        0.5 * raw[row] + 2.0 * tone[row] - 0.25 * vowels[row] - 0.01 * beyond[row] for row in range(len(answers))
    ]
    assert found.total.tolist() == pytest.approx(expected, abs=1e-6)
    assert list(found.parts) == ["reward", "tone", "vowels", "length"]
    assert found.parts["reward"].tolist() == raw
    assert found.parts["tone"].tolist() == pytest.approx(tone, abs=1e-6)
    assert found.parts["vowels"].tolist() == vowels
    assert found.parts["length"].tolist() == [-count for count in beyond]


def test_tokens_within_the_free_length_cost_nothing(tmp_path: Path) -> None:
    score, (ids, answers, raw) = build(tmp_path, length={"weight": 9.0, "free_tokens": len(max(ANSWERS, key=len)) + 9})
    assert score(ids, answers).total.tolist() == raw


def test_a_weight_of_0_only_watches(tmp_path: Path) -> None:
    watched = rules(tmp_path)
    watched["vowels"]["weight"] = 0
    score, (ids, answers, raw) = build(tmp_path, functions=watched)
    found = score(ids, answers)
    assert found.total.tolist() == raw
    assert found.parts["vowels"].tolist() == [2.0, 1.0]


def test_measured_scales_bring_samples_to_mean_0_and_deviation_1_and_are_kept(tmp_path: Path) -> None:
    options: dict[str, Any] = {"classifiers": {"tone": {"model": str(tiny_classifier(tmp_path / "tone"))}}}
    score, (ids, answers, _) = build(tmp_path, **options)
    assert score.unmeasured == ["tone"]
    with pytest.raises(ConfigError, match=r"score.classifiers.tone: .*give mean and std"):
        score.require_scales()
    measured = score.measured_on(ids, answers)
    tone = measured(ids, answers).parts["tone"].double()
    assert tone.mean().item() == pytest.approx(0, abs=1e-6)
    assert tone.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    measured.write(tmp_path)
    again = build(tmp_path, **options)[0].as_recorded(tmp_path)
    assert again.unmeasured == []
    assert torch.equal(again(ids, answers).total, measured(ids, answers).total)
    assert again.identity == measured.identity
    with pytest.raises(TrainingError, match=r"score.classifiers.tone: .*all the same or not finite"):
        score.measured_on(ids[:1] * 2, answers[:1] * 2)


def test_the_record_holds_weights_and_hashes(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "tone")
    score, _ = build(
        tmp_path,
        classifiers={"tone": {"model": str(folder), "mean": 0, "std": 1}},
        functions=rules(tmp_path),
        length={"weight": 0.5, "free_tokens": 3},
    )
    score.write(tmp_path)
    reward, tone, vowels, length = json.loads((tmp_path / SCORE_FILE).read_text())["sources"]
    assert reward == {"name": "reward", "weight": 1.0, "mean": 0.0, "std": 1.0}
    assert (tone["classifier"], len(tone["weights_hash"])) == ("tone", 64)
    assert (vowels["function"], len(vowels["source_hash"])) == ("rules.py:vowels", 64)
    assert length == {"name": "length", "weight": 0.5, "mean": 0.0, "std": 1.0, "free_tokens": 3}


def test_identity_and_record_change_with_every_part_of_a_source(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "tone")
    tone = {"model": str(folder), "mean": 0.0, "std": 1.0}
    first: dict[str, Any] = {"classifiers": {"tone": tone}, "functions": rules(tmp_path)}
    score, _ = build(tmp_path, **first)
    score.write(tmp_path)
    score.as_recorded(tmp_path)
    changes: list[tuple[str, dict[str, Any]]] = [
        ("reward", {**first, "reward": 0.5}),
        ("tone", {**first, "classifiers": {"tone": {**tone, "mean": 0.5}}}),
        ("tone", {**first, "classifiers": {"tone": {**tone, "weight": 2}}}),
        ("tone", {"functions": first["functions"]}),
        ("length", {**first, "length": {"weight": 1}}),
    ]
    for name, options in changes:
        other, _ = build(tmp_path, **options)
        assert other.identity != score.identity, name
        with pytest.raises(ArtifactError, match=rf"other score sources .*\({name} changed\)"):
            other.as_recorded(tmp_path)
    tiny_classifier(folder, seed=6)
    rules(tmp_path, RULES.replace("'a'", "'e'"))
    with pytest.raises(ArtifactError, match=r"\(tone, vowels changed\)"):
        build(tmp_path, **first)[0].as_recorded(tmp_path)


def test_a_policy_of_another_score_is_refused(tmp_path: Path) -> None:
    changed, _ = build(tmp_path, length={"weight": 1})
    with pytest.raises(ArtifactError, match=r"\(length, reward changed\)"):
        changed.as_recorded(tmp_path)
    changed.write(tmp_path)
    with pytest.raises(ArtifactError, match=r"\(length changed\)"):
        build(tmp_path)[0].as_recorded(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"sources": 3}', '{"sources": [3]}', '{"sources": [{"name": "tone"}]}']
)
def test_a_damaged_record_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / SCORE_FILE).write_text(content)
    with pytest.raises(ArtifactError, match=r"score.json: damaged .*run ppo again"):
        build(tmp_path)[0].as_recorded(tmp_path)


def test_scores_without_parts_are_a_total(tmp_path: Path) -> None:
    assert Scores(torch.zeros(2)).parts == {}


def test_a_reward_model_with_a_base_of_its_own_takes_the_place_of_the_role(tmp_path: Path) -> None:
    info = dataclasses.replace(INFO, pooling="own")
    folder = tiny_classifier(tmp_path / "own")
    shared, text, ids, answers = world(tmp_path)
    score = build_score(ScoreConfig(), shared, text, info, PROMPTS, 2, "fp32", folder)
    texts = [text.decode_response(row) for row in answers]
    asked = [row.prompt for row in PROMPTS]
    raw = open_classifier(folder, "own", "fp32").score(asked, texts, 1)
    assert score(ids, answers).total.tolist() == pytest.approx([(one - 0.1) / 0.7 for one in raw], abs=1e-5)
    # Its weights are those of the stage's artifact: a policy needs no record of them.
    assert score.is_reward_alone
    assert score.identity is None
