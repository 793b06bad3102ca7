"""Reward training learns what is planted, moves only its own weights, and survives a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf.errors import ConfigError, DataError, TrainingError
from rlhf.models.roles import SharedBase
from rlhf.reward.model import RewardModel, publish_reward
from rlhf.reward.trainer import learning_rate_factor, prompts_of_step, train_reward
from rlhf.runtime import Runtime, start_runtime
from rlhf.tracking import Tracker, read_metrics
from tests.trackers import DisturbingTracker, die
from tests.unit.reward.planted import count_passes, planted_config, planted_pairs, reward_base, train_planted


def published(tmp_path: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir()) if path.is_file()}


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_learns_a_planted_preference_on_unseen_prompts(tmp_path: Path, pooling: str) -> None:
    outcome, *_ = train_planted(tmp_path, planted_config(pooling=pooling, epochs=3), prompts=96)
    assert outcome.calibration.accuracy.value > 0.9
    assert outcome.held_out_loss < 0.5 * outcome.initial_loss
    assert outcome.calibration.longer_wins.value < 0.75
    assert outcome.info.calibration["accuracy"]["pairs"] == outcome.calibration.accuracy.pairs


def test_every_likelihood_learns_the_planted_preference_in_its_own_way(tmp_path: Path) -> None:
    heads = {}
    for name in ("bradley_terry", "davidson", "plackett_luce"):
        config = planted_config(likelihood=name, epochs=3, tie_strength=0.5)
        outcome, shared, *_ = train_planted(tmp_path, config, prompts=96, name=name)
        assert outcome.calibration.accuracy.value > 0.9, name
        heads[name] = shared.state_dict()["heads.reward.weight"].clone()
    assert len({tuple(head.flatten().tolist()) for head in heads.values()}) == 3


def test_the_strength_of_ties_is_heard(tmp_path: Path) -> None:
    weak, strong = (
        train_planted(tmp_path, planted_config(likelihood="davidson", tie_strength=nu, epochs=1), name=f"nu-{nu}")
        for nu in (0.01, 5.0)
    )
    assert weak[0].held_out_loss != pytest.approx(strong[0].held_out_loss, abs=1e-4)


@pytest.mark.parametrize("option", [{"margins": True}, {"label_smoothing": 0.1}])
def test_orders_know_neither_margins_nor_smoothing(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="plackett_luce knows neither"):
        planted_config(likelihood="plackett_luce", **option)


def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    outcome, *_ = train_planted(tmp_path, planted_config(control="shuffled", learning_rate=2e-3, epochs=1))
    # A coin has log 2 = .693 nats per pair. Which way a tiny model errs is chance, how much it claims is not.
    assert outcome.held_out_loss > 0.66
    assert outcome.calibration.accuracy.value < 0.8
    assert outcome.info.control == "shuffled"


def test_only_the_reward_role_moves(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    before = {name: tensor.clone() for name, tensor in shared.state_dict().items()}
    folder = tmp_path / "out"
    folder.mkdir()
    config = planted_config(epochs=1)
    train_reward(
        shared, text, planted_pairs(16, 1), planted_pairs(8, 2), config, 1, folder, Tracker.silent(), start_runtime()
    )
    moved = {name for name, tensor in shared.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all((".lora_" in name and ".reward." in name) or name.startswith("heads.reward.") for name in moved)


CUTS = {
    "whole": {},
    "one by one": {"micro_batch_prompts": 1},
    "four at a time": {"micro_batch_prompts": 4},
    "a budget": {"micro_batch_tokens": 200},
    "a budget that one prompt exceeds": {"micro_batch_tokens": 20},
}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("cut", CUTS)
def test_cutting_a_step_leaves_the_training(tmp_path: Path, cut: str, share: bool) -> None:
    whole = train_planted(tmp_path, planted_config(epochs=1, share_prompt=False), prompts=20, name="whole")
    config = planted_config(epochs=1, share_prompt=share, **CUTS[cut])
    other = train_planted(tmp_path, config, prompts=20, name="cut")
    for name, tensor in whole[1].state_dict().items():
        torch.testing.assert_close(other[1].state_dict()[name], tensor, atol=1e-4, rtol=1e-4)
    assert other[0].held_out_loss == pytest.approx(whole[0].held_out_loss, abs=1e-4)
    left, right = (read_metrics(found[3] / "metrics.jsonl")[1] for found in (whole, other))
    assert left["reward/gradient_norm"] == pytest.approx(right["reward/gradient_norm"], rel=1e-4)


def shapes_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all passes of a training."""
    shapes: list[tuple[int, ...]] = []
    forward = RewardModel.forward

    def watched(self: RewardModel, input_ids: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        shapes.append((*input_ids.shape, torch.is_grad_enabled()))
        return forward(self, input_ids, *others)

    monkeypatch.setattr(RewardModel, "forward", watched)
    train_planted(tmp_path, planted_config(epochs=1, **changes), prompts=20, name="watched")
    return shapes


@pytest.mark.parametrize("share", [True, False])
def test_passes_keep_to_the_token_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: bool) -> None:
    free = shapes_of(tmp_path / "free", monkeypatch, share_prompt=share)
    bound = shapes_of(tmp_path / "bound", monkeypatch, share_prompt=share, micro_batch_tokens=300)
    assert max(rows * width for rows, width, _ in free) > 600
    assert all(rows * width <= (300 if training else 600) for rows, width, training in bound)
    assert max(rows * width for rows, width, training in bound if not training) > 300
    # Whole prompts: three candidates each (some pairs tie, so now and then two), or one row.
    assert all(rows > 1 for rows, _, _ in bound) or share


