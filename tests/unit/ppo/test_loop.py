"""The PPO loop on a tiny transformer: it learns, it holds its invariants, it stops where it must."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlhf.config.training import GuardConfig, PpoConfig
from rlhf.errors import ConfigError, TrainingError
from rlhf.models.adapters import adapter_parameters
from rlhf.models.base import hash_weights
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.ppo.checkpoint import Progress
from rlhf.ppo.guard import find_fault
from rlhf.ppo.loop import learning_rates, make_engine
from rlhf.ppo.optimise import Targets, _plan, make_targets, optimise
from rlhf.ppo.prompts import PromptSource, prompt_order
from rlhf.ppo.rollout import Rollout, examine, lay_out, sample_episodes, score_samples
from rlhf.reward.sources import Scores
from rlhf.runtime import StoppedBySignal, start_runtime
from rlhf.tracking import read_metrics
from tests.tiny import shake, tiny_base, tiny_roles
from tests.unit.ppo.world import LEARNS, TINY, even_share, prompts, train


def _setting(folder: Path, **changes: object) -> tuple[SharedBase, PpoConfig, Rollout, Targets]:
    config = PpoConfig(**{**TINY, **changes})
    base = tiny_base(folder, scale=3.0)
    shared = build_shared_base(base, tiny_roles(config.critic))
    ids = [base.text.encode_prompt(prompt.prompt) for prompt in prompts(8)]
    samples = sample_episodes(shared, base.text, ids, range(8), config, 1)
    rollout = examine(shared, samples, score_samples(even_share, samples), config, start_runtime())
    return shared, config, rollout, make_targets(rollout, config, start_runtime())


def _head(shared: SharedBase) -> Tensor:
    head = shared.heads["critic"]
    assert isinstance(head, torch.nn.Linear)
    return head.weight


def _adapter(shared: SharedBase, name: str) -> dict[str, Tensor]:
    return {key: parameter.detach().clone() for key, parameter in adapter_parameters(shared.peft_model, name)}


def test_training_raises_the_score_and_touches_nothing_it_should_not(tmp_path: Path) -> None:
    base = tiny_base(tmp_path, scale=3.0)
    shared = build_shared_base(base, tiny_roles())
    before = hash_weights(shared), _adapter(shared, "reference"), _adapter(shared, "reward")
    outcome, _ = train(
        tmp_path,
        shared=shared,
        **LEARNS,
        updates=8,
        critic_learning_rate=1e-2,
        checkpoint_every=8,
        evaluate_every=4,
    )
    rows = read_metrics(tmp_path / "ppo" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(9))
    assert rows[-1]["ppo/score_mean"] > rows[1]["ppo/score_mean"] + 0.5
    assert rows[1]["ppo/kl_nats"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["ppo/kl_nats"] > 0.05
    for row in rows[1:]:
        assert row["ppo/ratio_first"] == pytest.approx(1, abs=1e-5)
        assert row["ppo/clip_fraction_first"] == 0
        assert row["ppo/sampler_gap_nats"] < 1e-4
    assert (hash_weights(shared), outcome.updates, outcome.optimizer_steps) == (before[0], 8, 8 * 4)
    for role, weights in (("reference", before[1]), ("reward", before[2])):
        assert all(torch.equal(weights[key], value) for key, value in _adapter(shared, role).items())
    looks = [json.loads(line) for line in (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()]
    assert sorted({row["update"] for row in looks}) == [0, 4, 8]
    assert {"validation/score_mean", "validation/kl_nats", "validation/eos_rate"} <= rows[0].keys()


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_critic_warm_up_leaves_the_policy_bytes_alone(tmp_path: Path, critic: str) -> None:
    base = tiny_base(tmp_path, scale=3.0)
    shared = build_shared_base(base, tiny_roles(critic))
    policy = _adapter(shared, "policy")
    head = _head(shared).detach().clone()
    config = PpoConfig(**{**TINY, "critic": critic, "critic_warmup_updates": 2, "updates": 3})
    runtime = start_runtime()
    engine = make_engine(shared, config, runtime)
    _, _, rollout, targets = _setting(tmp_path, critic=critic)
    for update in (1, 2, 3):
        engine.set_learning_rates(learning_rates(config, update))
        optimise(engine, rollout, targets, config, runtime, seed=(1, update), policy_weight=float(update > 2))
        moved = any(not torch.equal(policy[key], value) for key, value in _adapter(shared, "policy").items())
        assert moved == (update > 2)
    assert not torch.equal(head, _head(shared))


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_the_split_into_micro_batches_leaves_the_gradient_unchanged(tmp_path: Path, critic: str) -> None:
    found = []
    for size in (8, 4, 2, 1):
        shared, config, rollout, targets = _setting(tmp_path, critic=critic, micro_batch_size=size, epochs=1)
        engine = make_engine(shared, config, start_runtime())
        grads: dict[str, Tensor] = {}
        engine.step = lambda engine=engine, grads=grads: (
            grads.update({name: p.grad.clone() for name, p in engine.parameters.items() if p.grad is not None}),
            torch.zeros(()),
        )[1]
        done = optimise(engine, rollout, targets, config, start_runtime(), seed=(1, 1), policy_weight=1.0)
        assert done.total[0] == rollout.response_mask.sum()
        found.append(grads)
    for grads in found[1:]:
        assert grads.keys() == found[0].keys()
        assert all(torch.allclose(grads[name], found[0][name], atol=1e-6) for name in grads)
    assert all(value.abs().sum() > 0 for name, value in found[0].items() if "lora_A" not in name)  # A waits for B


def test_every_trainable_parameter_is_in_the_one_backward_pass(tmp_path: Path) -> None:
    shared, config, rollout, targets = _setting(tmp_path)
    engine = make_engine(shared, config, start_runtime())
    optimise(engine, rollout, targets, config, start_runtime(), seed=(1, 1), policy_weight=0.0)
    moments = engine.state()
    wanted = {name for name, parameter in engine.parameters.items() if parameter.requires_grad}
    assert {key.removesuffix(".exp_avg") for key in moments if key.endswith(".exp_avg")} == wanted


def test_values_and_logprobs_do_not_depend_on_how_rows_are_batched(tmp_path: Path) -> None:
    shared, _, _, _ = _setting(tmp_path)
    shake(shared, "policy", "critic")
    base = tiny_base(tmp_path)
    ids = [base.text.encode_prompt(prompt.prompt) for prompt in prompts(8)]
    samples = sample_episodes(shared, base.text, ids, range(8), PpoConfig(**TINY), 1)
    results = [
        examine(shared, samples, Scores(torch.zeros(8)), PpoConfig(**{**TINY, **batching}), start_runtime())
        for batching in ({"micro_batch_size": 8}, {"micro_batch_size": 1}, {"micro_batch_tokens": 40})
    ]
    for name in ("logprobs", "reference_logprobs", "values", "entropies"):
        for other in results[1:]:
            assert torch.allclose(getattr(results[0], name), getattr(other, name), atol=1e-4), name


def test_advantages_are_whitened_over_response_tokens(tmp_path: Path) -> None:
    _, _, rollout, targets = _setting(tmp_path)
    inside = targets.advantages[rollout.response_mask]
    assert inside.mean().abs() < 1e-5
    assert inside.var(unbiased=False).item() == pytest.approx(1, abs=1e-3)


def test_layout_keeps_prompts_out_of_the_response_mask() -> None:
    ids, mask = lay_out([[5, 6, 7, 8], [5, 9]], [2, 1], [0, 1], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert mask.tolist() == [[False, False, True, True], [False, True, False, False]]


def test_each_epoch_visits_every_episode_once_in_a_new_order() -> None:
    plan = list(_plan(8, 4, 3, (1, 2, 0)))
    epochs = [[*plan[start], *plan[start + 1]] for start in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_prompts_are_drawn_without_replacement_in_each_pass() -> None:
    passes = [prompt_order(1, epoch, 12).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in passes)
    assert passes[0] != passes[1]


def test_learning_rates_fall_linearly_and_wait_for_the_critic() -> None:
    config = PpoConfig(**{**TINY, "updates": 4, "critic_warmup_updates": 1, "learning_rate": 1.0})
    assert [learning_rates(config, update)["policy"] for update in (1, 2, 3, 4)] == [0.0, 0.75, 0.5, 0.25]
    assert learning_rates(config, 1)["critic"] == config.critic_learning_rate


def _poisoned(bad_calls: range) -> Callable[[list[list[int]], list[list[int]]], Tensor]:
    calls: list[int] = []

    def score(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
        calls.append(len(response_ids))
        scores = even_share(prompt_ids, response_ids)
        return scores.index_fill(0, torch.tensor([0]), float("nan")) if len(calls) in bad_calls else scores

    return score


def test_bad_batches_in_a_row_stop_the_run_with_the_batch_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    # Call 1 is the look at the validation prompts, calls 2 and 3 are good batches.
    with pytest.raises(TrainingError, match=r"bad-batch-000004.*update-000001"):
        train(tmp_path, score=_poisoned(range(4, 9)), evaluate_every=99, updates=9, guard={"patience": 2})
    rows = [json.loads(line) for line in (tmp_path / "ppo" / "bad-batch-000004-rank0.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert rows[0]["score"] != rows[0]["score"]
    # The policy after update 2 sampled only bad batches; that after update 1 sampled a good one.
    assert {path.name for path in (tmp_path / "ppo" / "checkpoints").glob("update-*")} == {
        "update-000001",
        "update-000002",
        "update-000003",
    }


def test_one_bad_batch_is_left_out_and_counted(tmp_path: Path) -> None:
    outcome, _ = train(tmp_path, score=_poisoned(range(4, 5)), evaluate_every=99, updates=5, critic_warmup_updates=0)
    rows = read_metrics(tmp_path / "ppo" / "metrics.jsonl")
    assert outcome.bad_batches == 1
    assert [row["ppo/bad_batches"] for row in rows[1:]] == [0, 0, 1, 1, 1]
    assert outcome.optimizer_steps == 4 * 4  # 2 epochs of 2 minibatches in each of the other updates
    assert "ppo/policy_loss" not in rows[3]


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone_and_stops_the_run(tmp_path: Path) -> None:
    base = tiny_base(tmp_path, scale=3.0)
    shared = build_shared_base(base, tiny_roles())
    before = _adapter(shared, "policy"), _head(shared).detach().clone()
    _head(shared).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="a gradient is not finite"):
        train(tmp_path, shared=shared, critic_warmup_updates=0)
    assert torch.equal(before[1], _head(shared))
    assert all(torch.equal(before[0][key], value) for key, value in _adapter(shared, "policy").items())


@pytest.mark.parametrize(
    ("guard", "changes", "message"),
    [
        ({"max_kl_nats": 1e-6, "patience": 1}, {}, "max_kl_nats"),
        ({"max_ratio": 1.0001, "patience": 1}, {"learning_rate": 0.1}, "max_ratio"),
    ],
)
def test_a_collapse_stops_the_run(
    tmp_path: Path, guard: dict[str, float], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(tmp_path, guard=guard, updates=6, **changes)


def test_short_or_endless_responses_are_a_fault() -> None:
    progress = Progress(first_length=20.0, first_eos_rate=0.8)
    healthy = {"score_mean": 0.0, "kl_nats": 1.0, "length_tokens": 18.0, "eos_rate": 0.7}
    assert find_fault(healthy, progress, GuardConfig()) is None
    assert "min_length_share" in str(find_fault(healthy | {"length_tokens": 1.9}, progress, GuardConfig()))
    assert "min_eos_share" in str(find_fault(healthy | {"eos_rate": 0.07}, progress, GuardConfig()))
    rarely = Progress(first_length=20.0, first_eos_rate=0.4)
    assert find_fault(healthy | {"eos_rate": 0.01}, rarely, GuardConfig()) is None
    assert "kl_nats not finite" in str(find_fault(healthy | {"kl_nats": float("inf")}, progress, GuardConfig()))


def test_rloo_learns_without_a_critic(tmp_path: Path) -> None:
    base = tiny_base(tmp_path, scale=3.0)
    roles = {name: source for name, source in tiny_roles().items() if name != "critic"}
    shared = build_shared_base(base, roles)
    outcome, _ = train(
        tmp_path,
        shared=shared,
        advantage="rloo",
        samples_per_prompt=4,
        **LEARNS,
        updates=8,
        checkpoint_every=8,
    )
    rows = read_metrics(tmp_path / "ppo" / "metrics.jsonl")
    assert rows[-1]["ppo/score_mean"] > rows[1]["ppo/score_mean"] + 0.5
    assert outcome.optimizer_steps == 32
    assert not (tmp_path / "ppo" / "critic").exists()


def test_several_samples_of_a_prompt_follow_one_another(tmp_path: Path) -> None:
    config = PpoConfig(**{**TINY, "samples_per_prompt": 4})
    source = PromptSource(prompts(), tiny_base(tmp_path).text, config, 1, start_runtime())
    ids, keys = source.draw(2)
    assert keys == list(range(16, 32))
    groups = [ids[start : start + 4] for start in range(0, 16, 4)]
    assert all(row == group[0] for group in groups for row in group)
    assert len({tuple(group[0]) for group in groups}) == 4


def test_the_kl_coefficient_follows_its_target_and_survives_a_stop(tmp_path: Path) -> None:
    settings = {"kl_controller": "adaptive", "kl_target": 1e-3, "kl_horizon": 32, "critic_warmup_updates": 0}
    train(tmp_path, updates=6, **settings)
    rows = read_metrics(tmp_path / "ppo" / "metrics.jsonl")[1:]
    assert rows[0]["ppo/kl_coef"] == 0.1
    for before, after in itertools.pairwise(rows):
        error = min(max(before["ppo/kl_nats"] / 1e-3 - 1, -0.2), 0.2)
        assert after["ppo/kl_coef"] == pytest.approx(before["ppo/kl_coef"] * (1 + error * 16 / 32))
    assert rows[-1]["ppo/kl_coef"] > 0.1
    state = json.loads((tmp_path / "ppo" / "checkpoints" / "update-000006" / "state.json").read_text())
    assert state["kl_coef"] > rows[-1]["ppo/kl_coef"]


def test_epochs_stop_once_the_policy_is_far_from_the_rollout(tmp_path: Path) -> None:
    settings = {"updates": 3, "epochs": 4, "critic_warmup_updates": 0, "learning_rate": 3e-2}
    far, _ = train(tmp_path / "free", **settings)
    near, _ = train(tmp_path / "held", stop_epochs_kl=1e-4, **settings)
    assert far.optimizer_steps == 3 * 4 * 2
    # The first minibatch of an update has KL 0, the second is past the limit.
    assert near.optimizer_steps == 3 * 2


def test_a_score_shaped_by_preference_is_compared_with_reference_responses(tmp_path: Path) -> None:
    asked: list[list[list[int]]] = []

    def score(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
        asked.append(prompt_ids)
        return even_share(prompt_ids, response_ids)

    train(tmp_path, score=score, updates=2, score_shaping="preference", shaping_samples=3, evaluate_every=99)
    rows = read_metrics(tmp_path / "ppo" / "metrics.jsonl")
    # Validation, batch, its references, twice.
    assert [len(ids) for ids in asked[:5]] == [4, 16, 48, 16, 48]
    assert asked[2] == [ids for ids in asked[1] for _ in range(3)]
    # Without KL, the reward of a response is a probability, less 1 where it does not end by itself.
    assert rows[1]["ppo/reward_sum"] == pytest.approx(0.5 - (1 - rows[1]["ppo/eos_rate"]), abs=0.25)


def test_the_best_policy_on_validation_within_the_bound_is_kept(tmp_path: Path) -> None:
    outcome, _ = train(tmp_path, updates=4, evaluate_every=1, select="best", learning_rate=1e-2)
    rows = read_metrics(tmp_path / "ppo" / "metrics.jsonl")
    looks = {int(row["step"]): row["validation/score_mean"] for row in rows}
    assert outcome.selected_update == outcome.best_update == max(looks, key=lambda update: looks[update])
    kept = load_file(tmp_path / "ppo" / "adapter_model.safetensors")
    best = load_file(tmp_path / "ppo" / "best" / "adapter_model.safetensors")
    assert all(torch.equal(best[key], value) for key, value in kept.items())
    tight, _ = train(tmp_path / "tight", updates=4, evaluate_every=1, select="best", best_max_kl_nats=1e-9)
    assert tight.best_update == 0  # the untrained policy is the only one so near to the reference


def test_the_split_by_tokens_leaves_the_gradient_unchanged(tmp_path: Path) -> None:
    outcomes: list[dict[str, float]] = []
    for tokens in (None, 30):
        outcome, _ = train(tmp_path / str(tokens), updates=2, micro_batch_tokens=tokens)
        outcomes.append(read_metrics(outcome.policy / "metrics.jsonl")[-1])
    for name in ("ppo/policy_loss", "ppo/value_loss", "ppo/grad_norm", "ppo/score_mean"):
        assert outcomes[0][name] == pytest.approx(outcomes[1][name], abs=1e-4), name


def test_a_signal_ends_the_run_after_its_update_with_a_checkpoint(tmp_path: Path) -> None:
    calls = []

    def interrupting(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
        calls.append(1)
        if len(calls) == 3:  # a look at the validation prompts, update 1, update 2
            os.kill(os.getpid(), signal.SIGTERM)
        return even_share(prompt_ids, response_ids)

    with pytest.raises(StoppedBySignal, match="after update 2") as caught:
        train(tmp_path, score=interrupting, checkpoint_every=100)
    assert caught.value.exit_code == 143
    assert [path.name for path in (tmp_path / "ppo" / "checkpoints").iterdir()] == ["update-000002"]
    assert train(tmp_path, checkpoint_every=100)[0].updates == 4


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="never be trained"):
        train(tmp_path, critic_warmup_updates=4)
    with pytest.raises(ConfigError, match=r"ppo\.max_new_tokens"):
        train(tmp_path, max_new_tokens=120)


def test_a_reference_that_drifted_is_noticed_at_the_first_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.ppo.loop.same_adapter", lambda *_: True)
    base = tiny_base(tmp_path, scale=3.0)
    shared = build_shared_base(base, tiny_roles())
    shake(shared, "reference", std=0.3)
    with pytest.raises(AssertionError, match="KL to the reference"):
        train(tmp_path, shared=shared)


@pytest.mark.slow
def test_memory_is_flat_over_200_updates(tmp_path: Path) -> None:
    train(tmp_path, updates=200, batch_size=8, epochs=1, evaluate_every=50, checkpoint_every=100)
    rows = read_metrics(tmp_path / "ppo" / "metrics.jsonl")
    peaks = {int(row["step"]): row["memory/peak_resident_bytes"] for row in rows if row["step"]}
    # The whole model has .1 MB; one update's tensors kept alive would show as some 20 MB.
    assert peaks[200] - peaks[60] < 4e6
