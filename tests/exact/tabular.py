"""The project's rewards, advantages and losses on a table: a logit vector and a value for every prefix.

No model stands between the maths and its optimum, so whatever keeps a run from it is a fault of the maths. `MUTANTS`
are such faults, put into the functions as the product calls them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from rlhf.config.training import PpoConfig
from rlhf.ppo import optimise
from rlhf.ppo.kl import kl_k1, kl_k3
from rlhf.ppo.loop import learning_rates
from rlhf.ppo.losses import policy_loss, value_loss
from rlhf.ppo.rollout import Rollout
from rlhf.runtime import start_runtime
from rlhf.tensors import last_true_index, whiten
from tests.exact.world import (
    END,
    LENGTH,
    PREFIXES,
    VOCABULARY,
    Figures,
    compare,
    enumerate_responses,
    random_scores,
    random_table,
    table_logprobs,
)

KL_COEFS = (0.2, 0.35, 0.7)  # scores have standard deviation 1
Estimator = Literal["gae", "rloo"]
SAMPLES_PER_PROMPT = 8


def table_config(kl_coef: float, estimator: Estimator = "gae", *, episodes: int = 4096, **changes: Any) -> PpoConfig:
    """Return the settings of a run on the table.

    With 512 episodes an update the share of the gap closed is about .97 whatever the learning rate, epochs, lambda or
    whitening; with 4096 it is above .99. What was missing was samples of rare responses.
    """
    settings: dict[str, Any] = {
        "updates": 300,
        "advantage": estimator,
        "samples_per_prompt": SAMPLES_PER_PROMPT,
        "batch_size": episodes,
        "minibatch_size": episodes,
        "micro_batch_size": episodes,
        "epochs": 4,
        "learning_rate": 0.03,
        "critic_learning_rate": 0.03,
        "critic_warmup_updates": 0,
        "kl_coef": kl_coef,
        "score_clip": 100.0,
        "missing_eos_penalty": 0.0,
        "max_new_tokens": LENGTH,
    }
    return PpoConfig(**{**settings, **changes})


@dataclass
class Table:
    """What is trained, and what it is held to.

    Attributes:
        policy: Gives the logits after every prefix, [PREFIXES, VOCABULARY].
        values: Value of every prefix.
        reference: Logits of the reference.
        scores: Score of every response.
        generator: Draws episodes.
    """

    policy: Callable[[], Tensor]
    values: Tensor
    reference: Tensor
    scores: Tensor
    generator: torch.Generator


def train_table(config: PpoConfig, seed: int = 0) -> Figures:
    """Train a table in the world of a seed and return where it ends."""
    reference = random_table(seed)
    policy = reference.clone().requires_grad_()
    scores = random_scores(table_logprobs(reference), seed + 1000)
    return train(lambda: policy, [policy], reference, scores, config, seed)


def train(
    policy: Callable[[], Tensor],
    weights: list[Tensor],
    reference: Tensor,
    scores: Tensor,
    config: PpoConfig,
    seed: int,
) -> Figures:
    """Train whatever gives the logits after every prefix, beside a table of values, from where it stands."""
    values = torch.zeros(PREFIXES, requires_grad=True)
    table = Table(policy, values, reference.clone(), scores.float(), torch.Generator().manual_seed(seed + 2000))
    groups = [{"params": weights, "name": "policy"}, {"params": [values], "name": "critic"}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, eps=config.adam_epsilon, weight_decay=0.0)
    for update in range(1, config.updates + 1):
        rates = learning_rates(config, update)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        run_update(table, optimizer, config)
    return compare(table_logprobs(policy().detach()), table_logprobs(reference), scores, config.kl_coef)


def run_update(table: Table, optimizer: torch.optim.Optimizer, config: PpoConfig) -> None:
    """Roll out, make targets, and take one step per minibatch and epoch."""
    rollout, prefixes, tokens = roll_out(table, config.batch_size)
    targets = optimise.make_targets(rollout, config, start_runtime())
    old_logprobs, advantages = rollout.logprobs, targets.advantages
    for rows in torch.arange(config.batch_size).split(config.minibatch_size) * config.epochs:
        mask = rollout.response_mask[rows]
        logprobs = table.policy().log_softmax(dim=-1)[prefixes[rows], tokens[rows]]
        policy = policy_loss(logprobs, old_logprobs[rows], advantages[rows], mask, config.clip_range)
        values = table.values[prefixes[rows]]
        value = value_loss(values, rollout.values[rows], targets.returns[rows], mask, config.value_clip_range)
        optimizer.zero_grad()
        ((policy.loss + config.value_coef * value.loss) / mask.sum()).backward()
        optimizer.step()


@torch.no_grad()
def roll_out(table: Table, count: int) -> tuple[Rollout, Tensor, Tensor]:
    """Sample episodes from the table; return them with the prefix before each token, and the tokens."""
    present = table.policy()
    probabilities = present.softmax(dim=-1)
    nodes, alive = torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.bool)
    prefixes, tokens = torch.zeros(2, count, LENGTH, dtype=torch.long)
    mask = torch.zeros(count, LENGTH, dtype=torch.bool)
    for t in range(LENGTH):
        prefixes[:, t], mask[:, t] = nodes.where(alive, torch.zeros(())).long(), alive
        drawn = torch.multinomial(probabilities[prefixes[:, t]], 1, generator=table.generator).squeeze(1)
        tokens[:, t] = drawn * alive
        nodes = torch.where(alive, VOCABULARY * nodes + 1 + drawn, nodes)
        alive = alive & (drawn != END)
    rows = enumerate_responses().row_of[nodes]
    logprobs, reference = (logits.log_softmax(dim=-1)[prefixes, tokens] * mask for logits in (present, table.reference))
    rollout = Rollout(
        sequences=tokens.tolist(),
        prompt_lengths=[0] * count,
        response_mask=mask,
        ended=~alive,
        scores=table.scores[rows],
        logprobs=logprobs,
        reference_logprobs=reference,
        values=table.values[prefixes] * mask,
        entropies=torch.zeros(count, LENGTH),
        sampler_gap=0.0,
    )
    return rollout, prefixes, tokens


def _flip_kl(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(optimise, "kl_k1", lambda logprobs, reference: kl_k1(reference, logprobs))
    return {}


def _omit_kl(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(optimise, "kl_k1", lambda logprobs, reference: torch.zeros_like(logprobs))
    return {}


def _reward_k3(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(optimise, "kl_k1", kl_k3)
    return {}


def _clamp_kl(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(optimise, "kl_k1", lambda logprobs, reference: kl_k1(logprobs, reference).clamp_min(0.0))
    return {}


def _shift_rewards(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    def shifting(*arguments: Any, shift_mean: bool = True) -> Tensor:
        return whiten(*arguments, shift_mean=True)

    patch.setattr(optimise, "whiten", shifting)
    return {"whiten_rewards": True}


def _score_early(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    original = optimise.token_rewards

    def early(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
        column = (last_true_index(mask) - 2).clamp_min(0)[:, None]
        return original(torch.zeros_like(scores), kl, mask, kl_coef).scatter_add(1, column, scores[:, None])

    patch.setattr(optimise, "token_rewards", early)
    return {}


def _drift(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    original = run_update

    def drifting(table: Table, *arguments: Any) -> None:
        original(table, *arguments)
        table.reference.copy_(table.policy().detach())

    patch.setitem(globals(), "run_update", drifting)
    return {}


# Each breaks one thing through the patch it is given, and returns the settings that it needs.
MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], dict[str, Any]]] = {
    "sign of KL flipped": _flip_kl,
    "KL omitted": _omit_kl,
    "k3 in the reward": _reward_k3,
    "clamped KL": _clamp_kl,
    "reward whitening shifts the mean": _shift_rewards,
    "score two tokens early": _score_early,
    "reference drifts": _drift,
}


def train_mutant(name: str, kl_coef: float, seed: int = 0, episodes: int = 1024) -> Figures:
    """Train a table with one fault in the maths."""
    with pytest.MonkeyPatch.context() as patch:
        changes = MUTANTS[name](patch)
        return train_table(table_config(kl_coef, episodes=episodes, **changes), seed=seed)
