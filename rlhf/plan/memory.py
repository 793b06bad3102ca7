"""Memory of a stage on one GPU, by kind.

A stage has moments: it decodes, it reads without gradients, it trains. What is there at every moment (base, adapters,
optimiser) is counted once, what a moment needs by itself is not needed at another; the peak is that of the largest.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from rlhf.config.base import Zero
from rlhf.config.recipe import Config
from rlhf.models.logprobs import BLOCK_LOGITS, BLOCK_LOGITS_CUDA
from rlhf.plan.activations import SUM_BYTES, Pass, kept_per_token, largest_block, passing_per_token
from rlhf.plan.loads import Decoding, Load, Training
from rlhf.plan.shape import FLOAT_BYTES, BaseShape

Kind = Literal[
    "base weights",
    "adapters, heads",
    "optimiser",
    "gradients",
    "reduction buckets",
    "activations",
    "temporaries",
    "logits",
    "KV cache",
    "merge backup",
    "all-gather",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Moment = Literal["loaded", "decode", "read", "train"]
# Elements of DeepSpeed's reduction buckets: its default, and what configs/deepspeed says for SFT (two, overlapping).
BUCKET, SFT_BUCKET = 500_000_000, 50_000_000
SFT_LIVE = 1_000_000_000
"""Parameters that DeepSpeed keeps gathered under ZeRO-3 where no setting of ours forbids it: in SFT."""
# TRL's fused output layer works on tiles of so many tokens and words.
TILE_TOKENS, TILE_WORDS = 4096, 32_768


@dataclass(frozen=True)
class Layout:
    """Where a stage runs.

    Attributes:
        zero: DeepSpeed ZeRO stage.
        gpus: Processes, one per GPU, among which a launched stage divides.
        on_gpu: Whether blocks of logits are a GPU's; a CPU's are smaller, but TRL's tiles have more copies there.
    """

    zero: Zero
    gpus: int
    on_gpu: bool = True

    @property
    def sharded(self) -> bool:
        """Whether the base is divided among the processes."""
        return self.zero == 3 and self.gpus > 1

    def share(self, size: int, *, from_stage: int) -> int:
        """Return a process's part of something that is divided from a ZeRO stage on."""
        return -(-size // self.gpus) if self.zero >= from_stage else size


@dataclass(frozen=True)
class Memory:
    """Bytes by kind: what is always there, and what each moment adds."""

    always: dict[Kind, int]
    moments: dict[Moment, dict[Kind, int]] = field(default_factory=dict)

    def largest(self, kind: Kind) -> int:
        """Return the most bytes of a kind at any moment."""
        return self.always.get(kind, 0) + max((found.get(kind, 0) for found in self.moments.values()), default=0)

    def total(self, moment: Moment) -> int:
        """Return all bytes of a moment."""
        return sum(self.always.values()) + sum(self.moments.get(moment, {}).values())

    @property
    def peak_moment(self) -> Moment:
        """The moment that needs most."""
        moments: list[Moment] = ["loaded", *self.moments]
        return max(moments, key=self.total)

    @property
    def peak(self) -> int:
        """Bytes of that moment."""
        return self.total(self.peak_moment)


def stage_memory(config: Config, shape: BaseShape, load: Load, layout: Layout) -> Memory:
    """Return the memory that a stage needs on one GPU."""
    trainable = load.trainable(shape) if load.training else 0
    weights = shape.weight_bytes(config.precision, config.base.quantization)
    always: dict[Kind, int] = {
        "base weights": -(-weights // layout.gpus) if layout.sharded else weights,
        "adapters, heads": SUM_BYTES * load.attached(shape),
        "optimiser": _optimiser(trainable, layout),
    }
    moments: dict[Moment, dict[Kind, int]] = {}
    if load.training is not None:
        moments["train"] = _training(config, shape, load, load.training, layout)
    if load.decoding is not None:
        moments["decode"] = _decoding(config, shape, load.decoding, layout)
    rows, width = load.reading
    if rows:
        lora = next(role.lora for role in load.roles if role.lora is not None)
        how = Pass(lora, FLOAT_BYTES[config.precision], "fused", width)
        moments["read"] = {
            "temporaries": rows * width * passing_per_token(shape, how) + _summed_weights(config, shape, layout),
            "logits": _block_of_logits(config, shape, rows * width, layout) if load.stage != "sft" else 0,
            "all-gather": _gathered(config, shape, load, layout),
        }
    return Memory(always, moments)


def _optimiser(trainable: int, layout: Layout) -> int:
    """AdamW's two moments in fp32; under DeepSpeed also the copy that it steps on. Divided from ZeRO 1 on."""
    states = 3 if layout.zero else 2
    return layout.share(states * SUM_BYTES * trainable, from_stage=1)


def _training(config: Config, shape: BaseShape, load: Load, training: Training, layout: Layout) -> dict[Kind, int]:
    tokens = training.rows * training.width
    how = training_pass(config, training, layout)
    kept = tokens * kept_per_token(shape, how)
    if config.base.gradient_checkpointing:
        inputs = len(shape.blocks) * how.number * shape.hidden
        kept = training.trunks * tokens * inputs + tokens * largest_block(shape, how)
    else:
        kept *= training.trunks
    gradients = SUM_BYTES * load.trainable(shape)
    states = how.number * shape.hidden * training.rows * training.responses
    return {
        "gradients": layout.share(gradients, from_stage=2) * (2 if layout.zero == 0 and layout.gpus > 1 else 1),
        "reduction buckets": _buckets(load, layout),
        "activations": kept + _kept_at_output(training, states),
        "temporaries": tokens * passing_per_token(shape, how) + _summed_weights(config, shape, layout),
        "logits": _logits_in_training(config, shape, training, layout),
        "all-gather": _gathered(config, shape, load, layout),
    }


def training_pass(config: Config, training: Training, layout: Layout) -> Pass:
    """Return how the tokens of a training pass go through the base: 4-bit and sharded layers keep PEFT's own pass."""
    plain = config.base.quantization == "4bit" or layout.sharded
    return Pass(
        training.lora,
        FLOAT_BYTES[config.precision],
        "peft" if plain else training.layers,
        training.width,
        training.masked,
        training.dropout,
    )


def _kept_at_output(training: Training, states: int) -> int:
    """What reading the last hidden states keeps: for logprobs the states and their gradient; for TRL's the states."""
    return {"frozen": 2 * states, "fused": states, "head": 0}[training.output]


def _logits_in_training(config: Config, shape: BaseShape, training: Training, layout: Layout) -> int:
    number, read = FLOAT_BYTES[config.precision], training.rows * training.responses
    if training.output == "head":
        return 0
    if training.output == "frozen":
        # The fp32 sum that becomes the gradient, and a block of the vocabulary.
        return SUM_BYTES * shape.hidden * read + _block_of_logits(config, shape, read, layout)
    tile = min(read, TILE_TOKENS) * TILE_WORDS  # whole, however small the vocabulary
    # Without Triton seven fp32 tensors and a mask live at once while the tile becomes its gradient.
    copies = number if layout.on_gpu else number + 7 * SUM_BYTES + 1
    return SUM_BYTES * shape.hidden * read + tile * copies


def _block_of_logits(config: Config, shape: BaseShape, tokens: int, layout: Layout) -> int:
    """Logits of a block of the vocabulary in the base's format and in fp32, and their probabilities in the former."""
    number = FLOAT_BYTES[config.precision]
    block = min(BLOCK_LOGITS_CUDA if layout.on_gpu else BLOCK_LOGITS, tokens * shape.vocabulary)
    return block * (SUM_BYTES if number == SUM_BYTES else 2 * number + SUM_BYTES)


def _summed_weights(config: Config, shape: BaseShape, layout: Layout) -> int:
    """The one weight that a layer forms anew: W + s B A in fp32, or 4-bit weights unpacked."""
    number = FLOAT_BYTES[config.precision]
    if config.base.quantization == "4bit":
        return number * shape.largest_linear
    return number * shape.largest_linear if number == SUM_BYTES and not layout.sharded else 0


def _buckets(load: Load, layout: Layout) -> int:
    if not layout.zero:
        return 0
    if load.stage == "sft":
        return SUM_BYTES * SFT_BUCKET * (2 if layout.zero == 2 else 1)
    return SUM_BYTES * BUCKET


def _gathered(config: Config, shape: BaseShape, load: Load, layout: Layout) -> int:
    """Whole weights that ZeRO-3 puts together: one tensor at a time, in SFT as many as DeepSpeed keeps by itself."""
    if not layout.sharded:
        return 0
    whole = min(shape.parameters, SFT_LIVE) if load.stage == "sft" else shape.largest_module
    return FLOAT_BYTES[config.precision] * max(whole, shape.largest_module)


def _decoding(config: Config, shape: BaseShape, decoding: Decoding, layout: Layout) -> dict[Kind, int]:
    number = FLOAT_BYTES[config.precision]
    how = Pass(decoding.lora, number, "fused", decoding.prompt)
    merged = config.precision == "fp32" and config.base.quantization == "none" and not layout.sharded
    capacity = decoding.prompt + decoding.response
    # Reading all prompts needs more than a token per row does.
    reading = max(decoding.prompts * decoding.prompt, decoding.rows)
    unpacked = number * shape.largest_linear if config.base.quantization == "4bit" else 0
    # Logits, their exponentials, and a float64 copy that is summed.
    per_word = 2 * SUM_BYTES + 8 + (number if number < SUM_BYTES else 0)
    gathered = number * (shape.parameters if decoding.whole else shape.largest_module) if layout.sharded else 0
    return {
        "KV cache": decoding.rows * capacity * len(shape.blocks) * 2 * number * shape.key_width,
        "merge backup": SUM_BYTES * shape.adapted_weights(decoding.lora) if merged else 0,
        "temporaries": reading * passing_per_token(shape, how) + unpacked,
        "logits": decoding.rows * shape.vocabulary * per_word,
        "all-gather": gathered,
    }
