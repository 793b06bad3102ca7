"""What a forward pass keeps for its backward pass, and what it needs in passing; in bytes per token of one block.

With b bytes per number, width H, queries Q, keys K (over all heads), MLP width I, rank r and n heads, a Llama block with
adapters on all its linear layers keeps

    norms      2 (4 H + 4)               the input in fp32, and the root mean square
    attention  b (H + 2 Q + 2 K) + 4 n   the projections' common input; queries, keys, values, output; the softmax's sums
    MLP        b (H + 4 I)               the common input; gate, its activation, up; the product
    LoRA       7 r b                     the narrow side of each adapter

In fp32 the fused layers form W + s B A anew instead of keeping the narrow side. Where PEFT's own pass runs (SFT, 4-bit,
ZeRO-3) each adapter of a bf16 base keeps its input once more, in fp32. Attention without a fused kernel (`eager`) keeps
the square of probabilities; with a mask of its own per token, keys and values of all heads and the mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf.config.base import LoraSection
from rlhf.plan.shape import BaseShape, Block, Linear

SUM_BYTES = 4
"""Norms, adapters and the sums of a softmax are in fp32."""
_STEPS = {"gelu_new": 4, "gelu_fast": 4}
"""Tensors that an activation written in several steps keeps; torch's own keep their input."""


@dataclass(frozen=True)
class Pass:
    """How tokens pass the base.

    Attributes:
        lora: Shape of the active adapter.
        number: Bytes of a number: 4 in fp32, 2 in bf16.
        layers: `fused` (rlhf.models.fused) or `peft`.
        width: Tokens in a row.
        masked: Whether attention takes a mask of its own per token.
        dropout: Whether the adapter's input is dropped out.
    """

    lora: LoraSection
    number: int
    layers: Literal["fused", "peft"]
    width: int
    masked: bool = False
    dropout: bool = False


def kept_per_token(shape: BaseShape, how: Pass) -> int:
    """Return the bytes that all blocks together keep for the backward pass, per token."""
    targets = shape.targets(how.lora)
    return sum(_kept_in_block(shape, block, how, targets) for block in shape.blocks)


def largest_block(shape: BaseShape, how: Pass) -> int:
    """Return what the largest block keeps, per token: with gradient checkpointing only one at a time is whole."""
    targets = shape.targets(how.lora)
    return max(_kept_in_block(shape, block, how, targets) for block in shape.blocks)


def passing_per_token(shape: BaseShape, how: Pass) -> int:
    """Return the bytes of temporaries at the widest place of a block, per token; the backward pass has as many."""
    return max(_passing_in_block(shape, block, how) for block in shape.blocks)


def _kept_in_block(shape: BaseShape, block: Block, how: Pass, targets: frozenset[str]) -> int:
    norms = sum(
        how.number * norm.width + 2 * SUM_BYTES if norm.native else SUM_BYTES * (norm.width + norm.vectors)
        for norm in block.norms
    )
    return norms + _kept_in_attention(shape, block, how, targets) + _kept_in_mlp(shape, block, how, targets)


def _kept_in_attention(shape: BaseShape, block: Block, how: Pass, targets: frozenset[str]) -> int:
    b, queries, keys = how.number, shape.query_width, shape.key_width
    into, out = block.at("attention_in"), block.at("attention_out")
    kept = _kept_inputs(into, how, targets)
    if shape.attention == "eager":
        kept += b * 4 * queries + shape.heads * how.width * (SUM_BYTES + (b if b < SUM_BYTES else 0))
    else:
        kept += b * (4 * queries if how.masked else 2 * queries + 2 * keys) + SUM_BYTES * shape.heads
        kept += b * how.width if how.masked else 0
    if len(into) == 1 and shape.rotary:
        # The values are a view of all three, which therefore stay beside the rotated queries and keys.
        kept += b * (queries + keys)
    # The output projection's input is attention's output, kept already.
    return kept + _kept_by_adapters(out, how, targets)


def _kept_in_mlp(shape: BaseShape, block: Block, how: Pass, targets: frozenset[str]) -> int:
    b, into, out = how.number, block.at("mlp_in"), block.at("mlp_out")
    kept = _kept_inputs(into, how, targets)
    inner = sum(linear.inputs for linear in out)
    adapted = any(linear.name in targets for linear in out)
    product = b * inner if adapted and not _copies(how) else 0
    if _is_gated(block):
        kept += 3 * b * inner + product
    elif shape.activation == "relu":
        kept += b * inner
    else:
        kept += b * inner * _STEPS.get(shape.activation, 1) + product
    experts = shape.experts_per_token if block.expert_weights else 0
    return kept + _kept_by_adapters(out, how, targets) + experts * b * (shape.hidden + 4 * shape.expert_width)


def _kept_inputs(linears: Sequence[Linear], how: Pass, targets: frozenset[str]) -> int:
    """Return what linear layers with one common input keep of it."""
    adapted = [linear for linear in linears if linear.name in targets]
    common = how.number * adapted[0].inputs if adapted and not _copies(how) else 0
    return common + _kept_by_adapters(linears, how, targets)


def _kept_by_adapters(linears: Sequence[Linear], how: Pass, targets: frozenset[str]) -> int:
    """Return what each adapter keeps for itself: its narrow side, its copy of the input, its dropout."""
    adapted = [linear for linear in linears if linear.name in targets]
    kept = sum(SUM_BYTES * linear.inputs for linear in adapted) if _copies(how) else 0
    if how.dropout:
        kept += sum(linear.inputs for linear in adapted)
    if how.layers == "peft":
        return kept + len(adapted) * SUM_BYTES * how.lora.rank
    return kept + (len(adapted) * how.number * how.lora.rank if how.number < SUM_BYTES else 0)


def _copies(how: Pass) -> bool:
    """Whether each adapter keeps its own fp32 input: PEFT casts a bf16 one, dropout makes a new one."""
    return how.layers == "peft" and (how.number < SUM_BYTES or how.dropout)


def _is_gated(block: Block) -> bool:
    into, out = block.at("mlp_in"), block.at("mlp_out")
    return sum(linear.outputs for linear in into) == 2 * sum(linear.inputs for linear in out)


def _passing_in_block(shape: BaseShape, block: Block, how: Pass) -> int:
    b, hidden = how.number, shape.hidden
    inner = sum(linear.inputs for linear in block.at("mlp_out")) + shape.experts_per_token * shape.expert_width
    mlp = b * (2 * hidden + (3 if _is_gated(block) or shape.experts_per_token else 2) * inner)
    attention = b * (2 * hidden + 3 * shape.query_width + 3 * shape.key_width)
    if shape.attention == "eager":
        attention += shape.heads * how.width * (SUM_BYTES + b)
    norm = b * hidden + 3 * SUM_BYTES * hidden
    return max(mlp, attention, norm)
