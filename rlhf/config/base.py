"""Configuration of the base model and of its prompt format."""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from rlhf.config.embedded import EmbeddedConfig
from rlhf.config.fields import output, result, section, speed

Zero = Literal[0, 1, 2, 3]
"""A DeepSpeed ZeRO stage (Rajbhandari et al. 2020); 0 is plain data parallelism."""
Offload = Literal["none", "optimizer", "all"]


@section
class BaseConfig:
    """Which base model all roles share."""

    model: str = result("embedded")
    """`embedded` (trained on the spot, no network), a local folder, or a model id on the hub."""
    revision: str | None = result(None)
    """Commit of a hub model; it is pinned in the artifact at first use."""
    quantization: Literal["none", "4bit"] = result("none")
    """`4bit` loads the frozen base through bitsandbytes (NF4, double quantisation)."""
    prompt_format: Literal["auto", "chat", "plain"] = result("auto")
    """`chat` uses the tokenizer's chat template, `plain` continues the bare text, `auto` takes chat if there is one."""
    end_tokens: tuple[str, ...] | None = result(None)
    """Tokens that end a response; the first is the one taught. Default: the model's generation_config."""
    trust_remote_code: bool = result(False)
    """Run Python code that comes with the model; off unless you trust its author."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = speed("sdpa")
    """Attention kernel."""
    gradient_checkpointing: bool = speed(False)
    """Recompute activations in the backward pass: less memory, about a third more time."""
    embedded: EmbeddedConfig = result(lambda: EmbeddedConfig())
    """Size and training of the embedded base."""


@section
class LoraSection:
    """Shape of a low-rank adapter (Hu et al. 2021)."""

    rank: int = result(16, ge=1, le=1024)
    """Rank r of the update."""
    alpha: float = result(32.0, gt=0)
    """The update is scaled by alpha / r."""
    targets: tuple[str, ...] = result(("all-linear",))
    """Names of the linear layers that get an adapter; `all-linear` takes all but the output head."""
    dropout: float = result(0.0, ge=0, lt=1)
    """Dropout on the adapter's input, used by SFT only; reward and PPO always run without."""


@section
class GoldConfig:
    """A scorer that stands for the truth in simulations; never seen by reward training or PPO."""

    scorer: Literal["none", "world", "lexicon"] = result("none")
    """`world` judges the embedded world's answers, `lexicon` sums word valences of a lexicon file."""
    lexicon: Path | None = result(None)
    """Tab-separated word and valence (VADER's format); each word counts once per response."""


@section
class LaunchConfig:
    """How training stages are started inside `rlhf run`."""

    processes: int = speed(1, ge=1, le=1024)
    """Processes per node: one per GPU; 1 runs in-process without a launcher."""
    zero: Zero = speed(0)
    """DeepSpeed ZeRO stage: what processes share out. 1 optimiser state, 2 also gradients, 3 also the base; 0 nothing."""
    offload: Offload = speed("none")
    """What DeepSpeed keeps in the host's memory instead of the GPU's: `optimizer` state, or `all`, the base too (zero 3)."""
    timeout_minutes: float = speed(30.0, gt=0)
    """How long a process waits for the others before the stage is given up."""

    @model_validator(mode="after")
    def _offload_has_what_it_needs(self) -> Self:
        needed = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero < needed:
            raise ValueError(
                f"offload is {self.offload!r} and zero is {self.zero}: it needs zero {needed}{'' if needed == 3 else ' or more'}; "
                "raise zero, or set offload to none"
            )
        return self


@section
class TrackingConfig:
    """Where numbers go besides metrics.jsonl."""

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = output(())
    """Experiment trackers, reached through accelerate; each must be installed."""
    progress: bool = output(True)
    """Show progress bars."""
