"""A reward model with a base of its own: any model of Hugging Face's with one label, trained by LoRA or as a whole.

    raw = the logit of the model's one label, after prompt and response in its own chat template and tokens

The head is what lies outside the trunk (and a pooler that the files lack). A head of one label that the files have goes on
learning; any other is drawn anew, as its library draws it. Under LoRA the trunk is frozen in the run's precision while adapters
and head are fp32; as a whole everything is fp32, and computes in bf16 where that is the run's precision, the head excepted.

On disk it is one sequence classifier with its tokenizer, adapters merged (in fp32, then rounded to the run's precision), so
that `AutoModelForSequenceClassification` and `rlhf.reward.external` load it as it is.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhf.config.training import RewardConfig
from rlhf.errors import ArtifactError
from rlhf.models.adapters import attach_trunk_lora
from rlhf.models.base import DTYPES, disable_dropout, gathered, hash_weight_files, hash_weights, is_adapter_weight
from rlhf.models.classifiers import ClassifierText, load_classifier_model, locate_model
from rlhf.reward.external import Classifier, open_classifier
from rlhf.reward.model import ROLE, RewardInfo, finish_reward
from rlhf.runtime import Runtime

log = logging.getLogger(__name__)
OWNER = "reward.base"
Precision = Literal["fp32", "bf16"]


class OwnRewardModel(nn.Module):
    """The model in training: right-padded rows to raw scores, under the contract of `rlhf.reward.model.RewardModel`.

    Attributes:
        can_branch: False: its attention is not ours, so that each candidate is read with its prompt.
        recomputes: Whether activations are recomputed in the backward pass.
    """

    can_branch = False

    def __init__(self, model: Any, heads: frozenset[str], precision: Precision, *, recomputes: bool) -> None:
        """Keep the model.

        Args:
            model: A sequence classifier, or PEFT's wrapper around one; what may learn has `requires_grad`.
            heads: Names of the weights that make up the head.
            precision: Number format to compute in.
            recomputes: Whether it was told to recompute activations.
        """
        super().__init__()
        self.model = model
        self._heads, self._precision, self.recomputes = heads, precision, recomputes

    @property
    def classifier(self) -> Any:
        """The sequence classifier inside PEFT's wrapper, if there is one."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def forward(
        self,
        input_ids: Int[Tensor, "batch sequence"],
        response_mask: Bool[Tensor, "batch sequence"],
        row_of: None = None,
    ) -> Float[Tensor, "heads batch"]:
        """Return raw scores; the mask is True on all tokens, since rows are whole exchanges."""
        assert row_of is None, "rows are whole exchanges; none shares its prompt"
        whole = self._precision == "bf16" and not isinstance(self.model, PeftModel)
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=whole):
            logits = self.classifier(input_ids=input_ids, attention_mask=response_mask.long()).logits
        return logits.float().T

    def trainable(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return (name, parameter) of what learns, by its group of learning rates: adapters or the trunk, and the head."""
        named = [(name, parameter) for name, parameter in self.classifier.named_parameters() if parameter.requires_grad]
        return {
            "adapter": [item for item in named if item[0] not in self._heads],
            "head": [item for item in named if item[0] in self._heads],
        }

    def hash_frozen(self) -> str:
        """Hash what training must not move."""
        return hash_weights(
            self.classifier, skip=frozenset(name for group in self.trainable().values() for name, _ in group)
        )

    def weights(self) -> dict[str, Tensor]:
        """Return all weights on the CPU with adapters merged, in the run's precision; all processes call this."""
        layers = dict(self.classifier.named_modules())
        found: dict[str, Tensor] = {}
        for name, tensor in self.classifier.state_dict(keep_vars=True).items():
            if is_adapter_weight(name):
                continue
            with gathered([tensor]):
                value = tensor.detach().to("cpu", copy=True)
            owner, _, kind = name.rpartition(".base_layer.")
            if kind == "weight" and isinstance(layers[owner], LoraLayer):
                value = value.float() + _delta(layers[owner])
            found[name.replace(".base_layer.", ".")] = (
                value.to(DTYPES[self._precision]) if value.is_floating_point() else value
            )
        return found


def _delta(layer: Any) -> Tensor:
    with gathered([layer.lora_A[ROLE].weight, layer.lora_B[ROLE].weight]):
        return layer.get_delta_weight(ROLE).detach().float().cpu()


def build_own_model(
    config: RewardConfig, precision: Precision, seed: int
) -> tuple[OwnRewardModel, ClassifierText, RewardInfo]:
    """Load the model that `reward.base` names, on the CPU, ready to learn.

    Args:
        config: The `reward` section.
        precision: Of the run.
        seed: Seed of fresh adapters and of a head that the files lack.

    Raises:
        ArtifactError: The weights are missing, not safetensors, or lack a part of the trunk.
        ConfigError: The model is not there or not pinned, or `reward.lora.targets` names no layer of it.
        ResourceError: The model is on the hub and cannot be reached.
    """
    assert config.base.model is not None, "reward.base.model is not given"
    source = locate_model(config.base.model, config.base.revision, OWNER)
    weights_hash = hash_weight_files(source, OWNER)
    dtype = torch.float32 if config.tuning == "full" else DTYPES[precision]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, tokenizer, lacking = load_classifier_model(
            source, OWNER, dtype, num_labels=1, ignore_mismatched_sizes=True
        )
        heads = _head_weights(model, lacking, source)
        text = ClassifierText(model.config, tokenizer, OWNER, config.max_tokens)
        disable_dropout(model)
        if config.base.gradient_checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        wrapped = _make_trainable(model, heads, config)
    own = OwnRewardModel(wrapped.eval(), heads, precision, recomputes=config.base.gradient_checkpointing)
    return own, text, RewardInfo("own", base_weights_hash=weights_hash)


def _head_weights(model: Any, lacking: set[str], source: Path) -> frozenset[str]:
    """Return the names of the head's weights: all outside the trunk, and a pooler that the files lack."""
    trunk = {f"{model.base_model_prefix}.{name}" for name, _ in model.base_model.named_parameters()}
    fresh = sorted(name for name in lacking if name in trunk)
    missing = [name for name in fresh if not name.startswith(f"{model.base_model_prefix}.pooler.")]
    if missing or not trunk:
        raise ArtifactError(
            f"{OWNER} {source}: the weights lack {', '.join(missing[:3]) or 'a trunk'}; the files belong to another model"
        )
    if lacking:
        log.info("%s %s: %s drawn anew, the files have none of this shape", OWNER, source, ", ".join(sorted(lacking)))
    return frozenset({name for name, _ in model.named_parameters()} - trunk | set(fresh))


def _make_trainable(model: Any, heads: frozenset[str], config: RewardConfig) -> Any:
    if config.tuning == "lora":
        linear = [
            name
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and f"{name}.weight" not in heads
        ]
        wrapped = attach_trunk_lora(model, config.lora, ROLE, linear)
    else:
        model.requires_grad_(True)
        wrapped = model
    for name, parameter in model.named_parameters():
        if name in heads:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    for module in _modules_of(model, heads):
        module.forward = _in_fp32(module.forward)
    return wrapped


def _modules_of(model: Any, names: frozenset[str]) -> Iterator[nn.Module]:
    """Yield the largest modules all of whose weights are among these names."""
    waiting: list[tuple[str, nn.Module]] = [(f"{name}.", module) for name, module in model.named_children()]
    while waiting:
        prefix, module = waiting.pop()
        own = {prefix + name for name, _ in module.named_parameters()}
        if own and own <= names:
            yield module
        elif own & names:
            waiting += [(f"{prefix}{name}.", child) for name, child in module.named_children()]


def _in_fp32(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a head compute in fp32, whatever the trunk gives it."""

    def run(*arguments: Any) -> Any:
        given = [
            value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in arguments
        ]
        with contextlib.ExitStack() as stack:
            for device in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(device, enabled=False))
            return forward(*given)

    return run


def save_own_model(model: OwnRewardModel, text: ClassifierText, folder: Path, runtime: Runtime) -> None:
    """Write the trained model as one sequence classifier with its tokenizer; all processes call this, once."""
    weights = model.weights()
    if runtime.is_main:
        classifier = model.model.unload() if isinstance(model.model, PeftModel) else model.model
        classifier.config.dtype = next(iter(weights.values())).dtype
        classifier.save_pretrained(folder, state_dict=weights)
        text.save(folder)
    runtime.wait()


def load_own_reward(folder: Path, precision: Precision) -> Classifier:
    """Load a reward model with a base of its own, frozen, to score with.

    Raises:
        ArtifactError: Its files are missing or damaged.
    """
    return open_classifier(folder, "reward model", precision)


def import_own_reward(source: Path, info: RewardInfo, precision: Precision, folder: Path, runtime: Runtime) -> None:
    """Copy a trained reward model with a base of its own, after checking that it loads; all processes call this."""
    if runtime.is_main:
        load_own_reward(source, precision).save(folder)
    finish_reward(info, folder, runtime)
