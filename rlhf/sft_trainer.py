"""TRL's `SFTTrainer` with our evaluation, adapters and checkpoints. Importing this module takes seconds.

- The held-out loss is a mean over tokens, whatever the batches, at evenly spaced points; the best adapter is kept.
- A checkpoint is written to a staging folder, renamed, and then marked; only marked ones are resumed. The
  trainer's own resume takes the highest number, complete or not.
- The rows of an optimiser step are the same on any number of processes, those of an epoch's short last batch too.
- Under DeepSpeed, whose settings come from the environment (see `rlhf.zero`), a checkpoint holds a shard of the optimiser's
  state for each process: only as many processes under the same ZeRO stage go on from it.
- Nothing is reported, uploaded or printed, and nothing pickled leaves the checkpoint folder.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from rlhf.checkpoints import Checkpoints, Progress, evaluation_steps, restore
from rlhf.config.base import Zero
from rlhf.config.training import SftConfig, fitted_micro_batch, require_shares
from rlhf.engine import check_engine, number_formats
from rlhf.errors import ConfigError, TrainingError
from rlhf.models.adapters import ADAPTER_WEIGHTS, adapter_parameters, fill, read_safetensors, save_adapter
from rlhf.models.base import LoadedBase, gathered
from rlhf.runtime import Runtime
from rlhf.sft_rows import EpochOrder, RightPadding, Row, filled_up
from rlhf.tracking import Bar, Tracker

_SHARDS = "shards.json"
_LOGGED = {"loss": "sft/loss", "learning_rate": "sft/learning_rate", "grad_norm": "sft/gradient_norm"}


class Watch(TrainerCallback):
    """Asks for evaluations and checkpoints at their steps and for a last one at a signal; passes numbers on to our tracker."""

    def __init__(self, progress: Progress, points: Sequence[int], tracker: Tracker, runtime: Runtime) -> None:
        self.progress = progress
        self.bar = Bar(None)
        self.interrupted = False
        self._points = frozenset(points)
        self._tracker = tracker
        self._runtime = runtime

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluate and save at the chosen steps; save and stop after the step in which a signal came."""
        control.should_evaluate = control.should_save = state.global_step in self._points
        if state.global_step < self.progress.total and self._runtime.stop_requested:
            self.interrupted = control.should_save = control.should_training_stop = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the held-out loss; stop when patience has run out."""
        loss = kwargs["metrics"]["eval_loss"]
        self._tracker.log(state.global_step, {"sft/held_out_loss": loss})
        self.bar.update(0, held_out_loss=loss)
        control.should_training_stop = control.should_training_stop or self.progress.stopped

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
        base: LoadedBase,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        config: SftConfig,
        seed: int,
        checkpoints: Checkpoints,
        tracker: Tracker,
        runtime: Runtime,
    ) -> None:
        arguments = training_arguments(
            config, seed, checkpoints.staging, recompute=base.gradient_checkpointing, zero=runtime.zero
        )
        _set_passes(arguments, config)
        filled = filled_up(rows, arguments.per_device_train_batch_size * arguments.world_size)
        self._order = EpochOrder(len(rows), len(filled) - len(rows), seed)
        self._runtime = runtime
        self._epoch_steps = math.ceil(len(rows) / config.batch_size)
        total = math.ceil(self._epoch_steps * config.epochs)
        self.progress = Progress("sft", total, config.patience)
        self.best: dict[str, Tensor] = {}
        self._lora, self._adapter = model, str(model.active_adapter)
        self._checkpoints = checkpoints
        self._held_out = sorted(held_out, key=lambda row: len(row["input_ids"]))
        self._tracker = tracker
        self._watch = Watch(self.progress, evaluation_steps(total, config.evaluations), tracker, runtime)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(filled),
            data_collator=RightPadding(base.text.pad_token_id),
            processing_class=base.text.tokenizer,
            callbacks=[self._watch],
        )
        self.remove_callback(PrinterCallback)
        # Without a tokenizer the trainer cannot move the special tokens of the model's configuration.
        self.processing_class = None
        for _, parameter in adapter_parameters(model, self._adapter):
            # TRL lowers adapters on a 4-bit base to bf16; ours stay fp32.
            parameter.data = parameter.data.float()

    def run(self) -> Progress:
        """Train to the end, from the newest complete checkpoint if there is one, and put the best adapter in place.

        Raises:
            StoppedBySignal: The process was told to stop; a checkpoint was written.
        """
        resumed = self._checkpoints.latest()
        if self.is_world_process_zero():
            self._checkpoints.sweep()
        self.accelerator.wait_for_everyone()
        if resumed is not None:
            self._require_same_shards(resumed)
            self.best = restore(resumed, self.progress)
            # accelerate does not tell the epoch to a sampler behind both a skip of batches and their division among processes.
            self._order.set_epoch(self.progress.step // self._epoch_steps)
        self._tracker.rewind(self.progress.step if resumed else -1)
        self.args.eval_on_start = resumed is None
        if not self.progress.finished:
            with self._tracker.progress(self.progress.total, "sft") as bar, self._runtime.noticing_signals():
                self._watch.bar = bar
                bar.update(self.progress.step)
                self.train(resume_from_checkpoint=None if resumed is None else str(resumed))
            if self._watch.interrupted and not self.progress.stopped:
                raise self._runtime.stopped(
                    f"stopped after step {self.progress.step}; run the same command to go on from there"
                )
        fill(dict(adapter_parameters(self._lora, self._adapter)), self.best, "best adapter")
        return self.progress

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the held-out loss in nats per response token; every process computes the same number."""
        self._lora.eval()
        engine: Any = self.model_wrapped
        total, tokens = 0.0, 0
        size = self.args.per_device_eval_batch_size
        with torch.no_grad():
            for start in range(0, len(self._held_out), size):
                batch = self.data_collator(self._held_out[start : start + size])
                batch = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
                output = engine(**batch, use_cache=False, fused_lm_head=True)
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
        save_adapter(self._lora, self._adapter, Path(output_dir), {}, write=self.args.should_save)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card: the export stage does."""

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        self.progress.step = self.state.global_step
        if self.is_world_process_zero():
            staged = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            (staged / _SHARDS).write_text(json.dumps(self._shards()), encoding="utf-8")
            self._checkpoints.publish(staged, self.progress, self.best)
        self.accelerator.wait_for_everyone()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        formats = number_formats(self._lora)
        prepared = super()._prepare_for_training(*args, **kwargs)
        check_engine(self.model_wrapped, formats, zero=self._runtime.zero, processes=self.args.world_size)
        return prepared

    def _shards(self) -> dict[str, int]:
        """Say what must be the same for a checkpoint to fit; without DeepSpeed nothing is sharded."""
        return {"processes": self.args.world_size, "zero": self._runtime.zero} if self._runtime.zero else {"zero": 0}

    def _require_same_shards(self, checkpoint: Path) -> None:
        path = checkpoint / _SHARDS
        written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"zero": 0}
        if written != self._shards():
            raise ConfigError(
                f"{checkpoint}: the checkpoint is of {_in_words(written)}, this is {_in_words(self._shards())}; go on as it "
                f"was begun, or remove {checkpoint.parent} to begin again"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        tensors, _ = read_safetensors(Path(resume_from_checkpoint) / ADAPTER_WEIGHTS)
        fill(dict(adapter_parameters(self._lora, self._adapter)), tensors, resume_from_checkpoint)

    def _copy_adapter(self) -> dict[str, Tensor]:
        copies: dict[str, Tensor] = {}
        for key, parameter in adapter_parameters(self._lora, self._adapter):
            with gathered([parameter]):
                copies[key] = parameter.detach().to("cpu", copy=True).contiguous()
        return copies


def _in_words(shards: Mapping[str, int]) -> str:
    return (
        f"{shards['processes']} processes under ZeRO-{shards['zero']}" if shards["zero"] else "processes without ZeRO"
    )


def training_arguments(config: SftConfig, seed: int, output_dir: Path, *, recompute: bool, zero: Zero) -> SFTConfig:
    """Return TRL's arguments: everything it would do by itself is switched off."""
    on_gpu, launched = torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1")) > 1 or zero > 0
    arguments = SFTConfig(
        output_dir=str(output_dir),
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
        activation_checkpointing=recompute,
        gradient_checkpointing=recompute,
        # The runtime has set up processes and devices; left to itself the trainer begins anew, and each CPU process believes
        # that it is alone.
        accelerator_config={"use_configured_state": launched},
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
    if zero:
        # The runtime's accelerator has the settings already, and no second one may bring its own.
        arguments.deepspeed_plugin = None
    return arguments


def _set_passes(arguments: SFTConfig, config: SftConfig) -> None:
    """Derive rows per pass and passes per optimiser step, once the number of processes is known.

    Raises:
        ConfigError: The batch does not divide among the processes.
    """
    try:
        require_shares(config.batch_size, arguments.world_size, "sft.batch_size")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    share = config.batch_size // arguments.world_size
    arguments.per_device_train_batch_size = fitted_micro_batch(share, config.micro_batch_size)
    arguments.gradient_accumulation_steps = share // arguments.per_device_train_batch_size
