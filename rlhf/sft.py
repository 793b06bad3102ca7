"""Supervised fine-tuning: a LoRA adapter that imitates demonstrations, loss on the response only.

    L = - sum over response tokens of log pi(token | prompt, tokens before) / number of response tokens in the step

The end token is part of the response: a policy that never saw one does not stop. The optimisation loop is TRL's
`SFTTrainer` (see `rlhf.sft_trainer`) on rows that `rlhf.text` has tokenised; left to itself it would format the
prompt, append end tokens and choose a padding id in its own way.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from rlhf.checkpoints import Checkpoints
from rlhf.config.training import SftConfig
from rlhf.models.adapters import BASE_KEY, attach_lora, load_adapter, save_adapter
from rlhf.models.base import LoadedBase, hash_weights
from rlhf.records import Demonstration
from rlhf.runtime import Runtime
from rlhf.sft_rows import make_rows
from rlhf.tracking import Tracker

ADAPTER = "policy"
CHECKPOINTS = ".checkpoints"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SftOutcome:
    """What became of supervised fine-tuning; losses in nats per response token, None where nothing was trained."""

    method: str
    steps: int = 0
    best_step: int = 0
    examples: int = 0
    held_out_examples: int = 0
    initial_loss: float | None = None
    held_out_loss: float | None = None
    stopped_early: bool = False


def make_zero_adapter(base: LoadedBase, config: SftConfig, seed: int, folder: Path) -> SftOutcome:
    """Write an adapter of the configured shape that changes nothing (B = 0): the reference of an instruct model."""
    torch.manual_seed(seed)
    with _restored(base):
        model = attach_lora(base.model, config.lora, ADAPTER, trainable=False)
        _publish(base, model, folder)
    return SftOutcome(method="none")


def import_sft(base: LoadedBase, source: Path, folder: Path) -> SftOutcome:
    """Check an SFT adapter from outside against the base and write it in our form.

    Raises:
        ArtifactError: The folder holds no LoRA adapter in PEFT's form, or one that does not fit the base.
    """
    with _restored(base):
        model = load_adapter(base.model, source, ADAPTER, trainable=False, base_hash=base.weights_hash)
        _publish(base, model, folder)
    return SftOutcome(method="import")


def train_sft(
    base: LoadedBase,
    demonstrations: Sequence[Demonstration],
    held_out: Sequence[Demonstration],
    config: SftConfig,
    seed: int,
    folder: Path,
    tracker: Tracker,
    runtime: Runtime,
) -> SftOutcome:
    """Train the SFT adapter and publish the best one as a PEFT folder.

    Args:
        base: The frozen base. Its weights are the same bytes afterwards, and it carries no adapter.
        demonstrations: What to imitate.
        held_out: What the adapter is chosen on.
        config: Hyper-parameters.
        seed: Seed of the adapter's first weights, of the data order and of dropout.
        folder: Where the adapter goes. Checkpoints lie in a hidden folder in it until training is done; a run
            that finds one goes on from there and ends with the same bytes.
        tracker: Where numbers go.
        runtime: The processes, started for the trainer.

    Raises:
        DataError: There are no demonstrations, or some have too many tokens.
        ConfigError: The batch does not divide among the processes, or a checkpoint is sharded in another way.
        StoppedBySignal: The process was told to stop; a checkpoint was written.
        TrainingError: A loss or gradient is not finite.
    """
    rows = make_rows(base.text, demonstrations, config.max_tokens, "demonstration")
    held_out_rows = make_rows(base.text, held_out, config.max_tokens, "held-out demonstration")
    from rlhf.sft_trainer import AdapterTrainer  # importing trl takes seconds

    checkpoints = Checkpoints(folder / CHECKPOINTS)
    before = hash_weights(base.model)
    with _restored(base):
        torch.manual_seed(seed)
        model = attach_lora(base.model, config.lora, ADAPTER, trainable=True)
        trainer = AdapterTrainer(model, base, rows, held_out_rows, config, seed, checkpoints, tracker, runtime)
        progress = trainer.run()
        assert hash_weights(base.model) == before, "supervised fine-tuning moved the weights of the base"
        _publish(base, model, folder, write=trainer.is_world_process_zero())
        trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        checkpoints.remove()
    if progress.initial_loss is not None and progress.best_loss >= progress.initial_loss:
        log.warning(
            "SFT did not lower the held-out loss (%.4f before, %.4f at best): lower sft.learning_rate or its epochs",
            progress.initial_loss,
            progress.best_loss,
        )
    return SftOutcome(
        method="lora",
        steps=progress.step,
        best_step=progress.best_step,
        examples=len(rows),
        held_out_examples=len(held_out_rows),
        initial_loss=progress.initial_loss,
        held_out_loss=progress.best_loss,
        stopped_early=progress.step < progress.total,
    )


def _publish(base: LoadedBase, model: PeftModel, folder: Path, *, write: bool = True) -> None:
    save_adapter(model, ADAPTER, folder, {BASE_KEY: base.weights_hash}, write=write)


@contextmanager
def _restored(base: LoadedBase) -> Iterator[None]:
    """Give the base back as it was: without adapters, and without what the trainer does to it.

    TRL replaces the model's forward by one with a fused output head, and transformers aligns the special tokens of
    its configuration with the tokenizer's.
    """
    model = base.model
    forward = vars(model).get("forward")
    config, generation_config = copy.deepcopy(model.config), copy.deepcopy(model.generation_config)
    try:
        yield
    finally:
        _remove_adapters(model)
        vars(model).pop("forward", None)
        if forward is not None:
            model.forward = forward
        vars(model.config).update(vars(config))
        model.generation_config = generation_config
        if base.gradient_checkpointing:
            model.activation_checkpointing_disable()
        model.requires_grad_(False)
        model.eval()


def _remove_adapters(model: nn.Module) -> None:
    """Put the base's own linear layers back in place of those that carry an adapter."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    vars(model).pop("peft_config", None)
