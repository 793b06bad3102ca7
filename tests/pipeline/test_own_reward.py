"""A reward model with a base of its own through the command line: trained, raised by PPO, compared by, and doubting."""

import json
import shutil
from typing import Any

import pytest

from rlhf.artifacts import Artifact, RunFolder
from rlhf.cli import main
from rlhf.config.load import load_config
from rlhf.decoding import Decoder
from rlhf.models.base import hash_weight_files
from rlhf.prioritise import _order
from rlhf.records import CandidateSet, Prompt, read_jsonl
from rlhf.reward import model, uncertainty
from rlhf.reward.external import Classifier
from rlhf.reward.model import load_reward_info
from rlhf.reward.own_base import load_own_reward
from rlhf.tracking import read_metrics
from tests.pipeline.conftest import RECIPE, Shell
from tests.tiny import tiny_encoder

pytestmark = pytest.mark.slow
OWN = (
    "--reward.base.model", "other", "--reward.tuning", "full", "--reward.min_score_std", "0",
    "--ppo.updates", "1", "--ppo.critic_warmup_updates", "0",
)  # fmt: skip


def test_ppo_and_evaluation_score_by_a_model_with_a_base_of_its_own(copy: Shell) -> None:
    tiny_encoder(copy.folder / "other")
    said = copy.rlhf("run", str(RECIPE), *OWN, "--until", "evaluate").stderr
    assert "reward.learning_rate is 0.002, a rate for adapters" in said
    reward, ppo, evaluate = (Artifact.open(copy.run / "round-1" / stage) for stage in ("reward", "ppo", "evaluate"))
    facts = {"reward_base": "other", "reward_base_hash": hash_weight_files(copy.folder / "other"), "tuning": "full"}
    assert facts.items() <= reward.facts.items()
    assert {"model.safetensors", "config.json", "tokenizer.json", "trust.json"} <= reward.manifest.content.keys()
    assert not (reward.path / "adapter_config.json").exists()
    assert (ppo.path / "critic" / "head.safetensors").is_file()
    assert "ppo/value_loss" in read_metrics(ppo.file("metrics.jsonl"))[1]
    assert not (ppo.path / "score.json").exists()

    # Scores of an evaluation are those that the frozen classifier gives to the answers in its samples.
    info, classifier = load_reward_info(reward.path), load_own_reward(reward.path, "fp32")
    prompts = {row.id: row.prompt for row in read_jsonl(copy.run / "round-1/prompts/prompts.jsonl", Prompt)}
    samples = [json.loads(line) for line in evaluate.file("samples.jsonl").read_text().splitlines()][:8]
    for policy in ("sft", "ppo"):
        raw = classifier.score([prompts[row["prompt_id"]] for row in samples], [row[policy] for row in samples], 3)
        found = [row["scores"][policy] for row in samples]
        assert found == pytest.approx([info.normalise([one]) for one in raw], abs=1e-3)
        assert max(found) - min(found) > 0.1

    run, config = RunFolder.open(copy.run), load_config(RECIPE, OWN)
    sets = read_jsonl(copy.run / "round-1/candidates/candidates.jsonl", CandidateSet)[:6]
    rows = _order(config, run, reward, sets, frozenset())
    assert sorted(row["prompt_id"] for row in rows) == sorted(item.prompt_id for item in sets)
    assert {row["measure"] for row in rows} == {"entropy_nats"}

    shown = copy.rlhf("show", str(RECIPE), "reward", "-n", "1", *OWN).stdout
    assert "chosen (as the reward model reads it)" in shown
    (copy.folder / "other" / "model.safetensors").write_bytes(b"other weights")
    told = copy.rlhf("run", str(RECIPE), *OWN, "--dry-run").stderr
    assert "reward     would run: file other changed" in told
    refused = copy.rlhf("run", str(RECIPE), "--reward.base.model", "someone/other", "--dry-run", check=False)
    assert refused.returncode == 2
    assert "reward.base.revision is None; someone/other is no local folder" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("own", [False, True], ids=["role", "own-base"])
def test_responses_are_sampled_and_scored_so_many_at_a_time(
    copy: Shell, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    sizes: dict[str, set[int]] = {"sampled": set(), "scored": set()}
    run, score, classify = Decoder.run, model.score_heads, Classifier.score

    def sampled(decoder: Decoder, size: int, choose: Any) -> Any:
        sizes["sampled"].add(size)
        return run(decoder, size, choose)

    def scored(*arguments: Any) -> Any:
        sizes["scored"].add(arguments[-1])
        return (classify if own else score)(*arguments)

    monkeypatch.chdir(copy.folder)
    monkeypatch.setattr(Decoder, "run", sampled)
    monkeypatch.setattr(Classifier if own else model, "score" if own else "score_heads", scored)
    tiny_encoder(copy.folder / "other")
    reward = copy.run / "round-1" / "reward"
    before = load_reward_info(reward)
    shutil.rmtree(reward)
    settings = [*(OWN if own else ()), "--reward.score-batch-size", "3"]
    with pytest.raises(SystemExit, match="0"):
        main(["reward", str(RECIPE), *settings])
    after = load_reward_info(reward)
    assert sizes == {"sampled": {3}, "scored": {3}}
    assert own or (after.score_mean, after.score_std) == pytest.approx((before.score_mean, before.score_std), abs=1e-4)


def test_doubts_are_measured_so_many_at_a_time(copy: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    measure = uncertainty.measure_doubt

    def measured(*arguments: Any) -> Any:
        sizes.append(arguments[-1])
        return measure(*arguments)

    monkeypatch.chdir(copy.folder)
    monkeypatch.setattr(uncertainty, "measure_doubt", measured)
    run, config = RunFolder.open(copy.run), load_config(RECIPE, ["--reward.score-batch-size", "3"])
    sets = read_jsonl(copy.run / "round-1/candidates/candidates.jsonl", CandidateSet)[:2]
    _order(config, run, Artifact.open(copy.run / "round-1/reward"), sets, frozenset())
    assert sizes == [3]