def test_a_shared_prompt_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {
        share: sum(rows * width for rows, width, _ in shapes_of(tmp_path / str(share), monkeypatch, share_prompt=share))
        for share in (True, False)
    }
    assert tokens[True] < 0.85 * tokens[False]


def test_a_base_that_takes_no_mask_of_its_own_reads_prompts_per_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedBase, "can_branch", False)
    shapes = shapes_of(tmp_path, monkeypatch, share_prompt=True, micro_batch_prompts=1)
    assert all(rows > 1 for rows, _, _ in shapes)


def test_a_token_budget_needs_no_even_cut() -> None:
    with pytest.raises(ValueError, match="batch_prompts is 8"):
        planted_config(micro_batch_prompts=3)
    assert planted_config(micro_batch_prompts=3, micro_batch_tokens=100).micro_batch_prompts == 3


@pytest.mark.parametrize(("last", "cut"), [(1, "whole"), (5, "whole"), (5, "a budget")])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path, last: int, cut: str) -> None:
    config = planted_config(epochs=2, **CUTS[cut])
    outcome, shared, _, folder, runtime = train_planted(tmp_path, config, prompts=24, name="straight")
    publish_reward(shared, outcome.info, folder, runtime)
    # 2 epochs of 3 steps, evaluated after steps 3 and 6: the first kill leaves no checkpoint, the second one has step 3.
    killed = tmp_path / "killed"
    killed.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_planted(tmp_path, config, prompts=24, name="killed", tracker=DisturbingTracker(killed, last, die))
    assert (killed / ".checkpoints" / "step-3" / "COMPLETE").exists() == (last == 5)
    resumed, shared, _, folder, runtime = train_planted(tmp_path, config, prompts=24, name="killed")
    publish_reward(shared, resumed.info, folder, runtime)
    assert resumed == outcome
    assert published(tmp_path, "killed") == published(tmp_path, "straight")
    assert not (killed / ".checkpoints").exists()


