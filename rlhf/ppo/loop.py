"""The PPO loop on adapters (Ziegler et al. 2019; Ouyang et al. 2022; Huang et al. 2024, "The N+ details").

One update: roll out, score, reward, advantages, optimise, log, checkpoint. What is done on purpose:

- k1 KL inside the reward, unclamped, its coefficient fixed or adapted; the score at the end token, clipped, less a
  penalty for a missing end; advantages whitened over all response tokens of the batch; no mean shift of rewards;
- old logprobs and values recomputed by the trainer at the sampling temperature, so that the ratio is 1 before an
  update's first step: this is checked at every update, and so is KL 0 at the start where policy and reference agree;
- clipped policy and value losses, summed over tokens and divided by the minibatch's global token count;
- AdamW with epsilon 1e-5, global gradient clipping, learning rates falling linearly per update, no weight decay;
- the critic is trained alone in the first updates: policy loss times 0, policy learning rate 0;
- a batch that shows a collapse is left out; several in a row stop the run.

Not done, on purpose: weight averaging and a pretraining mix (optional in the papers).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf.config.training import PpoConfig
from rlhf.engine import TrainingEngine
from rlhf.errors import ConfigError, TrainingError
from rlhf.hashing import hash_value
from rlhf.models.adapters import same_adapter
from rlhf.models.base import hash_weights
from rlhf.models.roles import SharedBase
from rlhf.ppo.checkpoint import (
    BEST_FOLDER,
    Progress,
    find_checkpoints,
    fingerprint,
    load_checkpoint,
    mark_good,
    save_best,
    save_checkpoint,
    trained_roles,
)
from rlhf.ppo.guard import find_fault, stop_message
from rlhf.ppo.journal import Clock, append_samples, dump_batch, rewind_samples
from rlhf.ppo.kl import adapt_kl_coef
from rlhf.ppo.measure import describe, measure_memory, measure_update, measure_validation
from rlhf.ppo.optimise import Optimised, PpoLosses, Targets, make_targets, optimise
from rlhf.ppo.prompts import PromptSource, encode_prompts
from rlhf.ppo.rollout import Rollout, ScoreFn, examine, sample_episodes, score_references, score_samples
from rlhf.records import Prompt
from rlhf.runtime import Runtime
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
        policy: PEFT folder of the policy that `ppo.select` keeps.
        updates: Updates done.
        optimizer_steps: Optimiser steps done.
        selected_update: Update whose policy was kept.
        best_update: Update with the highest validation score at a KL within the bound; -1 where there is none.
        best_score: That score.
        bad_batches: Batches that the guard left out.
        base_hash: Hash of the base weights in memory, the same before and after.
    """

    policy: Path
    updates: int
    optimizer_steps: int
    selected_update: int
    best_update: int
    best_score: float
    bad_batches: int
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
    *,
    score_identity: str | None = None,
) -> PpoOutcome:
    """Train the policy's adapter and the critic; resume from the newest checkpoint in `folder` where there is one.

    Args:
        shared: Carries policy, reference and critic.
        text: Prompt format and end tokens.
        prompts: Prompts of rollouts, drawn without replacement in every pass.
        validation: Prompts that are only looked at.
        score_fn: Scores of (prompt, response) token ids.
        config: The `ppo` section.
        seed: Seed of the run.
        folder: Where checkpoints, samples and the final policy go.
        tracker: Takes the numbers.
        runtime: Processes.
        score_identity: Hash of what `score_fn` scores by, which a resumed run must share; None for the reward role.

    Raises:
        ConfigError: Batches do not divide, responses do not fit, or the policy would never be trained.
        StoppedBySignal: A signal arrived; a checkpoint was written.
        TrainingError: The collapse guard stopped the run.
    """
    trainer = _Trainer(
        shared, text, prompts, validation, score_fn, config, seed, folder, tracker, runtime, score_identity
    )
    with runtime.noticing_signals(), tracker.progress(config.updates, "ppo") as bar:
        bar.update(trainer.progress.update)
        if trainer.progress.update == 0:
            trainer.look_at_validation()
        while trainer.progress.update < config.updates:
            numbers = trainer.run_update()
            bar.update(1, score=numbers["ppo/score_mean"], kl=numbers["ppo/kl_nats"])
            if runtime.stop_requested and trainer.progress.update < config.updates:
                kept = trainer.checkpoint()
                raise runtime.stopped(f"stopped after update {trainer.progress.update}; run again to go on from {kept}")
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
        score_identity: str | None,
    ) -> None:
        self.shared, self.text, self.score_fn = shared, text, score_fn
        self.config, self.seed, self.folder = config, seed, folder
        self.tracker, self.runtime = tracker, runtime
        _require_trainable(config)
        runtime.share(config.minibatch_size, "ppo.minibatch_size")
        self.prompts = PromptSource(prompts, text, config, seed, runtime)
        self.validation = encode_prompts(validation[: config.evaluation_prompts], text, config)
        shared.to(runtime.device)
        self.engine = make_engine(shared, config, runtime)
        asked = [hash_value(ids) for ids in (*self.prompts.ids, *self.validation)]
        self.identity = fingerprint(config, seed, asked, score_identity)
        torch.manual_seed(seed)  # for scorers that draw; a checkpoint replaces it
        found = load_checkpoint(folder, shared, self.engine, self.identity, runtime.process_index)
        self.progress = found or Progress(
            kl_coef=config.kl_coef,
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
        config, progress, update, clock = self.config, self.progress, self.progress.update + 1, Clock()
        prompts, keys = self.prompts.draw(update)
        # 1. Roll out.
        whole = config.gather_to_decode
        with clock("rollout"), self.engine.gathered(wanted=whole):
            samples = sample_episodes(
                self.shared, self.text, prompts, keys, config, self.seed, in_step=self.runtime.in_step
            )
        # 2. Score whole responses.
        with clock("score"), self.engine.gathered(wanted=whole and config.score_shaping != "none"):
            scores = score_samples(self.score_fn, samples)
            compared = score_references(
                self.shared, self.text, samples, keys, self.score_fn, config, self.seed, in_step=self.runtime.in_step
            )
        # 3. Logprobs, reference logprobs and values under the weights that sampled.
        with clock("examine"):
            rollout = examine(self.shared, samples, scores, config, self.runtime)
            rollout.compared_scores = compared
        # 4. Rewards and advantages.
        targets = make_targets(rollout, config, self.runtime, kl_coef=progress.kl_coef)
        numbers = {f"ppo/{name}": value for name, value in describe(rollout, self.runtime).items()}
        # 5. Optimise, unless the batch shows a collapse.
        with clock("optimise"):
            numbers |= self._learn(update, rollout, targets, numbers)
        progress.update = update
        # 6. Look at the validation prompts, and log.
        if update % config.evaluate_every == 0 or update == config.updates:
            with clock("validation"):
                numbers |= self._validate()
        tokens = self.runtime.sum(rollout.response_mask.sum().double()).item()
        numbers |= clock.numbers() | {"time/response_tokens_per_s": tokens / clock.total()}
        numbers |= measure_memory(self.runtime)
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
        """Check that the base did not move, and write the policy that is kept and the critic."""
        progress, best = self.progress, self.folder / BEST_FOLDER
        after = hash_weights(self.shared.model)
        assert after == progress.base_hash, f"base weights moved: {progress.base_hash[:12]} to {after[:12]}"
        selected = progress.update
        if self.config.select == "best" and progress.best_update >= 0:
            self.shared.load_role("policy", best)
            selected = progress.best_update
        for role in trained_roles(self.shared):
            folder = self.folder if role == "policy" else self.folder / role
            self.shared.save_role(role, folder, write=self.runtime.is_main)
        self.runtime.wait()
        return PpoOutcome(
            policy=self.folder,
            updates=progress.update,
            optimizer_steps=progress.optimizer_steps,
            selected_update=selected,
            best_update=progress.best_update,
            best_score=progress.best_score,
            bad_batches=progress.bad_batches,
            base_hash=progress.base_hash,
        )

    def _learn(self, update: int, rollout: Rollout, targets: Targets, numbers: dict[str, float]) -> dict[str, float]:
        """Optimise on a batch and move the KL coefficient, or count the batch as bad; return what was seen."""
        config, progress = self.config, self.progress
        seen = {name.removeprefix("ppo/"): value for name, value in numbers.items()}
        fault = find_fault(seen, progress, config.guard)
        stepped = fault is None
        rates = learning_rates(config, update)
        found = {"ppo/learning_rate": rates["policy"], "ppo/kl_coef": progress.kl_coef}
        if fault is None:
            self._note_good_batch(update, seen)
            self.engine.set_learning_rates(rates)
            done = optimise(
                self.engine,
                rollout,
                targets,
                config,
                self.runtime,
                seed=(self.seed, update),
                policy_weight=float(update > warmup_updates(config)),
            )
            fault = done.fault
            progress.optimizer_steps += len(done.grad_norms)
            if fault is None:
                found |= measure_update(rollout, targets, done, self.runtime)
                self._check_invariants(update, numbers | found, done)
        progress.bad_in_a_row = 0 if fault is None else progress.bad_in_a_row + 1
        if fault is not None:
            self._leave_out(update, fault, rollout, targets, stepped=stepped)
        elif config.kl_controller == "adaptive" and update > warmup_updates(config):
            progress.kl_coef = adapt_kl_coef(
                progress.kl_coef, seen["kl_nats"], config.kl_target, config.batch_size, config.kl_horizon
            )
        return found | {"ppo/bad_batches": float(progress.bad_batches)}

    def _note_good_batch(self, update: int, seen: dict[str, float]) -> None:
        """Remember what the first batch looked like, and that the policy before this update samples good ones."""
        if update == 1:
            self.progress.first_length, self.progress.first_eos_rate = seen["length_tokens"], seen["eos_rate"]
        if self.runtime.is_main:
            mark_good(self.folder, update - 1)

    def _leave_out(self, update: int, fault: str, rollout: Rollout, targets: Targets, *, stepped: bool) -> None:
        """Write a bad batch to disk; stop after several in a row.

        Under DeepSpeed a fault that only the optimisation shows stops at once: its step has been taken.
        """
        progress, guard = self.progress, self.config.guard
        path = self.folder / f"bad-batch-{update:06d}-rank{self.runtime.process_index}.jsonl"
        dump_batch(path, rollout, targets)
        progress.bad_batches += 1
        if progress.bad_in_a_row >= guard.patience or (stepped and self.runtime.zero):
            raise TrainingError(stop_message(update, fault, path, self.folder))
        log.warning("update %d left out: %s; the batch is in %s", update, fault, path)

    def _validate(self) -> dict[str, float]:
        if not self.validation:
            return {}
        with self.engine.gathered(wanted=self.config.gather_to_decode):
            numbers, rows = measure_validation(
                self.shared, self.text, self.validation, self.score_fn, self.config, self.seed, self.runtime
            )
        score, progress = numbers["validation/score_mean"], self.progress
        within = numbers["validation/kl_nats"] <= self.config.best_max_kl_nats
        if within and (progress.best_update < 0 or score > progress.best_score):
            progress.best_update, progress.best_score = progress.update, score
            save_best(self.folder, self.shared, self.runtime)
        if self.runtime.is_main:
            append_samples(self.folder, self.progress.update, rows)
        return numbers

    def _check_invariants(self, update: int, numbers: dict[str, float], done: Optimised) -> None:
        """Hold the run to what must be true before an update's first step."""
        dtype = self.shared.lm_head.weight.dtype
        gap = float(done.largest_deviation) if dtype == torch.float32 else abs(numbers["ppo/ratio_first"] - 1)
        limit = RATIO_TOLERANCE.get(dtype, 1e-2)
        assert gap <= limit, f"update {update}: first ratio is off 1 by {gap:.2g} (limit {limit})"
        if update == 1 and self.progress.starts_at_reference:
            kl = numbers["ppo/kl_nats"]
            assert abs(kl) < START_KL_TOLERANCE, f"KL to the reference is {kl:.2g} nats before the first step"


def make_engine(shared: SharedBase, config: PpoConfig, runtime: Runtime) -> TrainingEngine:
    """Wrap the shared base, its losses and one optimiser with a group for the policy and one for the critic."""
    groups = [{"name": role, "named": shared.trainable(role)} for role in trained_roles(shared)]
    listed = {id(parameter) for group in groups for _, parameter in group["named"]}
    flagged = {id(parameter) for parameter in shared.parameters() if parameter.requires_grad}
    assert listed == flagged, f"{len(flagged)} parameters want gradients, {len(listed)} belong to policy and critic"
    # Dropout rates are 0, so the mode matters to gradient checkpointing alone, which works in training mode only.
    shared.train(shared.gradient_checkpointing)
    return TrainingEngine(runtime, PpoLosses(shared, config), groups, config.max_grad_norm, config.adam_epsilon)


def learning_rates(config: PpoConfig, update: int) -> dict[str, float]:
    """Return the learning rate of each group in an update (1, 2, ...): linear per update, 0 for a waiting policy."""
    factor = 1.0 - (update - 1) / config.updates if config.linear_decay else 1.0
    waiting = update <= warmup_updates(config)
    return {
        "policy": 0.0 if waiting else config.learning_rate * factor,
        "critic": config.critic_learning_rate * factor,
    }


def warmup_updates(config: PpoConfig) -> int:
    """Return how many updates train the critic alone."""
    return config.critic_warmup_updates if config.advantage == "gae" else 0


def _require_trainable(config: PpoConfig) -> None:
    if warmup_updates(config) >= config.updates:
        raise ConfigError(
            f"ppo.critic_warmup_updates is {config.critic_warmup_updates} and ppo.updates is {config.updates}: the "
            "policy would never be trained; lower the first"
        )
