"""TRL's `SFTTrainer` with our evaluation, adapters and checkpoints. Importing this module takes seconds.

- The held-out loss is a mean over tokens, whatever the batches, at evenly spaced points; the best adapter is kept.
- A checkpoint is written to a staging folder, renamed, and then marked; only marked ones are resumed. The
  trainer's own resume takes the highest number, complete or not.
- Nothing is reported, uploaded or printed, and nothing pickled leaves the checkpoint folder.
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from rlhf.config.training import SftConfig, require_multiple
from rlhf.errors import ConfigError, TrainingError
from rlhf.models.adapters import ADAPTER_WEIGHTS, adapter_parameters, fill, read_safetensors, save_adapter
from rlhf.models.base import gathered
from rlhf.sft import ADAPTER, IGNORED, Row
from rlhf.tensors import pad_right
from rlhf.text import TextFormat
from rlhf.tracking import Bar, Tracker

_STAGING, _COMPLETE, _PROGRESS, _BEST = "staging", "COMPLETE", "progress.json", "best.safetensors"
_LOGGED = {"loss": "sft/loss", "learning_rate": "sft/learning_rate", "grad_norm": "sft/gradient_norm"}


@dataclass(frozen=True)
class RightPadding:
    """Stacks rows: what pads the ids is arbitrary, the mask and the labels decide."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`, as wide as the longest row."""
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad_right(ids, self.pad_token_id, torch.long),
            "attention_mask": pad_right([[1] * len(row) for row in ids], 0, torch.long),
            "labels": pad_right([row["labels"] for row in rows], IGNORED, torch.long),
        }


def evaluation_steps(total: int, evaluations: int) -> tuple[int, ...]:
    """Return the evenly spaced steps after which to evaluate; the last step is always one of them."""
    count = min(total, evaluations)
    return tuple(math.ceil(total * number / count) for number in range(1, count + 1))


@dataclass
class Progress:
    """How far training is, and what the best held-out loss was; a checkpoint holds it."""

    total: int
    patience: int
    step: int = 0
    initial_loss: float | None = None
    best_loss: float = math.inf
    best_step: int = 0
    without_gain: int = 0

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        return self.without_gain >= self.patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.stopped or self.step >= self.total

    def record(self, step: int, loss: float) -> bool:
        """Take in a held-out loss; return whether it is the best of a trained adapter so far.

        Raises:
            TrainingError: The loss is not finite.
        """
        if not math.isfinite(loss):
            raise TrainingError(f"the held-out loss is {loss} after {step} steps; lower sft.learning_rate")
        self.step = step
        if step == 0:
            self.initial_loss = loss
            return False
        better = loss < self.best_loss
        if better:
            self.best_loss, self.best_step = loss, step
        self.without_gain = 0 if better else self.without_gain + 1
        return better


class Checkpoints:
    """Checkpoints of one training: written in a staging folder, renamed, then marked as complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / _STAGING

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint."""
        return max((path.parent for path in self.folder.glob(f"step-*/{_COMPLETE}")), key=_step_of, default=None)

    def sweep(self) -> None:
        """Delete what a killed run left unfinished."""
        shutil.rmtree(self.staging, ignore_errors=True)
        for path in self.folder.glob("step-*"):
            if not (path / _COMPLETE).exists():
                shutil.rmtree(path)

    def publish(self, staged: Path, step: int) -> None:
        """Move a staged checkpoint to its final name, mark it, and delete the older ones."""
        final = self.folder / f"step-{step}"
        staged.replace(final)
        (final / _COMPLETE).touch()
        for path in self.folder.glob("step-*"):
            if path != final:
                shutil.rmtree(path)

    def remove(self) -> None:
        """Delete all checkpoints: training is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


class Watch(TrainerCallback):
    """Asks for evaluations and checkpoints at their steps, and passes numbers on to our tracker."""

    def __init__(self, progress: Progress, points: Sequence[int], tracker: Tracker) -> None:
        self.progress = progress
        self.bar = Bar(None)
        self._points = frozenset(points)
        self._tracker = tracker

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Evaluate and save at the chosen steps."""
        control.should_evaluate = control.should_save = state.global_step in self._points
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Log the held-out loss; stop when patience has run out."""
        loss = kwargs["metrics"]["eval_loss"]
        self._tracker.log(state.global_step, {"sft/held_out_loss": loss})
        self.bar.update(0, held_out_loss=loss)
        control.should_training_stop = control.should_training_stop or self.progress.stopped
        return control

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log one optimiser step.

        Raises:
            TrainingError: The loss or the gradient is not finite.
        """
        numbers: Mapping[str, float] = {_LOGGED[key]: kwargs["logs"][key] for key in _LOGGED if key in kwargs["logs"]}
        if "sft/loss" not in numbers:
            return
        bad = [f"{name} {value}" for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"step {state.global_step}: {', '.join(bad)}; lower sft.learning_rate, or look for damaged examples"
            )
        self._tracker.log(state.global_step, numbers)
        self.bar.update(1, loss=numbers["sft/loss"])


