"""Configuration of the last stages: evaluate, export."""

from rlhf.config.fields import result, section, speed


@section
class EvaluateConfig:
    """Numbers on test prompts: SFT, best-of-n and PPO side by side."""

    max_prompts: int | None = result(None, ge=2)
    """Use at most this many test prompts."""
    best_of: int = result(4, ge=2, le=128)
    """Best-of-n takes the highest score of this many SFT samples."""
    temperature: float = result(1.0, ge=0, le=5)
    """Sampling temperature of all policies; 0 is greedy."""
    max_new_tokens: int = result(64, ge=1)
    """Longest response, in tokens."""
    batch_size: int = speed(128, ge=1)
    """Responses decoded together, per process."""


@section
class ExportConfig:
    """What leaves the house."""

    name: str = result("aligned")
    """Name on the model card."""
    merged: bool = result(True)
    """Also write the base with the adapter merged in."""
    verify_prompts: int = result(50, ge=1)
    """Prompts on which a fresh process must reproduce the logits and greedy tokens."""
