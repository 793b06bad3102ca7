"""A reward model with a base of its own, decoder or encoder, by LoRA or as a whole: it learns, is saved whole, resumes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf.config.training import RewardConfig
from rlhf.errors import ArtifactError, ConfigError, DataError
from rlhf.models.base import hash_weight_files
from rlhf.models.classifiers import ClassifierText
from rlhf.records import CandidateSet, Message, PreferencePair, PromptText
from rlhf.reward.examples import check_disjoint, encode_pairs
from rlhf.reward.model import finish_reward, load_reward_info, stack_rows, with_scale
from rlhf.reward.own_base import (
    OwnRewardModel,
    build_own_model,
    import_own_reward,
    load_own_reward,
    save_own_model,
)
from rlhf.reward.trainer import RewardOutcome, train_model
from rlhf.reward.uncertainty import measure_doubt_of_own, uncertainty_of
from rlhf.runtime import start_runtime
from rlhf.text import format_exchange
from rlhf.tracking import Tracker
from tests.tiny import tiny_classifier, tiny_encoder, tiny_folder, tiny_gpt2
from tests.trackers import DisturbingTracker, die
from tests.unit.reward.planted import count_passes, planted_config, planted_pairs

MAKERS: dict[str, Any] = {
    "decoder": tiny_folder,
    "decoder with a head": tiny_classifier,
    "convolutional decoder": tiny_gpt2,
    "encoder": tiny_encoder,
    "encoder with a head": lambda folder: tiny_encoder(folder, labels=1),
}
PROMPTS: list[PromptText] = ["the cat", "a dog ran", "the house " * 20]
RESPONSES = [" sat on the mat", "", " cat the and"]


def own_config(folder: Path, **changes: Any) -> RewardConfig:
    return planted_config(**{"base": {"model": str(folder)}, "lora": {"rank": 4, "alpha": 8.0}, **changes})


def build(tmp_path: Path, kind: str, *, precision: Any = "fp32", seed: int = 3, **changes: Any) -> Any:
    """Return a model, its text and its config."""
    folder = tmp_path / "source"
    if not folder.exists():
        MAKERS[kind](folder)
    config = own_config(folder, **changes)
    model, text, info = build_own_model(config, precision, seed)
    return model, text, info, config


def raw(model: OwnRewardModel, text: ClassifierText, *, alone: bool = False) -> list[float]:
    """Score three exchanges with a model in memory, all in one batch or each alone."""
    rows = [text.encode(prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    batches = [[row] for row in rows] if alone else [rows]
    with torch.no_grad():
        return [
            score
            for batch in batches
            for score in model(*stack_rows([([], row) for row in batch], text.pad_token_id))[0].tolist()
        ]


def train(
    tmp_path: Path, kind: str, *, name: str = "out", prompts: int = 64, tracker: Tracker | None = None, **changes: Any
) -> tuple[RewardOutcome, list[float], Path]:
    """Train on planted pairs and save; return the outcome, scores by the model in memory, and the folder."""
    model, text, info, config = build(tmp_path, kind, **changes)
    folder, runtime = tmp_path / name, start_runtime()
    folder.mkdir(exist_ok=True)
    own, held_out = planted_pairs(prompts, 1), planted_pairs(24, 2)
    tracker = tracker or Tracker(folder, bars=False)
    outcome = train_model(model, info, text, own, held_out, config, 1, folder, tracker, runtime)
    scores = raw(model, text)
    save_own_model(model, text, folder, runtime)
    finish_reward(outcome.info, folder, runtime)
    return outcome, scores, folder


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_learns_a_planted_preference_on_unseen_prompts(tmp_path: Path, kind: str, tuning: str) -> None:
    rates: dict[str, Any] = {"learning_rate": 1e-2, "head_learning_rate": 1e-2}
    outcome, _, folder = train(tmp_path, kind, tuning=tuning, epochs=4, prompts=96, **rates)
    assert outcome.calibration.accuracy.value > 0.9
    assert outcome.held_out_loss < 0.5 * outcome.initial_loss
    assert outcome.info.base_weights_hash == hash_weight_files(tmp_path / "source")
    assert load_reward_info(folder) == outcome.info
    assert load_reward_info(folder).has_own_base


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("kind", MAKERS)
def test_the_folder_is_a_plain_classifier_with_the_scores_of_training(tmp_path: Path, kind: str, tuning: str) -> None:
    _, trained, folder = train(tmp_path, kind, tuning=tuning, prompts=16, epochs=1, max_tokens=24)
    classifier = load_own_reward(folder, "fp32")
    for size in (1, 2, 3):
        assert classifier.score(PROMPTS, RESPONSES, size) == pytest.approx(trained, abs=1e-4)
    plain: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert (plain.config.num_labels, tokenizer.model_max_length, tokenizer.truncation_side) == (1, 24, "left")
    options = {"truncation": True, "add_special_tokens": not tokenizer.chat_template, "return_tensors": "pt"}
    for prompt, response, score in zip(PROMPTS, RESPONSES, trained, strict=True):
        with torch.no_grad():
            logits = plain(**tokenizer(format_exchange(tokenizer, prompt, response), **options)).logits
        assert logits.item() == pytest.approx(score, abs=1e-4)
    assert not list(folder.rglob("*adapter*"))
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"] is None
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.glob("*.json"))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_score_does_not_depend_on_its_batch(tmp_path: Path, kind: str) -> None:
    model, text, *_ = build(tmp_path, kind)
    alone = raw(model, text, alone=True)
    assert raw(model, text) == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) == 3


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_lora_moves_adapters_and_head_and_full_moves_everything(tmp_path: Path, kind: str) -> None:
    for tuning in ("lora", "full"):
        train(tmp_path, kind, name=tuning, tuning=tuning, prompts=16, epochs=1)
    before = load_file(tmp_path / "source" / "model.safetensors")
    lora, full = (load_file(tmp_path / name / "model.safetensors") for name in ("lora", "full"))
    assert lora.keys() == full.keys()
    shared = [name for name in lora if name in before]
    still = {name for name in shared if torch.equal(lora[name], before[name])}
    assert {name for name in shared if torch.equal(full[name], before[name])} == set()
    # Linear layers of the trunk get an adapter; embeddings and norms do not, nor biases.
    moved = set(shared) - still
    assert moved
    assert all(name.endswith("weight") and "norm" not in name.lower() and "embed" not in name for name in moved)
    assert all(".layers." in name or ".layer." in name for name in moved)


def test_a_trained_head_of_one_label_is_kept_and_any_other_is_drawn_from_the_seed(tmp_path: Path) -> None:
    kept = build(tmp_path / "kept", "decoder with a head", seed=1)[0].classifier.score.weight
    assert torch.equal(kept, load_file(tmp_path / "kept" / "source" / "model.safetensors")["score.weight"])
    tiny_classifier(tmp_path / "three" / "source", labels=("bad", "plain", "good"))
    drawn = [build(tmp_path / "three", "", seed=seed)[0].classifier.score.weight for seed in (1, 1, 2)]
    assert drawn[0].shape == kept.shape
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    encoder = build(tmp_path / "encoder", "encoder")[0]
    # A masked language model has no pooler: it is part of the head then.
    assert {name for name, _ in encoder.trainable()["head"]} == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"
    }  # fmt: skip


def test_there_is_no_dropout(tmp_path: Path) -> None:
    model, text, *_ = build(tmp_path, "encoder")
    still = raw(model, text)
    assert raw(model.train(), text) == still


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_in_bf16_what_learns_is_fp32_and_the_folder_is_bf16(tmp_path: Path, kind: str, tuning: str) -> None:
    model, text, *_ = build(tmp_path, kind, precision="bf16", tuning=tuning)
    assert {parameter.dtype for group in model.trainable().values() for _, parameter in group} == {torch.float32}
    frozen = {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad}
    assert frozen == ({torch.bfloat16} if tuning == "lora" else set())
    exact = raw(*build(tmp_path, kind, tuning=tuning)[:2])
    found = raw(model, text)
    assert found == pytest.approx(exact, abs=0.1)
    assert found != exact
    # The head computes in fp32: a score has more digits than bf16 has.
    assert all(torch.tensor(score).bfloat16().item() != score for score in found)
    (tmp_path / "out").mkdir()
    save_own_model(model, text, tmp_path / "out", start_runtime())
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert load_own_reward(tmp_path / "out", "bf16").score(PROMPTS, RESPONSES, 3) == pytest.approx(found, abs=0.1)


@pytest.mark.parametrize(("kind", "tuning"), [("decoder", "lora"), ("encoder", "full")])
def test_cutting_a_step_and_recomputing_activations_leave_the_training(tmp_path: Path, kind: str, tuning: str) -> None:
    options: dict[str, Any] = {"tuning": tuning, "prompts": 16, "epochs": 1}
    whole = train(tmp_path, kind, name="whole", **options)
    base = {"model": str(tmp_path / "source"), "gradient_checkpointing": True}
    for name, changes in {"cut": {"micro_batch_tokens": 100}, "recomputed": {"base": base}}.items():
        other = train(tmp_path, kind, name=name, **options, **changes)
        assert other[0].held_out_loss == pytest.approx(whole[0].held_out_loss, abs=1e-4)
        assert other[1] == pytest.approx(whole[1], abs=1e-3)


@pytest.mark.parametrize(("kind", "tuning"), [("decoder", "lora"), ("encoder", "full")])
def test_activations_are_recomputed_where_asked(tmp_path: Path, kind: str, tuning: str) -> None:
    MAKERS[kind](tmp_path / "source")
    calls: list[int] = []
    for asked in (False, True):
        base = {"model": str(tmp_path / "source"), "gradient_checkpointing": asked}
        model, text, info, config = build(tmp_path, kind, base=base, tuning=tuning, epochs=1)
        passes = count_passes(model, ("layers.0.mlp", "layer.0.intermediate"))
        folder = tmp_path / str(asked)
        folder.mkdir()
        own, held_out = planted_pairs(8, 1), planted_pairs(8, 2)
        train_model(model, info, text, own, held_out, config, 1, folder, Tracker.silent(), start_runtime())
        calls.append(len(passes))
        assert not model.training
    assert calls[1] == calls[0] + 1  # one step of one pass


@pytest.mark.parametrize(("kind", "tuning"), [("decoder", "lora"), ("encoder", "full")])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path, kind: str, tuning: str) -> None:
    options: dict[str, Any] = {"tuning": tuning, "prompts": 24, "epochs": 2, "max_tokens": 18}
    outcome, _, straight = train(tmp_path, kind, name="straight", **options)
    killed = tmp_path / "killed"
    killed.mkdir()
    with pytest.raises(KeyboardInterrupt):  # 2 epochs of 3 steps, evaluated after steps 3 and 6
        train(tmp_path, kind, name="killed", tracker=DisturbingTracker(killed, 5, die), **options)
    assert (killed / ".checkpoints" / "step-3" / "COMPLETE").exists()
    assert train(tmp_path, kind, name="killed", **options)[0] == outcome
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (straight, killed)]
    for metrics in (found.pop("metrics.jsonl") for found in files):
        assert metrics
    assert files[0] == files[1]


def test_long_exchanges_are_cut_from_the_left_and_lengths_are_those_of_responses(tmp_path: Path) -> None:
    text = build(tmp_path, "decoder", max_tokens=16)[1]
    pairs = [PreferencePair("p", "the house " * 20, " cat cat", " cat")]
    (prompt,) = encode_pairs(text, pairs, 16, "training")
    assert prompt.prompt_ids == []
    assert [len(ids) for ids in prompt.response_ids] == [16, 16]
    whole = text.tokenizer(format_exchange(text.tokenizer, pairs[0].prompt, " cat cat"))["input_ids"]
    assert prompt.response_ids[0] == whole[-16:]
    assert prompt.lengths == [len(text.tokenizer(side)["input_ids"]) for side in (" cat cat", " cat")]
    assert prompt.lengths[0] > prompt.lengths[1]
    same = PreferencePair("q", (Message("user", "the house " * 20),), " x", " y")
    with pytest.raises(DataError, match="also trained on"):
        check_disjoint([prompt], encode_pairs(text, [same], 16, "held-out"))
    check_disjoint([prompt], encode_pairs(text, [PreferencePair("q", "the cat", " cat", " x")], 16, "held-out"))


def test_a_trained_model_is_imported_and_doubts(tmp_path: Path) -> None:
    outcome, trained, folder = train(tmp_path, "decoder", prompts=16, epochs=1)
    info = with_scale(dataclasses.replace(outcome.info, control="flipped"), [[score] for score in trained])
    (tmp_path / "copy").mkdir()
    import_own_reward(folder, info, "fp32", tmp_path / "copy", start_runtime())
    classifier = load_own_reward(tmp_path / "copy", "fp32")
    assert load_reward_info(tmp_path / "copy") == info
    assert classifier.score(PROMPTS, RESPONSES, 3) == pytest.approx(trained, abs=1e-4)
    scores = torch.tensor([info.normalise([score]) for score in trained], dtype=torch.float64)
    assert (scores.mean().item(), scores.std(correction=0).item()) == pytest.approx((0, 1))
    assert scores[0] < scores[1] if trained[0] > trained[1] else scores[0] > scores[1]

    sets = [CandidateSet("a", "the cat", (" sat", " ran on")), CandidateSet("b", "a dog", (" x", " y and", " zz"))]
    doubt = measure_doubt_of_own(classifier, info, sets, 2)
    alone = [[score] for score in classifier.score(["a dog"] * 3, sets[1].responses, 1)]
    assert doubt.uncertainty[1] == pytest.approx(
        uncertainty_of(torch.tensor(alone).numpy(), info.temperature), abs=1e-5
    )
    assert doubt.features.shape == (2, 32)
    states = [classifier.mean_states(["a dog"], [response], 1)[0] for response in sets[1].responses]
    assert doubt.features[1] == pytest.approx(torch.stack(states).mean(dim=0).numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base": {}, "tuning": "full"}, "tuning is full and base.model is not given"),
        ({"base": {"revision": "0" * 40}}, "revision is 0+ and model is not given"),
        ({"heads": 2}, "heads is 2, which are for the shared base"),
        ({"pooling": "mean"}, "pooling is mean"),
        ({"import_path": "r"}, "an imported reward model is not trained"),
        ({"uncertainty_penalty": 0.1}, "one head has no variance"),
    ],
)
def test_settings_that_an_own_base_does_not_heed_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        own_config(Path("some/model"), **changes)


def test_models_that_cannot_learn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward.base.model is '.*nowhere'; there is no such folder"):
        build_own_model(own_config(tmp_path / "nowhere"), "fp32", 1)
    with pytest.raises(ConfigError, match=r"reward.base.revision is None; .*40 digits of a commit"):
        build_own_model(own_config(Path("someone/model")), "fp32", 1)
    with pytest.raises(ConfigError, match=r"lora.targets names \['qq'\]; linear layers of this base: down_proj"):
        build(tmp_path, "decoder", lora={"targets": ["qq"]})
    pickled = tiny_folder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"reward.base .*no \*.safetensors file .*pickled weights"):
        build_own_model(own_config(pickled), "fp32", 1)
    other = tiny_folder(tmp_path / "other")
    (tiny_encoder(tmp_path / "bert") / "model.safetensors").replace(other / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"the weights lack model.*; the files belong to another model"):
        build_own_model(own_config(other), "fp32", 1)
