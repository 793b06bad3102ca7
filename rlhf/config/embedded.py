"""Configuration of the embedded base model."""

from rlhf.config.fields import result, section


@section
class EmbeddedConfig:
    """Size and training of the base that is made on the spot."""

    vocabulary: int = result(1500, ge=300, le=4000)
    """Tokens of the byte-level BPE."""
    hidden_size: int = result(128, ge=16)
    """Width of the residual stream."""
    layers: int = result(3, ge=1)
    """Transformer blocks."""
    heads: int = result(4, ge=1)
    """Attention heads."""
    mlp_size: int = result(512, ge=16)
    """Width of the MLP."""
    context: int = result(256, ge=64)
    """Longest sequence, in tokens."""
    documents: int = result(40000, ge=100)
    """Generated conversations in the pretraining corpus."""
    steps: int = result(720, ge=1)
    """Optimiser steps of pretraining."""
    batch_size: int = result(16, ge=1)
    """Sequences per step."""
    sequence_length: int = result(128, ge=32)
    """Tokens per sequence."""
    learning_rate: float = result(8e-3, gt=0)
    """Peak learning rate."""
