"""The shape of a base: its layers and their sizes, read from the model built on the meta device, where no weight has memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf.config.base import BaseConfig, LoraSection
from rlhf.config.embedded import EmbeddedConfig
from rlhf.errors import ConfigError

Place = Literal["attention_in", "attention_out", "mlp_in", "mlp_out"]
# Of 4-bit weights in blocks of 64, whose scales are themselves 8-bit in blocks of 256 (Dettmers et al. 2023, section 3).
FOUR_BIT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
FLOAT_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Linear:
    """A linear layer: (outputs, inputs) weights, and where in its block it stands."""

    name: str
    inputs: int
    outputs: int
    place: Place

    @property
    def weights(self) -> int:
        """Number of weights, without the bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Norm:
    """A normalisation: how many numbers of a token it takes in all, and in how many vectors; torch's own keeps its input only."""

    width: int
    vectors: int
    native: bool


@dataclass(frozen=True)
class Block:
    """One transformer block.

    Attributes:
        linears: Its linear layers.
        norms: Its normalisations.
        expert_weights: Weights of experts that are no linear layers: (experts, outputs, inputs) in one tensor.
        largest: Weights of its largest tensor.
    """

    linears: tuple[Linear, ...]
    norms: tuple[Norm, ...]
    expert_weights: int
    largest: int

    def at(self, place: Place) -> tuple[Linear, ...]:
        """Return the linear layers at one place."""
        return tuple(linear for linear in self.linears if linear.place == place)


@dataclass(frozen=True)
class BaseShape:
    """A base as the plan sees it.

    Attributes:
        name: `base.model`.
        architecture: Class of the model.
        parameters: All weights; tied ones once.
        hidden: Width of the residual stream.
        vocabulary: Rows of the output layer.
        blocks: Its transformer blocks.
        heads: Attention heads.
        query_width: Numbers of a token's queries, over all heads.
        key_width: Numbers of a token's keys, over all heads; of its values too.
        expert_share: Share of the experts that a token passes through; 1 without experts.
        expert_width: Width of one expert's inner layer.
        experts_per_token: Experts that a token passes through; 0 without experts.
        activation: Name of the MLP's activation.
        rotary: Whether queries and keys are rotated.
        attention: `sdpa`, where no square of scores is kept, or `eager`.
        largest_module: Weights of the largest tensor, usually the embeddings.
        slots: Whether decoding has slots in a preallocated cache.
        can_branch: Whether candidates can share their prompt (`reward.share_prompt`).
    """

    name: str
    architecture: str
    parameters: int
    hidden: int
    vocabulary: int
    blocks: tuple[Block, ...]
    heads: int
    query_width: int
    key_width: int
    expert_share: float
    expert_width: int
    experts_per_token: int
    activation: str
    rotary: bool
    attention: Literal["sdpa", "eager"]
    largest_module: int
    slots: bool
    can_branch: bool

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers in blocks: those that 4-bit loading packs."""
        return sum(linear.weights for block in self.blocks for linear in block.linears)

    @property
    def active_weights(self) -> float:
        """Weights that multiply a token in the blocks."""
        experts = sum(block.expert_weights for block in self.blocks)
        return self.linear_weights + experts * self.expert_share

    @property
    def largest_linear(self) -> int:
        """Weights of the largest linear layer in a block."""
        return max(linear.weights for block in self.blocks for linear in block.linears)

    def targets(self, lora: LoraSection) -> frozenset[str]:
        """Return the names of the linear layers that get an adapter.

        Raises:
            ConfigError: A target is no linear layer of this base.
        """
        known = {linear.name for block in self.blocks for linear in block.linears}
        if "all-linear" in lora.targets:
            return frozenset(known)
        unknown = [target for target in lora.targets if target not in known]
        if unknown or not lora.targets:
            raise ConfigError(
                f"lora.targets names {unknown or 'nothing'}; linear layers of {self.name}: {', '.join(sorted(known))}"
            )
        return frozenset(lora.targets)

    def adapter_parameters(self, lora: LoraSection) -> int:
        """Return the weights of an adapter: r (inputs + outputs) for each linear layer that it targets."""
        targets = self.targets(lora)
        sizes = [
            linear.inputs + linear.outputs
            for block in self.blocks
            for linear in block.linears
            if linear.name in targets
        ]
        return lora.rank * sum(sizes)

    def adapted_weights(self, lora: LoraSection) -> int:
        """Return the base weights under an adapter."""
        targets = self.targets(lora)
        return sum(linear.weights for block in self.blocks for linear in block.linears if linear.name in targets)

    def weight_bytes(self, precision: Literal["fp32", "bf16"], quantization: Literal["none", "4bit"]) -> int:
        """Return the bytes of the base in memory; 4-bit packs the blocks' linear layers and nothing else."""
        packed = self.linear_weights if quantization == "4bit" else 0
        return round(FLOAT_BYTES[precision] * (self.parameters - packed) + FOUR_BIT_BYTES * packed)


