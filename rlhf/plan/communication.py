"""Bytes that each GPU sends per optimiser step, in collectives over a ring (Rajbhandari et al. 2020, section 7).

With N GPUs, T trainable parameters (fp32), W bytes of sharded weights, m micro-steps and p gatherings per micro-step, a
gathering or a reduction that leaves each its part sends (N - 1)/N of what is moved, an all-reduce twice that:

    ZeRO 0    2 (N-1)/N 4 T                                      gradients, once
    ZeRO 1    2 (N-1)/N 4 T + (N-1)/N 4 T                        gradients once, then the new weights
    ZeRO 2    2 m (N-1)/N 4 T + (N-1)/N 4 T                      gradients in each micro-step, then the new weights
    ZeRO 3    m (N-1)/N 4 T + (N-1)/N 4 T + m p (N-1)/N W        gradients to their owner, and the base for each pass

DeepSpeed 0.19 sums gradients under ZeRO 1 and 2 by all-reduce, several owners' at once, and drops what is not its own.
p counts the trunk: forward and backward (twice), forward again with gradient checkpointing (three times), each for every
trunk; an adapter critic is a second one. The output layer is gathered once per micro-step where logits are read. Decoding
under ZeRO-3 gathers the base for every pass: one for the prompts, one for each further token of the longest response; or, with
`ppo.gather_to_decode`, once.
"""

from rlhf.config.base import Zero
from rlhf.config.recipe import Config
from rlhf.plan.activations import SUM_BYTES
from rlhf.plan.loads import Decoding, Training
from rlhf.plan.memory import Layout
from rlhf.plan.shape import FLOAT_BYTES, BaseShape


def communication_bytes(
    zero: Zero,
    gpus: int,
    trainable: int,
    *,
    micro_steps: int = 1,
    gathered: int = 0,
) -> float:
    """Return the bytes that each GPU sends per optimiser step.

    Args:
        zero: DeepSpeed ZeRO stage.
        gpus: N.
        trainable: T, parameters of adapters and heads that learn.
        micro_steps: m, forward and backward passes of a GPU per optimiser step.
        gathered: p W, bytes of the base put together in one micro-step (`gathered_bytes`); only ZeRO 3 moves them.
    """
    part = (gpus - 1) / gpus
    gradients = SUM_BYTES * trainable
    if zero == 0:
        return 2 * part * gradients
    sums = {1: 2, 2: 2 * micro_steps, 3: micro_steps}[zero]
    return part * gradients * (sums + 1) + (part * micro_steps * gathered if zero == 3 else 0.0)


def gathered_bytes(config: Config, shape: BaseShape, training: Training) -> int:
    """Return the bytes of the base that one micro-step puts together under ZeRO-3."""
    number = FLOAT_BYTES[config.precision]
    head = 0 if training.output == "head" else shape.hidden * shape.vocabulary
    trunk = number * shape.linear_weights
    experts = number * sum(block.expert_weights for block in shape.blocks)
    passes = 3 if config.base.gradient_checkpointing else 2
    # The embeddings are only looked up in, forward; norms are small and stay whole.
    embeddings = number * shape.hidden * shape.vocabulary
    return training.trunks * (passes * (trunk + experts) + embeddings) + number * head


def decoding_bytes(config: Config, shape: BaseShape, layout: Layout, decoding: Decoding | None) -> float:
    """Return the bytes that each GPU sends to decode one batch of rows: the base for each token of the longest response, or once."""
    if decoding is None or not layout.sharded:
        return 0.0
    gatherings = 1 if decoding.whole else decoding.response
    return gatherings * FLOAT_BYTES[config.precision] * shape.parameters * (layout.gpus - 1) / layout.gpus
