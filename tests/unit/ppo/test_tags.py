"""Every field of the `ppo` section does what its tag says: `result` moves the outcome, `speed` and `output` do not."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlhf.config.fields import effect_of
from rlhf.config.training import GuardConfig, PpoConfig
from rlhf.errors import TrainingError
from rlhf.models.roles import build_shared_base
from tests.metrics import result_numbers
from tests.tiny import tiny_base, tiny_roles
from tests.unit.ppo.world import LEARNS, train

pytestmark = pytest.mark.slow

BRISK = {"critic_warmup_updates": 0, "learning_rate": 3e-2, "updates": 3}
BEST = {
    **LEARNS,
    "updates": 5,
    "select": "best",
    "evaluate_every": 1,
    "best_max_kl_nats": 2.0,
    "evaluation_prompts": 12,
}

# Field: what it needs to matter, and a value other than that.
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "advantage": ({"samples_per_prompt": 4}, "rloo"),
    "samples_per_prompt": ({}, 4),
    "critic": ({}, "head"),
    "updates": ({}, 3),
    "batch_size": ({}, 24),
    "minibatch_size": ({}, 16),
    "micro_batch_size": ({}, 2),
    "micro_batch_tokens": ({}, 30),
    "rollout_batch_size": ({}, 5),
    "epochs": ({}, 1),
    "stop_epochs_kl": (BRISK, 1e-5),
    "learning_rate": ({}, 1e-3),
    "critic_learning_rate": ({}, 1e-3),
    "critic_warmup_updates": ({}, 0),
    "linear_decay": ({}, False),
    "adam_epsilon": ({}, 1e-2),
    "max_grad_norm": ({}, 1e-3),
    "kl_coef": (BRISK, 5.0),
    "kl_controller": (BRISK, "adaptive"),
    "kl_target": ({**BRISK, "kl_controller": "adaptive", "kl_horizon": 16}, 1e-6),
    "kl_horizon": ({**BRISK, "kl_controller": "adaptive"}, 16),
    "clip_range": (BRISK, 1e-3),
    "value_clip_range": ({}, 1e-4),
    "value_coef": ({"critic": "head"}, 5.0),
    "discount": ({}, 0.5),
    "gae_lambda": ({}, 0.1),
    "whiten_advantages": ({}, False),
    "whiten_rewards": ({}, True),
    "score_clip": ({}, 0.1),
    "score_shaping": ({}, "preference"),
    "shaping_samples": ({"score_shaping": "preference"}, 2),
    "missing_eos_penalty": ({}, 0.0),
    "max_new_tokens": ({}, 3),
    "temperature": ({}, 0.5),
    "select": ({**BRISK, "best_max_kl_nats": 1e-9}, "best"),
    "best_max_kl_nats": (BEST, 1e-9),
    "evaluate_every": (BEST, 5),
    "evaluation_prompts": (BEST, 1),
    "checkpoint_every": ({}, 3),
    "gather_to_decode": ({}, True),
    "keep_checkpoints": ({}, 1),
}
GUARD_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_kl_nats": (BRISK, {"max_kl_nats": 1e-6}),
    "max_ratio": (BRISK, {"max_ratio": 1.0001}),
    "patience": (BRISK, {"patience": 1, "max_kl_nats": 1e-6}),
}
READ_BY_THE_STAGE = {"import_path", "start", "reference", "guard"}

Outcome = tuple[dict[str, Tensor], list[dict[str, float]]]


Train = Callable[..., Outcome]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train with the given changes, or return what was trained with them before."""
    made: dict[str, Outcome] = {}

    def get(**changes: Any) -> Outcome:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = _train(tmp_path_factory.mktemp("tags"), **changes)
        return made[key]

    return get


def _train(folder: Path, **changes: Any) -> Outcome:
    shared = None
    if changes.get("advantage") == "rloo":
        roles = {name: source for name, source in tiny_roles().items() if name != "critic"}
        shared = build_shared_base(tiny_base(folder, scale=3.0), roles)
    train(folder, shared=shared, **{"updates": 2, "evaluate_every": 2, **changes})
    return load_file(folder / "ppo" / "adapter_model.safetensors"), result_numbers(folder / "ppo")


def _differ(left: Outcome, right: Outcome, tolerance: float) -> bool:
    same = all(torch.allclose(left[0][key], right[0][key], atol=tolerance, rtol=0) for key in left[0])
    return not same


def test_every_field_is_looked_at() -> None:
    assert set(CASES) | READ_BY_THE_STAGE == {entry.name for entry in fields(PpoConfig)}
    shown_by_arithmetic = {"min_length_share", "min_eos_share"}  # test_short_or_endless_responses_are_a_fault
    assert set(GUARD_CASES) | shown_by_arithmetic == {entry.name for entry in fields(GuardConfig)}


@pytest.mark.parametrize("name", CASES)
def test_a_field_changes_what_its_tag_says(outcome: Train, name: str) -> None:
    context, other = CASES[name]
    before, after = outcome(**context), outcome(**{**context, name: other})
    effect = effect_of(PpoConfig, name)  # pyright: ignore[reportArgumentType]
    if effect == "result":
        assert _differ(before, after, 1e-6), f"{name}: nothing changed"
        return
    assert not _differ(before, after, 1e-4 if effect == "speed" else 0.0)
    for left, right in zip(before[1], after[1], strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert right[key] == pytest.approx(value, abs=1e-4 if effect == "speed" else 0.0), (name, key)


@pytest.mark.parametrize("name", GUARD_CASES)
def test_a_limit_of_the_guard_decides_which_batches_train(outcome: Train, name: str) -> None:
    context, limits = GUARD_CASES[name]
    assert effect_of(GuardConfig, name) == "result"  # pyright: ignore[reportArgumentType]
    free = outcome(**context)
    if name == "patience":
        outcome(**context, guard={**limits, "patience": 9})  # goes through
        with pytest.raises(TrainingError, match="max_kl_nats"):
            outcome(**context, guard=limits)
    else:
        assert _differ(free, outcome(**context, guard={**limits, "patience": 9}), 1e-6)
