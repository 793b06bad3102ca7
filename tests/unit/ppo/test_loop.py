"""The PPO loop on a tiny transformer: it learns, it holds its invariants, it stops where it must."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.config.training import PpoConfig
from rlhf.errors import ConfigError, TrainingError
from rlhf.models.adapters import adapter_parameters
from rlhf.models.base import hash_weights
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.ppo.loop import _order, learning_rates, make_engine
from rlhf.ppo.optimise import Targets, _plan, make_targets, optimise
from rlhf.ppo.rollout import Rollout, examine, lay_out, micro_batches, sample_episodes, score_samples
from rlhf.runtime import StoppedBySignal, start_runtime
from rlhf.tracking import read_metrics
from tests.tiny import shake, tiny_base, tiny_roles
from tests.unit.ppo.world import TINY, even_share, prompts, train


def _setting(folder: Path, **changes: object) -> tuple[SharedBase, PpoConfig, Rollout, Targets]:
    config = PpoConfig(**{**TINY, **changes})
    base = tiny_base(folder, scale=3.0)
    shared = build_shared_base(base, tiny_roles(config.critic))
    ids = [base.text.encode_prompt(prompt.prompt) for prompt in prompts(8)]
    samples = sample_episodes(shared, base.text, ids, range(8), config, 1)
    rollout = examine(shared, samples, score_samples(even_share, samples), config)
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
        updates=8,
        batch_size=32,
        minibatch_size=32,
        epochs=4,
        kl_coef=0.02,
        learning_rate=1e-2,
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
        examine(shared, samples, torch.zeros(8), PpoConfig(**{**TINY, "minibatch_size": 8, "micro_batch_size": size}))
        for size in (8, 1)
    ]
    for name in ("logprobs", "reference_logprobs", "values", "entropies"):
        assert torch.allclose(getattr(results[0], name), getattr(results[1], name), atol=1e-4), name


def test_advantages_are_whitened_over_response_tokens(tmp_path: Path) -> None:
    _, _, rollout, targets = _setting(tmp_path)
    inside = targets.advantages[rollout.response_mask]
    assert inside.mean().abs() < 1e-5
    assert inside.var(unbiased=False).item() == pytest.approx(1, abs=1e-3)


def test_layout_keeps_prompts_out_of_the_response_mask() -> None:
    ids, mask = lay_out([[5, 6, 7, 8], [5, 9]], [2, 1], [0, 1], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert mask.tolist() == [[False, False, True, True], [False, True, False, False]]


def test_micro_batches_group_neighbouring_lengths() -> None:
    sequences = [[0] * length for length in (9, 1, 8, 2)]
    assert list(micro_batches(sequences, [0, 1, 2, 3], 2)) == [[1, 3], [2, 0]]


def test_each_epoch_visits_every_episode_once_in_a_new_order() -> None:
    plan = list(_plan(8, 4, 3, (1, 2, 0)))
    epochs = [[*plan[start], *plan[start + 1]] for start in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_prompts_are_drawn_without_replacement_in_each_pass() -> None:
    passes = [_order(1, epoch, 12).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in passes)
    assert passes[0] != passes[1]


def test_learning_rates_fall_linearly_and_wait_for_the_critic() -> None:
    config = PpoConfig(**{**TINY, "updates": 4, "critic_warmup_updates": 1, "learning_rate": 1.0})
    assert [learning_rates(config, update)["policy"] for update in (1, 2, 3, 4)] == [0.0, 0.75, 0.5, 0.25]
    assert learning_rates(config, 1)["critic"] == config.critic_learning_rate


def test_a_score_that_is_not_finite_stops_the_run_with_its_batch(tmp_path: Path) -> None:
    calls = []

    def poisoned(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Tensor:
        calls.append(len(response_ids))
        scores = even_share(prompt_ids, response_ids)
        return scores.index_fill(0, torch.tensor([0]), float("nan")) if len(calls) == 4 else scores

    with pytest.raises(TrainingError, match=r"bad-batch-000003.*update-000002"):
        train(tmp_path, score=poisoned, evaluate_every=99)
    rows = [json.loads(line) for line in (tmp_path / "ppo" / "bad-batch-000003-rank0.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert rows[0]["score"] != rows[0]["score"]
    assert (tmp_path / "ppo" / "checkpoints" / "update-000002").is_dir()


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    base = tiny_base(tmp_path, scale=3.0)
    shared = build_shared_base(base, tiny_roles())
    _head(shared).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="not finite"):
        train(tmp_path, shared=shared)


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
