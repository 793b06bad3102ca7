"""Supervised fine-tuning: what is taught, what moves, what is published, and a kill that leaves no trace."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf.config.recipe import Config
from rlhf.config.training import SftConfig
from rlhf.errors import ArtifactError, DataError, TrainingError
from rlhf.models.base import LoadedBase, hash_weights
from rlhf.models.roles import RoleSource, build_shared_base
from rlhf.records import Demonstration
from rlhf.runtime import StoppedBySignal, start_runtime
from rlhf.sft import SftOutcome, import_sft, make_zero_adapter, train_sft
from rlhf.sft_rows import IGNORED, EpochOrder, RightPadding, filled_up, make_rows
from rlhf.tracking import Tracker, read_metrics
from stages.sft import _make_adapter
from tests.tiny import TINY_LORA, tiny_base
from tests.trackers import DisturbingTracker, die, terminate

WORDS = ("cat", "dog", "mat", "house")


def demonstrations(count: int, name: str = "p") -> list[Demonstration]:
    """Return prompts whose last word is repeated by the response."""
    return [
        Demonstration(f"{name}-{i}", f"{name} {i} the {WORDS[i % 4]}", f" the {WORDS[i % 4]}" + " sat" * (i % 3))
        for i in range(count)
    ]


def config(**changes: Any) -> SftConfig:
    settings = {
        "lora": TINY_LORA,
        "learning_rate": 1e-2,
        "batch_size": 8,
        "micro_batch_size": 8,
        "max_tokens": 64,
        "epochs": 2.0,
        "evaluations": 2,
    }
    return SftConfig(**(settings | changes))


def train(
    base: LoadedBase,
    folder: Path,
    settings: SftConfig,
    tracker: Tracker | None = None,
    held_out: Sequence[Demonstration] = (),
) -> SftOutcome:
    folder.mkdir(exist_ok=True)
    tracker = tracker or Tracker(folder, bars=False)
    return train_sft(
        base, demonstrations(24), held_out or demonstrations(6, "h"), settings, 1, folder, tracker, start_runtime()
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_labels_are_the_response_and_its_end_token(tmp_path: Path) -> None:
    text = tiny_base(tmp_path).text
    (row,) = make_rows(text, [Demonstration("p", "the cat", " sat")], 64, "demonstration")
    prompt = text.encode_prompt("the cat")
    taught = [label for label in row["labels"] if label != IGNORED]
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    assert taught == row["input_ids"][len(prompt) :]
    assert taught[-1] == text.end_token_ids[0]
    assert text.decode_response(taught) == " sat"


def test_padding_is_on_the_right_and_ignored() -> None:
    rows = [{"input_ids": [5, 6], "labels": [IGNORED, 6]}, {"input_ids": [7, 8, 9], "labels": [IGNORED, 8, 9]}]
    batch = RightPadding(3)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 3], [7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 6, IGNORED], [IGNORED, 8, 9]]


def test_fillers_come_last_and_every_epoch_has_its_own_order() -> None:
    rows = [{"input_ids": [i, i], "labels": [IGNORED, i]} for i in range(5)]
    filled = filled_up(rows, 4)
    assert filled[:5] == rows
    assert len(filled) == 8
    assert {label for row in filled[5:] for label in row["labels"]} == {IGNORED}
    assert filled_up(rows, 5) == rows
    order = EpochOrder(5, 3, seed=1)
    epochs: list[list[int]] = []
    for epoch in (0, 1, 0):
        order.set_epoch(epoch)
        epochs.append(list(order))
    assert len(order) == 8
    assert all(sorted(epoch[:5]) == [0, 1, 2, 3, 4] and epoch[5:] == [5, 6, 7] for epoch in epochs)
    assert epochs[0] == epochs[2] != epochs[1]


def test_every_overlong_demonstration_is_named(tmp_path: Path) -> None:
    text = tiny_base(tmp_path).text
    rows = [
        Demonstration("short", "the", " cat"),
        Demonstration("a", "the", " x" * 90),
        Demonstration("b", "the" * 90, " x"),
    ]
    with pytest.raises(DataError, match="2 of 3 demonstrations") as caught:
        make_rows(text, rows, 64, "demonstration")
    assert "demonstration a: " in str(caught.value)
    assert "demonstration b: " in str(caught.value)


def test_no_demonstrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no held-out demonstrations"):
        make_rows(tiny_base(tmp_path).text, [], 64, "held-out demonstration")


def test_prompts_without_responses_are_refused_with_the_remedies(tmp_path: Path) -> None:
    (tmp_path / "demonstrations.jsonl").touch()
    work: Any = SimpleNamespace(file=lambda _, name: tmp_path / name, folder=tmp_path, tracker=Tracker.silent())
    with pytest.raises(DataError, match=r"no demonstrations.* prompts\.demonstrations.* sft\.method to none"):
        _make_adapter(Config(run=tmp_path), tiny_base(tmp_path), work, start_runtime())


def test_training_lowers_the_held_out_loss_and_publishes_an_adapter_alone(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    before, settings = hash_weights(base.model), base.model.config.to_dict()
    outcome = train(base, tmp_path / "out", config(epochs=4.0))
    assert outcome.initial_loss is not None
    assert outcome.held_out_loss is not None
    assert outcome.held_out_loss < outcome.initial_loss - 1
    assert outcome.steps == 12
    assert set(files(tmp_path / "out")) == {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"}
    assert not (tmp_path / "out" / ".checkpoints").exists()
    assert str(tmp_path) not in (tmp_path / "out" / "adapter_config.json").read_text()
    # The base is as it was: weights, configuration, modules, forward.
    assert hash_weights(base.model) == before
    assert base.model.config.to_dict() == settings
    assert "forward" not in vars(base.model)
    assert not any(".lora_" in name for name, _ in base.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_held_out_loss_is_the_mean_over_response_tokens(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    rows = make_rows(base.text, demonstrations(6, "h"), 64, "held-out demonstration")
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = base.model(torch.tensor([row["input_ids"]])).logits[0, :-1].double()
            labels = torch.tensor(row["labels"][1:])
            taught = labels != IGNORED
            total -= logits.log_softmax(-1)[taught].gather(1, labels[taught, None]).sum().item()
            tokens += int(taught.sum())
    outcomes = [train(base, tmp_path / f"out{size}", config(micro_batch_size=size, epochs=1.0)) for size in (8, 2)]
    assert [outcome.initial_loss for outcome in outcomes] == pytest.approx([total / tokens] * 2, rel=1e-5)
    # How a step is cut into passes does not matter either.
    assert outcomes[1].held_out_loss == pytest.approx(outcomes[0].held_out_loss, abs=1e-4)


@pytest.mark.parametrize("last", [2, 5])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path, last: int) -> None:
    base = tiny_base(tmp_path)
    settings = config(lora=type(TINY_LORA)(rank=4, alpha=8.0, dropout=0.1))
    outcome = train(base, tmp_path / "straight", settings)
    # 2 epochs of 3 steps, evaluated after steps 3 and 6: the first kill leaves no checkpoint, the second one has step 3.
    killed = tmp_path / "killed"
    killed.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(base, killed, settings, DisturbingTracker(killed, last, die))
    assert (killed / ".checkpoints" / "step-3" / "COMPLETE").exists() == (last == 5)
    assert train(base, killed, settings) == outcome
    assert files(killed) == files(tmp_path / "straight")


@pytest.mark.parametrize(("noticed", "kept"), [(1, 2), (4, 5)])
def test_a_training_told_to_stop_keeps_its_last_step_and_ends_with_the_same_bytes(
    tmp_path: Path, noticed: int, kept: int
) -> None:
    base = tiny_base(tmp_path)
    settings = config(lora=type(TINY_LORA)(rank=4, alpha=8.0, dropout=0.1))
    outcome = train(base, tmp_path / "straight", settings)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    with pytest.raises(StoppedBySignal, match=f"stopped after step {kept}; run the same command"):
        train(base, stopped, settings, DisturbingTracker(stopped, noticed, terminate))
    assert [path.parent.name for path in stopped.glob(".checkpoints/*/COMPLETE")] == [f"step-{kept}"]
    assert train(base, stopped, settings) == outcome
    assert files(stopped) == files(tmp_path / "straight")


def test_a_signal_in_the_last_step_comes_too_late(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    assert train(base, folder, config(), DisturbingTracker(folder, 5, terminate)).steps == 6


def test_an_unfinished_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    outcome = train(base, tmp_path / "straight", config(epochs=1.0))
    torn = tmp_path / "torn" / ".checkpoints"
    for name in ("step-3", "staging/checkpoint-3"):
        (torn / name).mkdir(parents=True)
        (torn / name / "adapter_model.safetensors").write_bytes(b"half a file")
    assert train(base, tmp_path / "torn", config(epochs=1.0)) == outcome
    assert files(tmp_path / "torn") == files(tmp_path / "straight")


def test_best_adapter_is_kept_and_patience_ends_training(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    # What is held out contradicts what is taught, so that the loss rises as training goes on.
    against = [Demonstration("h", "h 1 the cat", " qqq zzz")]
    settings = config(learning_rate=0.05, epochs=6.0, evaluations=6, patience=1)
    outcome = train(tiny_base(tmp_path), folder, settings, held_out=against)
    losses = {
        int(row["step"]): row["sft/held_out_loss"]
        for row in read_metrics(folder / "metrics.jsonl")
        if "sft/held_out_loss" in row
    }
    trained = {step: loss for step, loss in losses.items() if step > 0}
    assert outcome.stopped_early
    assert outcome.best_step == min(trained, key=lambda step: trained[step])
    assert outcome.steps > outcome.best_step
    assert outcome.held_out_loss == trained[outcome.best_step]


def test_published_adapter_has_the_held_out_loss_it_claims(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    outcome = train(base, tmp_path / "out", config(learning_rate=0.05))
    rows = make_rows(base.text, demonstrations(6, "h"), 64, "held-out demonstration")
    batch = RightPadding(base.text.pad_token_id)(rows)
    shared = build_shared_base(base, {"policy": RoleSource(folder=tmp_path / "out")})
    with torch.no_grad(), shared.role("policy"):
        logits = shared.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:])
    assert loss.item() == pytest.approx(outcome.held_out_loss, rel=1e-4)


def test_metrics_have_one_line_per_step(tmp_path: Path) -> None:
    train(tiny_base(tmp_path), tmp_path / "out", config(epochs=1.0))
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [row["step"] for row in rows if "sft/loss" in row] == [1, 2, 3]
    assert all({"sft/learning_rate", "sft/gradient_norm"} <= row.keys() for row in rows if "sft/loss" in row)
    assert [row["step"] for row in rows if "sft/held_out_loss" in row] == [0, 2, 3]


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    with torch.no_grad():
        base.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="lower sft.learning_rate"):
        train(base, tmp_path / "out", config())


def test_zero_adapter_changes_nothing(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = base.model(ids).logits
    make_zero_adapter(base, config(method="none"), 1, tmp_path / "zero")
    tensors = load_file(tmp_path / "zero" / "adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {TINY_LORA.rank}
    shared = build_shared_base(base, {"policy": RoleSource(folder=tmp_path / "zero")})
    with torch.no_grad(), shared.role("policy"):
        torch.testing.assert_close(shared.model(ids).logits, before, atol=0, rtol=0)


def test_import_copies_what_fits_and_refuses_the_rest(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    train(base, tmp_path / "out", config(epochs=1.0))
    import_sft(base, tmp_path / "out", tmp_path / "imported")
    source, copy = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "imported"))
    torch.testing.assert_close(copy, source, atol=0, rtol=0)
    assert json.loads((tmp_path / "imported" / "adapter_config.json").read_text())["r"] == TINY_LORA.rank
    with pytest.raises(ArtifactError, match="shape|another"):
        import_sft(tiny_base(tmp_path, name="wide", hidden=64), tmp_path / "out", tmp_path / "refused")
    damaged = {name: tensor * float("nan") for name, tensor in source.items()}
    save_file(damaged, tmp_path / "out" / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match="not finite"):
        import_sft(base, tmp_path / "out", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
