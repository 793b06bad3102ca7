"""The PPO loop on adapters (Ziegler et al. 2019; Ouyang et al. 2022; Huang et al. 2024, "The N+ details").

One update: roll out, score, reward, advantages, optimise, log, checkpoint. What is done on purpose:

- k1 KL inside the reward, unclamped, with a fixed coefficient; the score at the end token, clipped, less a penalty
  for a missing end; advantages whitened over all response tokens of the batch; no mean shift of rewards;
- old logprobs and values recomputed by the trainer at the sampling temperature, so that the ratio is 1 before an
  update's first step: this is checked at every update, and so is KL 0 at the start where policy and reference agree;
- clipped policy and value losses, summed over tokens and divided by the minibatch's global token count;
- AdamW with epsilon 1e-5, global gradient clipping, learning rates falling linearly per update, no weight decay;
- the critic is trained alone in the first updates: policy loss times 0, policy learning rate 0.

Not done, on purpose: early stopping of epochs on approximate KL, weight averaging and a pretraining mix (they are
optional in the papers), and skipping bad batches: a loss that is not finite stops the run with its batch on disk.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from rlhf.config.training import PpoConfig
from rlhf.errors import ConfigError, DataError, TrainingError
from rlhf.hashing import hash_value
from rlhf.models.adapters import same_adapter
from rlhf.models.base import hash_weights
from rlhf.models.roles import SharedBase
from rlhf.ppo.checkpoint import Progress, find_checkpoints, fingerprint, load_checkpoint, save_checkpoint
from rlhf.ppo.journal import Clock, append_samples, dump_batch, rewind_samples
from rlhf.ppo.measure import measure_memory, measure_update, measure_validation
from rlhf.ppo.optimise import Optimised, PpoLosses, Targets, make_targets, optimise
from rlhf.ppo.rollout import Rollout, ScoreFn, examine, sample_episodes, score_samples
from rlhf.records import Prompt
from rlhf.runtime import Runtime, StoppedBySignal, TrainingEngine
from rlhf.text import TextFormat
from rlhf.tracking import Tracker

START_KL_TOLERANCE = 1e-4
# Largest |ratio - 1| (fp32), mean |ratio - 1| (bf16), before an update's first optimiser step.
RATIO_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PpoOutcome:
    """What training gave.

    Attributes:
        policy: PEFT folder of the final policy (the last one, not the best on validation).
        critic: Folder of the final critic.
        updates: Updates done.
        optimizer_steps: Optimiser steps done.
        final: The last update's numbers.
        best_update: Update with the highest validation score, for the reader: proxies rise while quality falls, so it
            is no reason to choose it.
        best_score: That score.
        base_hash: Hash of the base weights in memory, the same before and after.
    """

    policy: Path
    critic: Path
    updates: int
    optimizer_steps: int
    final: dict[str, float]
    best_update: int
    best_score: float
    base_hash: str


def train_ppo(
    shared: SharedBase,
    text: TextFormat,
    prompts: Sequence[Prompt],
    validation: Sequence[Prompt],
    score_fn: ScoreFn,
    config: PpoConfig,
    seed: int,
    folder: Path,
    tracker: Tracker,
    runtime: Runtime,
) -> PpoOutcome:
    """Train the policy's adapter and the critic; resume from the newest checkpoint in `folder` where there is one.

    Args:
        shared: Carries policy, reference and critic.
        text: Prompt format and end tokens.
        prompts: Prompts of rollouts, drawn without replacement in every pass.
        validation: Prompts that are only looked at.
        score_fn: Normalised scores of (prompt, response) token ids.
        config: The `ppo` section.
        seed: Seed of the run.
        folder: Where checkpoints, samples and the final policy go.
        tracker: Takes the numbers.
        runtime: Processes.

    Raises:
        ConfigError: Batches do not divide, responses do not fit, or the policy would never be trained.
        StoppedBySignal: A signal arrived; a checkpoint was written.
        TrainingError: A loss or gradient is not finite.
    """
    trainer = _Trainer(shared, text, prompts, validation, score_fn, config, seed, folder, tracker, runtime)
    with runtime.noticing_signals(), tracker.progress(config.updates, "ppo") as bar:
        bar.update(trainer.progress.update)
        if trainer.progress.update == 0:
            trainer.look_at_validation()
        while trainer.progress.update < config.updates:
            numbers = trainer.run_update()
            bar.update(1, score=numbers["ppo/score_mean"], kl=numbers["ppo/kl_nats"])
            if runtime.stop_requested and trainer.progress.update < config.updates:
                kept = trainer.checkpoint()
                raise StoppedBySignal(f"stopped after update {trainer.progress.update}; run again to go on from {kept}")
    return trainer.finish()


class _Trainer:
    """State of one training: the engine, the counters, and the prompts as token ids."""

    def __init__(
        self,
        shared: SharedBase,
        text: TextFormat,
        prompts: Sequence[Prompt],
        validation: Sequence[Prompt],
        score_fn: ScoreFn,
        config: PpoConfig,
        seed: int,
        folder: Path,
        tracker: Tracker,
        runtime: Runtime,
    ) -> None:
        self.shared, self.text, self.score_fn = shared, text, score_fn
        self.config, self.seed, self.folder = config, seed, folder
        self.tracker, self.runtime = tracker, runtime
        self.prompts = _encode(prompts, text, config, "ppo")
        self.validation = _encode(validation[: config.evaluation_prompts], text, config, "validation")
        self.share = _check(config, runtime)
        shared.to(runtime.device)
        self.engine = make_engine(shared, config, runtime)
        self.identity = fingerprint(config, seed, [hash_value(ids) for ids in (*self.prompts, *self.validation)])
        self.final: dict[str, float] = {}
        torch.manual_seed(seed)  # for scorers that draw; a checkpoint replaces it
        found = load_checkpoint(folder, shared, self.engine, self.identity)
        self.progress = found or Progress(
            starts_at_reference=same_adapter(shared.peft_model, "policy", "reference"),
            base_hash=hash_weights(shared.model),
        )
        tracker.rewind(self.progress.update if found else -1)
        if runtime.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            rewind_samples(folder, self.progress.update if found else -1)
        if found:
            log.info("resuming after update %d", found.update)

    def run_update(self) -> dict[str, float]:
        """Run one update and return its numbers."""
        config, update, clock = self.config, self.progress.update + 1, Clock()
        prompts, keys = self._draw(update)
        # 1. Roll out.
        with clock("rollout"):
            samples = sample_episodes(self.shared, self.text, prompts, keys, config, self.seed)
        # 2. Score whole responses.
        with clock("score"):
            scores = score_samples(self.score_fn, samples)
        # 3. Logprobs, reference logprobs and values under the weights that sampled.
        with clock("examine"):
            rollout = examine(self.shared, samples, scores, config)
        # 4. Rewards and advantages.
        targets = make_targets(rollout, config, self.runtime)
        self._require_finite(update, rollout, targets, torch.stack([scores.sum(), targets.advantages.sum()]))
        # 5. Optimise.
        policy_weight = 0.0 if update <= config.critic_warmup_updates else 1.0
        rates = learning_rates(config, update)
        self.engine.set_learning_rates(rates)
        with clock("optimise"):
            done = optimise(
                self.engine,
                rollout,
                targets,
                config,
                self.runtime,
                seed=(self.seed, update),
                policy_weight=policy_weight,
            )
        self._require_finite(update, rollout, targets, torch.cat([done.total, done.grad_norms]))
        self.progress.update, self.progress.optimizer_steps = (
            update,
            self.progress.optimizer_steps + len(done.grad_norms),
        )
        # 6. Log, and look at the validation prompts.
        numbers = measure_update(rollout, targets, done, self.runtime) | {"ppo/learning_rate": rates["policy"]}
        self._check_invariants(numbers, done)
        if update % config.evaluate_every == 0 or update == config.updates:
            with clock("validation"):
                numbers |= self._validate()
        tokens = self.runtime.sum(rollout.response_mask.sum().double()).item()
        numbers |= (
            clock.numbers() | {"time/response_tokens_per_s": tokens / clock.total()} | measure_memory(self.runtime)
        )
        self.final = numbers
        self.tracker.log(update, numbers)
        # 7. Checkpoint.
        if update % config.checkpoint_every == 0 or update == config.updates:
            self.checkpoint()
        return numbers

    def look_at_validation(self) -> None:
        """Measure the untrained policy, as update 0."""
        self.tracker.log(0, self._validate())

    def checkpoint(self) -> Path:
        """Publish a checkpoint of the present state, unless it has been."""
        newest = find_checkpoints(self.folder)
        if newest and newest[-1].name == f"update-{self.progress.update:06d}":
            return newest[-1]
        return save_checkpoint(
            self.folder,
            self.shared,
            self.engine,
            self.progress,
            self.runtime,
            identity=self.identity,
            keep=self.config.keep_checkpoints,
        )

    def finish(self) -> PpoOutcome:
        """Check that the base did not move, and write the final policy and critic."""
        after = hash_weights(self.shared.model)
        assert after == self.progress.base_hash, f"base weights moved: {self.progress.base_hash[:12]} to {after[:12]}"
        self.shared.save_role("policy", self.folder, write=self.runtime.is_main)
        self.shared.save_role("critic", self.folder / "critic", write=self.runtime.is_main)
        self.runtime.wait()
        progress = self.progress
        return PpoOutcome(
            policy=self.folder,
            critic=self.folder / "critic",
            updates=progress.update,
            optimizer_steps=progress.optimizer_steps,
            final=self.final,
            best_update=progress.best_update,
            best_score=progress.best_score,
            base_hash=progress.base_hash,
        )

    def _draw(self, update: int) -> tuple[list[list[int]], list[int]]:
        """Return this process's prompts of an update, and the numbers of their episodes."""
        first = (update - 1) * self.config.batch_size + self.runtime.process_index * self.share
        episodes = range(first, first + self.share)
        count = len(self.prompts)
        rows = [int(_order(self.seed, episode // count, count)[episode % count]) for episode in episodes]
        return [self.prompts[row] for row in rows], list(episodes)

    def _validate(self) -> dict[str, float]:
        if not self.validation:
            return {}
        numbers, rows = measure_validation(
            self.shared, self.text, self.validation, self.score_fn, self.config, self.seed, self.runtime
        )
        if self.progress.best_update < 0 or numbers["validation/score_mean"] > self.progress.best_score:
            self.progress.best_update, self.progress.best_score = self.progress.update, numbers["validation/score_mean"]
        if self.runtime.is_main:
            append_samples(self.folder, self.progress.update, rows)
        return numbers

    def _check_invariants(self, numbers: dict[str, float], done: Optimised) -> None:
        """Hold the run to what must be true before an update's first step."""
        dtype = self.shared.lm_head.weight.dtype
        gap = float(done.largest_deviation) if dtype == torch.float32 else abs(numbers["ppo/ratio_first"] - 1)
        limit = RATIO_TOLERANCE.get(dtype, 1e-2)
        assert gap <= limit, f"update {self.progress.update}: first ratio is off 1 by {gap:.2g} (limit {limit})"
        if self.progress.update == 1 and self.progress.starts_at_reference:
            kl = numbers["ppo/kl_nats"]
            assert abs(kl) < START_KL_TOLERANCE, f"KL to the reference is {kl:.2g} nats before the first step"

    def _require_finite(self, update: int, rollout: Rollout, targets: Targets, values: torch.Tensor) -> None:
        if not self.runtime.any(not bool(torch.isfinite(values).all())):
            return
        path = self.folder / f"bad-batch-{update:06d}-rank{self.runtime.process_index}.jsonl"
        dump_batch(path, rollout, targets)
        kept = find_checkpoints(self.folder)
        raise TrainingError(
            f"update {update}: a score, loss or gradient is not finite; the batch is in {path}, the last good checkpoint "
            f"is {kept[-1] if kept else 'none'}; lower ppo.learning_rate or ppo.critic_learning_rate, or look at the scores"
        )


def make_engine(shared: SharedBase, config: PpoConfig, runtime: Runtime) -> TrainingEngine:
    """Wrap the shared base, its losses and one optimiser with a group for the policy and one for the critic."""
    groups = [{"name": role, "named": shared.trainable(role)} for role in ("policy", "critic")]
    listed = {id(parameter) for group in groups for _, parameter in group["named"]}
    flagged = {id(parameter) for parameter in shared.parameters() if parameter.requires_grad}
    assert listed == flagged, f"{len(flagged)} parameters want gradients, {len(listed)} belong to policy and critic"
    # Dropout rates are 0, so the mode matters to gradient checkpointing alone, which works in training mode only.
    shared.train(shared.gradient_checkpointing)
    return TrainingEngine(runtime, PpoLosses(shared, config), groups, config.max_grad_norm, config.adam_epsilon)


def learning_rates(config: PpoConfig, update: int) -> dict[str, float]:
    """Return the learning rate of each group in an update (1, 2, ...): linear per update, 0 for a waiting policy."""
    factor = 1.0 - (update - 1) / config.updates if config.linear_decay else 1.0
    waiting = update <= config.critic_warmup_updates
    return {
        "policy": 0.0 if waiting else config.learning_rate * factor,
        "critic": config.critic_learning_rate * factor,
    }


def _check(config: PpoConfig, runtime: Runtime) -> int:
    """Return the episodes per process and update."""
    if config.critic_warmup_updates >= config.updates:
        raise ConfigError(
            f"ppo.critic_warmup_updates is {config.critic_warmup_updates} and ppo.updates is {config.updates}: the "
            "policy would never be trained; lower the first"
        )
    runtime.share(config.minibatch_size, "ppo.minibatch_size")
    return runtime.share(config.batch_size, "ppo.batch_size")


def _encode(prompts: Sequence[Prompt], text: TextFormat, config: PpoConfig, split: str) -> list[list[int]]:
    if not prompts and split == "ppo":
        raise DataError("there are no prompts in the ppo split")
    ids = [text.encode_prompt(prompt.prompt) for prompt in prompts]
    if ids:
        text.require_room(config.max_new_tokens, "ppo.max_new_tokens", max(map(len, ids)))
    return ids


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of prompts in one pass."""
    return np.random.default_rng((seed, epoch)).permutation(count)
