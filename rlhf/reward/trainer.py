"""Train a reward model on preference pairs.

Of a role on the shared base only the adapter and its head move; a sequence classifier with a base of its own learns by the same
loop, by an adapter or as a whole.

Every candidate of a prompt is forwarded once and all its pairs share one optimiser step. Where the base's attention allows
it, the prompt too is forwarded once: its candidates stand behind it in one row. The loss is in `rlhf.reward.losses`. A step's
loss is divided by the sum of its pairs' balanced weights over all micro-batches and processes, so the gradient does not
depend on how the step is cut. The data order is a pure function of seed and epoch and nothing is drawn while training, so a
killed run goes on from its last checkpoint to the same bytes.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf.batching import even_out, micro_batches
from rlhf.checkpoints import Checkpoints, Progress, evaluation_steps, restore
from rlhf.config.training import RewardConfig, require_shares
from rlhf.engine import TrainingEngine
from rlhf.errors import ConfigError, TrainingError
from rlhf.models.adapters import fill, read_safetensors
from rlhf.models.base import gathered
from rlhf.models.classifiers import ClassifierText
from rlhf.models.roles import SharedBase
from rlhf.records import PreferencePair
from rlhf.reward.calibration import Calibration, JudgedPairs, calibrate
from rlhf.reward.examples import (
    RankedPrompt,
    check_disjoint,
    collate,
    emphasise,
    encode_pairs,
    pair_batch,
    shuffle_labels,
)
from rlhf.reward.losses import PairBatch, each_head, preference_loss
from rlhf.reward.model import CHECKPOINTS, RewardInfo, RewardModel
from rlhf.reward.own_base import OwnRewardModel
from rlhf.runtime import Runtime
from rlhf.text import TextFormat
from rlhf.tracking import Tracker

ADAM_EPSILON = 1e-8
_WEIGHTS, _OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardOutcome:
    """What became of reward training; losses in nats per pair (a coin has log 2 = .693)."""

    info: RewardInfo
    calibration: Calibration
    steps: int
    best_step: int
    prompts: int
    pairs: int
    held_out_prompts: int
    held_out_pairs: int
    initial_loss: float
    held_out_loss: float
    stopped_early: bool


def train_reward(
    shared: SharedBase,
    text: TextFormat,
    pairs: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    config: RewardConfig,
    seed: int,
    folder: Path,
    tracker: Tracker,
    runtime: Runtime,
) -> RewardOutcome:
    """Train the role `reward` of a shared base; the best state is in place afterwards.

    Args:
        shared: The base with a trainable role `reward` and its head (see `build_reward_base`); nothing else learns.
        text: The prompt format.
        pairs: What to learn from. Candidates are known by their texts.
        held_out: Pairs of other prompts: they choose the state that is kept, and measure it.
        config: Hyper-parameters.
        seed: Seed of the data order and of the shuffled control.
        folder: Checkpoints lie in a hidden folder in it until `publish_reward` removes them.
        tracker: Where numbers go.
        runtime: Processes and devices.

    Raises:
        DataError: No pairs, a candidate with too many tokens, or a prompt on both sides.
        TrainingError: A loss, gradient or score is not finite.
        StoppedBySignal: The process was told to stop; a checkpoint was written.
    """
    model = RewardModel(shared, config.pooling)
    info = RewardInfo(
        pooling=config.pooling,
        heads=config.heads,
        uncertainty_penalty=config.uncertainty_penalty,
        base_weights_hash=shared.base_hash,
        prompt_format_hash=text.hash,
    )
    return train_model(model, info, text, pairs, held_out, config, seed, folder, tracker, runtime)


def train_model(
    model: RewardModel | OwnRewardModel,
    info: RewardInfo,
    text: TextFormat | ClassifierText,
    pairs: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    config: RewardConfig,
    seed: int,
    folder: Path,
    tracker: Tracker,
    runtime: Runtime,
) -> RewardOutcome:
    """Train a reward model of either kind; as `train_reward`, with what is known of the model before it is trained."""
    train = encode_pairs(text, pairs, config.max_tokens, "training")
    truth = encode_pairs(text, held_out, config.max_tokens, "held-out")
    check_disjoint(train, truth)
    judged = truth
    if config.control == "shuffled":
        # The choice of the best state must not see the truth either.
        train, judged = shuffle_labels(train, seed), shuffle_labels(truth, seed)
    train = emphasise(train, config.heads, seed)
    # Layers recompute their activations in training mode only; nothing drops out in either.
    model.to(runtime.device).train(model.recomputes)
    before = model.hash_frozen()
    training = _Training(model, text.pad_token_id, train, judged, config, seed, folder, tracker, runtime)
    progress = training.run()
    assert model.hash_frozen() == before, "reward training moved the weights of the base"
    calibration = calibrate(training.judge(truth))
    model.eval()
    return RewardOutcome(
        info=replace(
            info,
            temperature=calibration.temperature,
            control=config.control,
            calibration=calibration.to_json(),
        ),
        calibration=calibration,
        steps=progress.step,
        best_step=progress.best_step,
        prompts=len(train),
        pairs=sum(len(prompt.chosen) for prompt in train),
        held_out_prompts=len(truth),
        held_out_pairs=sum(len(prompt.chosen) for prompt in truth),
        initial_loss=progress.initial_loss or math.nan,
        held_out_loss=progress.best_loss,
        stopped_early=progress.step < progress.total,
    )


def learning_rate_factor(step: int, total: int, warmup_share: float) -> float:
    """Return the share of the peak learning rate in step 0, 1, ...: a linear rise, then a linear fall towards 0."""
    warmup = math.ceil(warmup_share * total)
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(1, total - warmup)


def prompts_of_step(step: int, count: int, batch: int, seed: int) -> list[int]:
    """Return the indices of the prompts of one step: each epoch is a new permutation, its last batch may be short."""
    epoch, number = divmod(step, math.ceil(count / batch))
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    return order[number * batch : (number + 1) * batch].tolist()


class _Training:
    """One training run: the engine, the data, and how far it is."""

    def __init__(
        self,
        model: RewardModel | OwnRewardModel,
        pad_token_id: int,
        train: Sequence[RankedPrompt],
        held_out: Sequence[RankedPrompt],
        config: RewardConfig,
        seed: int,
        folder: Path,
        tracker: Tracker,
        runtime: Runtime,
    ) -> None:
        _check_division(config, runtime)
        self._train, self._held_out = train, held_out
        self._pad, self._config, self._seed = pad_token_id, config, seed
        self._share = config.share_prompt and model.can_branch
        if config.share_prompt and not self._share:
            log.info("reward.share_prompt: this model takes no mask of its own; prompts are read per candidate")
        self._tracker, self._runtime = tracker, runtime
        groups = model.trainable()
        self._own = {name: parameter for group in groups.values() for name, parameter in group}
        self._checkpoints = Checkpoints(folder / CHECKPOINTS)
        self._found = self._checkpoints.latest()
        if self._found is not None:
            # Before the engine exists: ZeRO keeps its own copy of the weights it was given.
            fill(self._own, read_safetensors(self._found / _WEIGHTS)[0], str(self._found))
        learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        assert learning == {id(parameter) for parameter in self._own.values()}, (
            "something besides the reward model's own weights learns"
        )
        listed = [{"name": name, "named": group} for name, group in groups.items()]
        self._engine = TrainingEngine(runtime, model, listed, config.max_grad_norm, ADAM_EPSILON)
        total = config.epochs * math.ceil(len(train) / config.batch_prompts)
        self._progress = Progress("reward", total, config.patience)
        self._best: dict[str, Tensor] = {}

    def run(self) -> Progress:
        """Train to the end, from the newest checkpoint if there is one, and put the best state in place."""
        self._resume()
        progress = self._progress
        points = frozenset(evaluation_steps(progress.total, self._config.evaluations))
        with ExitStack() as stack:
            stack.enter_context(self._runtime.noticing_signals())
            bar = stack.enter_context(self._tracker.progress(progress.total, "reward"))
            bar.update(progress.step)
            while not progress.finished:
                shown = self._step(progress.step)
                progress.step += 1
                self._tracker.log(progress.step, shown)
                if progress.step in points:
                    shown |= self._evaluate()
                    self._checkpoint()
                bar.update(1, **{name.removeprefix("reward/"): value for name, value in shown.items()})
                if not progress.finished and self._runtime.stop_requested:
                    if progress.step not in points:
                        self._checkpoint()
                    raise self._runtime.stopped(
                        f"stopped after step {progress.step}; run the same command to go on from there"
                    )
        fill(self._own, self._best, "best reward state")
        return progress

    def judge(self, prompts: Sequence[RankedPrompt]) -> JudgedPairs:
        """Return the pairs of some prompts with the gaps that the present state gives them."""
        scores = self._score(prompts)
        pairs = pair_batch(prompts, torch.device("cpu"))
        lengths = [length for prompt in prompts for length in prompt.lengths]
        sides = list(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True))
        return JudgedPairs.of(
            (scores[pairs.chosen] - scores[pairs.rejected]).tolist(),
            probability=[value for prompt in prompts for value in prompt.probability],
            prompt=pairs.prompt.tolist(),
            lengths=[(lengths[chosen], lengths[rejected]) for chosen, rejected in sides],
            margin=[value for prompt in prompts for value in prompt.margin],
        )

    def _step(self, step: int) -> dict[str, float]:
        """Take one optimiser step; every process makes the same number of passes, with fillers of weight 0."""
        config, runtime = self._config, self._runtime
        chosen = [self._train[i] for i in prompts_of_step(step, len(self._train), config.batch_prompts, self._seed)]
        # Neighbours go to different processes.
        chosen.sort(key=lambda prompt: prompt.extent(share=self._share)[1])
        denominator = sum(prompt.balanced_weight for prompt in chosen)
        passes = self._passes(chosen)
        total = torch.zeros((), device=runtime.device)
        for number, (part, weight) in enumerate(passes, start=1):
            batch = collate(
                [chosen[index] for index in part], self._pad, runtime.device, scale=weight, share=self._share
            )
            last = number == len(passes)
            scores = self._engine.forward(batch.input_ids, batch.response_mask, batch.row_of, last=last)
            loss = self._numerator(scores, batch.pairs) / denominator
            self._engine.backward(loss, last=last)
            total += loss.detach()
        factor = learning_rate_factor(step, self._progress.total, config.warmup_share)
        rates = {"adapter": factor * config.learning_rate, "head": factor * config.head_learning_rate}
        self._engine.set_learning_rates(rates)
        norm = float(self._engine.step())
        loss = float(runtime.sum(total))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            named = ", ".join(prompt.prompt_id for prompt in chosen[:8])
            raise TrainingError(
                f"reward step {step + 1}: loss {loss}, gradient norm {norm}; lower reward.learning_rate and "
                f"reward.head_learning_rate, or look at its prompts ({named}, ...)"
            )
        return {"reward/loss_nats": loss, "reward/gradient_norm": norm, "reward/learning_rate": rates["adapter"]}

    def _numerator(self, scores: Tensor, pairs: PairBatch) -> Tensor:
        """Return the loss before its division: the mean over heads, each with its own weighting of the prompts."""
        config = self._config
        losses = [
            preference_loss(
                own,
                weighted,
                likelihood=config.likelihood,
                tie_strength=config.tie_strength,
                label_smoothing=config.label_smoothing,
                margins=config.margins,
                centering=config.centering,
            )[0]
            for own, weighted in each_head(scores, pairs)
        ]
        return torch.stack(losses).mean()

    def _passes(self, prompts: Sequence[RankedPrompt], *, room: int = 1) -> list[tuple[list[int], float]]:
        """Return this process's forward passes over some prompts: positions, and weight 0 for a filler.

        `room` multiplies what goes into a pass.
        """
        config, runtime = self._config, self._runtime
        rows, widths = zip(*(prompt.extent(share=self._share) for prompt in prompts), strict=True)
        own = range(runtime.process_index, len(prompts), runtime.process_count)
        tokens = config.micro_batch_tokens and room * config.micro_batch_tokens
        parts = micro_batches(widths, own, room * config.micro_batch_prompts, tokens, rows=rows)
        return even_out([list(parts)], runtime, spare=[0])[0]

    def _evaluate(self) -> dict[str, float]:
        """Measure held-out loss and accuracy, without smoothing, margins and centering; keep the best state."""
        scores = self._score(self._held_out)
        pairs = pair_batch(self._held_out, scores.device)
        numerator, denominator = preference_loss(scores, pairs)
        loss = float(numerator / denominator)
        if self._progress.record(self._progress.step, loss):
            self._best = self._copy()
        metrics = {"reward/held_out_loss_nats": loss}
        agrees = torch.sign(scores[pairs.chosen] - scores[pairs.rejected]) * torch.sign(pairs.probability - 0.5)
        decided = pairs.probability != 0.5
        if bool(decided.any()):
            metrics["reward/held_out_accuracy"] = float((agrees[decided] + 1).mean()) / 2
        self._tracker.log(self._progress.step, metrics)
        return metrics

    def _score(self, prompts: Sequence[RankedPrompt]) -> Tensor:
        """Return the raw scores of all candidates (the mean over heads), flat, on the CPU; each process computes a share of them."""
        starts = [0, *accumulate(len(prompt.response_ids) for prompt in prompts)]
        scores = torch.zeros(starts[-1])
        with torch.no_grad():
            # Twice as much fits into a pass where no gradients are kept.
            for part, weight in self._passes(prompts, room=2):
                batch = collate([prompts[index] for index in part], self._pad, self._runtime.device, share=self._share)
                raw = self._engine.forward(batch.input_ids, batch.response_mask, batch.row_of)
                if weight:
                    places = [place for index in part for place in range(starts[index], starts[index + 1])]
                    scores[places] = raw.float().mean(dim=0).cpu()
        return self._runtime.sum(scores)

    def _checkpoint(self) -> None:
        weights, optimizer = self._copy(), self._engine.state()
        if self._runtime.is_main:
            staged = self._checkpoints.staging
            staged.mkdir(parents=True)
            save_file(weights, staged / _WEIGHTS)
            save_file(optimizer, staged / _OPTIMIZER)
            self._checkpoints.publish(staged, self._progress, self._best)
        self._runtime.wait()

    def _resume(self) -> None:
        self._runtime.wait()
        if self._runtime.is_main:
            self._checkpoints.sweep()
        if self._found is None:
            self._tracker.rewind(-1)
            self._evaluate()
            return
        self._best = restore(self._found, self._progress)
        self._engine.load_state(read_safetensors(self._found / _OPTIMIZER)[0])
        self._tracker.rewind(self._progress.step)

    def _copy(self) -> dict[str, Tensor]:
        copies: dict[str, Tensor] = {}
        for name, parameter in self._own.items():
            with gathered([parameter]):
                copies[name] = parameter.detach().to("cpu", copy=True).contiguous()
        return copies


def _check_division(config: RewardConfig, runtime: Runtime) -> None:
    """Refuse a batch that the processes would not share evenly; passes cut whatever each of them has.

    Raises:
        ConfigError: The batch does not divide among the processes.
    """
    try:
        require_shares(config.batch_prompts, runtime.process_count, "reward.batch_prompts")
    except ValueError as error:
        raise ConfigError(str(error)) from error