def read_shape(config: BaseConfig) -> BaseShape:
    """Build the configured base on the meta device and return its shape. Only its `config.json` is read.

    Raises:
        ConfigError: The configuration cannot be read, or does not describe a causal language model of the usual build.
    """
    return measure_shape(_model_config(config), config)


def measure_shape(settings: Any, config: BaseConfig) -> BaseShape:
    """Return the shape of the model that transformers makes of a configuration of its own."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    model = _empty_model(settings, config)
    text = model.config.get_text_config()
    heads = int(text.num_attention_heads)
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    blocks = tuple(_measure_block(block, text.hidden_size, heads, key_heads, head_width) for block in _blocks(model))
    experts = next(filter(None, (getattr(text, name, None) for name in _EXPERT_COUNTS)), 0)
    per_token = int(getattr(text, "num_experts_per_tok", 0) or 0) if experts else 0
    layers = DynamicCache(config=model.config).layers
    plain = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    return BaseShape(
        name=config.model,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden=int(text.hidden_size),
        vocabulary=int(model.get_output_embeddings().weight.shape[0]),
        blocks=blocks,
        heads=heads,
        query_width=heads * head_width,
        key_width=key_heads * head_width,
        expert_share=per_token / experts if experts else 1.0,
        expert_width=int(getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", 0) or 0),
        experts_per_token=per_token,
        activation=str(_first(text, ("hidden_act", "hidden_activation", "activation_function", "activation"), "gelu")),
        rotary=any("Rotary" in type(module).__name__ for module in model.modules()),
        attention="eager" if config.attention == "eager" else "sdpa",
        largest_module=max(parameter.numel() for parameter in model.parameters()),
        slots=plain,
        can_branch=plain and config.attention == "sdpa",
    )


_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


def _first(settings: Any, names: Sequence[str], default: Any) -> Any:
    return next((getattr(settings, name) for name in names if getattr(settings, name, None) is not None), default)


def _model_config(config: BaseConfig) -> Any:
    if config.model == "embedded":
        return _embedded(config.embedded)
    from huggingface_hub.errors import HFValidationError, StrictDataclassError
    from transformers import AutoConfig

    folder = Path(config.model).expanduser()
    local = folder.is_dir()
    if not local and config.model.startswith((".", "/", "~")):
        raise ConfigError(f"base.model is {config.model!r}; there is no such folder")
    try:
        return AutoConfig.from_pretrained(
            folder if local else config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, HFValidationError, StrictDataclassError) as error:
        remedy = (
            "put a readable config.json there" if local else "name a folder with its config.json, or go online once"
        )
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"base.model is {config.model!r}: its config.json cannot be read ({first}); {remedy}"
        ) from error


def _embedded(config: EmbeddedConfig) -> Any:
    from rlhf.models.embedded import model_config

    return model_config(config, config.vocabulary)


def _empty_model(settings: Any, config: BaseConfig) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    # Flash attention is no part of a shape, and its package need not be installed where one plans.
    attention = "sdpa" if config.attention == "flash_attention_2" else config.attention
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                settings, attn_implementation=attention, trust_remote_code=config.trust_remote_code
            )
    except (ValueError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0].split(" Please request")[0]
        remedy = "; set base.attention: eager" if "attention implementation" in first else ""
        raise ConfigError(
            f"base.model is {config.model!r}: no model can be made of its config.json ({first}){remedy}"
        ) from error


def _blocks(model: Any) -> list[Any]:
    """Return the transformer blocks: the list of modules that holds most weights."""
    from torch import nn

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ConfigError(f"{type(model).__name__} has no list of blocks; the plan does not know such a model")
    return list(max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters())))


def _measure_block(block: Any, hidden: int, heads: int, key_heads: int, head_width: int) -> Block:
    linears = tuple(_linears(block, hidden))
    norms: list[Norm] = []
    for name, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if "Norm" not in type(module).__name__ or weight is None:
            continue
        size = int(weight.shape[-1])
        counts = {"k_norm": key_heads, "q_norm": heads}
        vectors = next((count for part, count in counts.items() if part in name and size == head_width), 1)
        norms.append(Norm(size * vectors, vectors, type(module).__name__ == "LayerNorm"))
    experts = sum(parameter.numel() for parameter in block.parameters() if parameter.dim() == 3)
    return Block(linears, tuple(norms), experts, max(parameter.numel() for parameter in block.parameters()))


def _linears(block: Any, hidden: int) -> Iterator[Linear]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, module in block.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D)):
            continue
        outputs, inputs = module.weight.shape if isinstance(module, nn.Linear) else reversed(module.weight.shape)
        path, _, last = name.rpartition(".")
        attends = "att" in path.lower()

        yield Linear(last, int(inputs), int(outputs), _place(last, attends=attends, to_stream=int(outputs) == hidden))


_OUT = ("o_proj", "out_proj", "c_proj", "dense", "wo", "down_proj", "fc2", "dense_4h_to_h", "w2", "fc_out", "out_lin")


def _place(name: str, *, attends: bool, to_stream: bool) -> Place:
    leaves = to_stream and name in _OUT
    if attends:
        return "attention_out" if leaves else "attention_in"
    return "mlp_out" if leaves else "mlp_in"