def test_activations_are_recomputed_where_asked(tmp_path: Path) -> None:
    calls: list[int] = []
    for asked in (False, True):
        shared, text = reward_base(tmp_path)
        if asked:
            shared.enable_gradient_checkpointing()
        passes = count_passes(shared, ("layers.0.mlp",))
        own, held_out, folder = planted_pairs(8, 1), planted_pairs(8, 2), tmp_path / str(asked)
        folder.mkdir()
        config = planted_config(epochs=1)
        train_reward(shared, text, own, held_out, config, 1, folder, Tracker.silent(), start_runtime())
        calls.append(len(passes))
        assert not shared.training
    assert calls[1] == calls[0] + 1  # one step of one pass


def test_an_unfinished_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    config = planted_config(epochs=2)
    outcome, *_ = train_planted(tmp_path, config, prompts=24, name="straight")
    torn = tmp_path / "torn" / ".checkpoints"
    (torn / "step-6").mkdir(parents=True)
    (torn / "staging").mkdir()
    (torn / "step-6" / "weights.safetensors").write_bytes(b"half a file")
    assert train_planted(tmp_path, config, prompts=24, name="torn")[0] == outcome


def test_best_state_is_kept_and_patience_ends_training(tmp_path: Path) -> None:
    config = planted_config(epochs=6, learning_rate=0.3, head_learning_rate=0.3, evaluations=6, patience=1)
    outcome, _, _, folder, _ = train_planted(tmp_path, config, prompts=16)
    losses = {
        int(row["step"]): row["reward/held_out_loss_nats"]
        for row in read_metrics(folder / "metrics.jsonl")
        if "reward/held_out_loss_nats" in row
    }
    trained = {step: loss for step, loss in losses.items() if step > 0}
    assert outcome.best_step == min(trained, key=lambda step: trained[step])
    assert outcome.stopped_early
    assert outcome.steps == outcome.best_step + 2
    best = load_file(folder / ".checkpoints" / f"step-{outcome.steps}" / "best.safetensors")
    now = load_file(folder / ".checkpoints" / f"step-{outcome.steps}" / "weights.safetensors")
    assert any(not torch.equal(best[name], now[name]) for name in best)


def test_a_loss_that_is_not_finite_stops_with_the_prompts(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    with torch.no_grad():
        shared.heads["reward"].weight.fill_(1e38)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TrainingError, match="held-out loss is|reward step 1"):
        train_reward(
            shared,
            text,
            planted_pairs(8, 1),
            planted_pairs(8, 2),
            planted_config(),
            1,
            tmp_path,
            Tracker.silent(),
            start_runtime(),
        )


def test_prompts_on_both_sides_are_refused(tmp_path: Path) -> None:
    shared, text = reward_base(tmp_path)
    pairs = planted_pairs(8, 1)
    with pytest.raises(DataError, match="also trained on"):
        train_reward(shared, text, pairs, pairs[-1:], planted_config(), 1, tmp_path, Tracker.silent(), start_runtime())


def test_every_epoch_visits_every_prompt_once_in_another_order() -> None:
    epochs = [
        [index for step in (3 * epoch + n for n in range(3)) for index in prompts_of_step(step, 11, 4, 7)]
        for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(11))
    assert epochs[0] != epochs[1]
    assert prompts_of_step(2, 11, 4, 7) == epochs[0][8:]


def test_learning_rate_rises_and_falls() -> None:
    # 10 steps, warm-up over 2: 1/2, 2/2, then 8/8, 7/8, ..., 1/8
    assert [learning_rate_factor(step, 10, 0.2) for step in range(10)] == [0.5, 1.0, *(n / 8 for n in range(8, 0, -1))]
    assert learning_rate_factor(0, 1, 0.0) == 1.0


def test_batches_that_processes_do_not_divide_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "process_count", 3)
    for cut in ("whole", "a budget"):
        with pytest.raises(ConfigError, match="batch_prompts is 8"):
            train_planted(tmp_path, planted_config(**CUTS[cut]), prompts=8, name=cut)