class AdapterTrainer(SFTTrainer):
    """SFTTrainer that evaluates exactly and saves adapters our way."""

    def __init__(
        self,
        model: PeftModel,
        text: TextFormat,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        config: SftConfig,
        seed: int,
        checkpoints: Checkpoints,
        tracker: Tracker,
    ) -> None:
        arguments = training_arguments(config, seed, checkpoints.staging)
        _set_accumulation(arguments, config)
        total = math.ceil(math.ceil(len(rows) / config.batch_size) * config.epochs)
        self.progress = Progress(total, config.patience)
        self.best: dict[str, Tensor] = {}
        self._checkpoints = checkpoints
        self._held_out = sorted(held_out, key=lambda row: len(row["input_ids"]))
        self._tracker = tracker
        self._watch = Watch(self.progress, evaluation_steps(total, config.evaluations), tracker)
        super().__init__(
            model=model,  # pyright: ignore[reportArgumentType]
            args=arguments,
            train_dataset=list(rows),  # pyright: ignore[reportArgumentType]
            data_collator=RightPadding(text.pad_token_id),  # pyright: ignore[reportArgumentType]
            processing_class=text.tokenizer,
            callbacks=[self._watch],
        )
        self.remove_callback(PrinterCallback)
        for _, parameter in adapter_parameters(model, ADAPTER):
            # TRL lowers adapters on a 4-bit base to bf16; ours stay fp32.
            parameter.data = parameter.data.float()

    def run(self) -> Progress:
        """Train to the end, from the newest complete checkpoint if there is one, and put the best adapter in place."""
        resumed = self._checkpoints.latest()
        if self.is_world_process_zero():
            self._checkpoints.sweep()
        self.accelerator.wait_for_everyone()
        if resumed is not None:
            self._restore(resumed)
        self._tracker.rewind(self.progress.step if resumed else -1)
        self.args.eval_on_start = resumed is None
        if not self.progress.finished:
            with self._tracker.progress(self.progress.total, "sft") as bar:
                self._watch.bar = bar
                bar.update(self.progress.step)
                self.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        fill(dict(adapter_parameters(self.model, ADAPTER)), self.best, "best adapter")
        return self.progress

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the held-out loss in nats per response token; every process computes the same number."""
        self.model.eval()
        total, tokens = 0.0, 0
        size = self.args.per_device_eval_batch_size
        with torch.no_grad():
            for start in range(0, len(self._held_out), size):
                batch = self.data_collator(self._held_out[start : start + size])
                batch = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
                output = self.model_wrapped(**batch, use_cache=False, fused_lm_head=True)
                total -= output.log_probs.double().sum().item()
                tokens += int(output.label_mask.sum())
        metrics = {"eval_loss": total / tokens}
        if self.progress.record(self.state.global_step, metrics["eval_loss"]):
            self.best = self._copy_adapter()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter alone: no tokenizer, no pickled arguments."""
        assert output_dir is not None
        save_adapter(self.model, ADAPTER, Path(output_dir), {}, write=self.args.should_save)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card: the export stage does."""

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            staged = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            save_file(self.best, staged / _BEST)
            (staged / _PROGRESS).write_text(json.dumps(asdict(self.progress)), encoding="utf-8")
            self._checkpoints.publish(staged, self.state.global_step)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        tensors, _ = read_safetensors(Path(resume_from_checkpoint) / ADAPTER_WEIGHTS)
        fill(dict(adapter_parameters(self.model, ADAPTER)), tensors, resume_from_checkpoint)

    def _restore(self, checkpoint: Path) -> None:
        self.best, _ = read_safetensors(checkpoint / _BEST)
        saved = json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8"))
        assert saved["total"] == self.progress.total, (saved["total"], self.progress.total)
        for name, value in saved.items():
            setattr(self.progress, name, value)
        logging.getLogger(__name__).info("going on from the checkpoint at step %d of %d", saved["step"], saved["total"])

    def _copy_adapter(self) -> dict[str, Tensor]:
        copies: dict[str, Tensor] = {}
        for key, parameter in adapter_parameters(self.model, ADAPTER):
            with gathered([parameter]):
                copies[key] = parameter.detach().to("cpu", copy=True).contiguous()
        return copies


def training_arguments(config: SftConfig, seed: int, output_dir: Path) -> SFTConfig:
    """Return TRL's arguments: everything it would do by itself is switched off."""
    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(output_dir),
        per_device_train_batch_size=config.micro_batch_size,
        per_device_eval_batch_size=config.micro_batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=0.0,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        seed=seed,
        data_seed=seed,
        # The base is loaded in its number format and adapters are fp32: no autocast, no cast of weights.
        bf16=False,
        fp16=False,
        # The base already recomputes activations where the configuration asks for it.
        gradient_checkpointing=False,
        # Without a name each CPU rank believes that it is alone.
        ddp_backend=None if on_gpu else "gloo",
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        push_to_hub=False,
    )


def _set_accumulation(arguments: SFTConfig, config: SftConfig) -> None:
    """Derive the micro-steps per optimiser step, once the number of processes is known.

    Raises:
        ConfigError: The batch does not divide among the processes.
    """
    per_pass = config.micro_batch_size * arguments.world_size
    try:
        require_multiple(config.batch_size, per_pass, "sft.batch_size", "micro_batch_size times processes")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    arguments.gradient_accumulation_steps = config.batch_size // per_pass
