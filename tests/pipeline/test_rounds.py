"""What a run learns from people, and a second round: who is held against the reward model, and what a new round takes along."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.artifacts import Artifact
from tests.pipeline.conftest import RECIPE, Shell

pytestmark = pytest.mark.slow


def test_the_reward_model_is_held_against_people_and_sources(finished: Shell) -> None:
    folder = finished.run / "round-1"
    trust = json.loads((folder / "reward" / "trust.json").read_text())
    rankings = [json.loads(line) for line in (folder / "rankings" / "rankings.jsonl").read_text().splitlines()]
    assert set(trust["accuracy_by_annotator"]) == {row["annotator"] for row in rankings}
    assert sum(share["pairs"] for share in trust["accuracy_by_annotator"].values()) > 100
    assert trust["new_annotators"]["value"] is None
    (spread,) = trust["scores_by_source"].values()
    held_out = json.loads((folder / "pairs" / "holdout.json").read_text())
    assert spread["candidates"] >= 2 * len(held_out)
    listed = [json.loads(line) for line in (folder / "reward" / "disagreements.jsonl").read_text().splitlines()]
    assert {row["prompt_id"] for row in listed} <= set(held_out)
    values = [row["disagreement"] for row in listed]
    assert values == sorted(values, reverse=True)
    assert 0 < values[0] < 1


def test_annotators_kept_apart_train_nothing(copy: Shell) -> None:
    options = ("--rankings.scripted.annotators", "6", "--pairs.holdout-annotators", "0.34", "--discard-labels")
    said = copy.rlhf("run", str(RECIPE), *options, "--until", "reward")
    assert "of what new ones" in said.stderr
    folder = copy.run / "round-1"
    apart = json.loads((folder / "pairs" / "holdout_annotators.json").read_text())
    assert len(apart) == 2
    trust = json.loads((folder / "reward" / "trust.json").read_text())
    shares = {name: share["pairs"] for name, share in trust["accuracy_by_annotator"].items()}
    assert trust["new_annotators"]["pairs"] == sum(shares.get(name, 0) for name in apart) > 0
    assert trust["known_annotators"]["pairs"] == sum(shares.values()) - trust["new_annotators"]["pairs"]
    votes = [json.loads(line)["votes"] for line in (folder / "pairs" / "pairs.jsonl").read_text().splitlines()]
    assert min(votes) < 2, "every ranking still counts"


def test_the_command_that_started_a_round_goes_on_with_it(copy: Shell) -> None:
    people = ("--rankings.source", "people", "--new-round")
    for said in ("started round 2", "going on with round 2"):
        done = copy.rlhf("run", str(RECIPE), *people, check=False)
        assert done.returncode == 75
        assert said in done.stderr
    assert not (copy.run / "round-3").exists()


def test_new_round_labels_the_last_policy_and_learns_from_all_rounds(copy: Shell) -> None:
    first, second = copy.run / "round-1", copy.run / "round-2"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    copy.rlhf("run", str(RECIPE), "--new-round", "--ppo.start", "previous")
    assert not (second / "sft").exists()
    assert Artifact.open(second / "candidates").facts["policy"] == Artifact.open(first / "ppo").identity
    assert Artifact.open(second / "ppo").facts["step0_kl"] > 1e-4
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    old, new = (_read_pairs(folder) for folder in (first, second))
    assert [pair for pair in new if pair["round"] == 1] == old
    own = [pair for pair in new if pair["round"] == 2]
    assert len(own) > 20
    held_out = set(json.loads((second / "pairs" / "holdout.json").read_text()))
    prompts = {(pair["prompt_id"], pair["round"]) for pair in new if pair["prompt_id"] not in held_out}
    # One epoch, 16 prompts to a step.
    assert Artifact.open(second / "reward").facts["steps"] == -(-len(prompts) // 16)
    rounds = json.loads((copy.run / "summary.json").read_text())["rounds"]
    assert [row["round"] for row in rounds] == [1, 2]
    for row in rounds:
        evaluation = json.loads((copy.run / f"round-{row['round']}" / "evaluate" / "evaluation.json").read_text())
        assert row["gold"] == pytest.approx(evaluation["policies"]["ppo"]["gold"]["value"])
    assert "Round by round" in (copy.run / "report.html").read_text(encoding="utf-8")
    copy.rlhf("pairs", str(RECIPE), "--pairs.rounds", "own")
    assert _read_pairs(second) == own


def _read_pairs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
