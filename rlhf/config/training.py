"""Configuration of the training stages: sft, reward, ppo."""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from rlhf.config.base import LoraSection
from rlhf.config.fields import output, result, section, speed


def require_multiple(whole: int, part: int, whole_name: str, part_name: str) -> None:
    """Refuse a batch that its part does not divide.

    Raises:
        ValueError: `whole` is no multiple of `part`.
    """
    if whole % part:
        raise ValueError(
            f"{whole_name} is {whole} and {part_name} is {part}: the first must be a multiple of the second; "
            f"try {whole_name} {max(part, whole - whole % part)} or a {part_name} that divides {whole}"
        )


@section
class SftConfig:
    """Supervised fine-tuning with LoRA, loss on the response only."""

    method: Literal["lora", "none"] = result("lora")
    """`none` starts from the base as it is (an instruct model); the reference is then a zero adapter."""
    import_path: Path | None = result(None)
    """Take the SFT adapter from this PEFT folder instead of training it."""
    lora: LoraSection = result(lambda: LoraSection())
    """The adapter; with `none` it is the shape that PPO trains."""
    learning_rate: float = result(2e-4, gt=0)
    """Peak learning rate."""
    epochs: float = result(3.0, gt=0)
    """Passes over the demonstrations, at most."""
    batch_size: int = result(32, ge=1)
    """Examples per optimiser step, over all processes."""
    micro_batch_size: int = speed(32, ge=1)
    """Examples per forward pass and process."""
    max_tokens: int = result(512, ge=8)
    """Longer examples are refused, prompt and response together."""
    warmup_share: float = result(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    max_grad_norm: float = result(1.0, gt=0)
    """Global gradient clipping."""
    evaluations: int = result(4, ge=1)
    """How many times per training the held-out loss is measured; the best adapter is kept."""
    patience: int = result(2, ge=1)
    """Stop after this many measurements without a better held-out loss."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        require_multiple(self.batch_size, self.micro_batch_size, "batch_size", "micro_batch_size")
        return self


@section
class RewardConfig:
    """Reward model: an adapter and a scalar head on the shared base."""

    import_path: Path | None = result(None)
    """Take the reward model from this folder (PEFT adapter, head.safetensors, reward.json) instead of training it."""
    init: Literal["sft", "fresh"] = result("sft")
    """Start from a copy of the SFT adapter, or from a new one."""
    lora: LoraSection = result(lambda: LoraSection())
    """The adapter's shape when it is fresh; a copy keeps the SFT adapter's."""
    pooling: Literal["last", "mean"] = result("last")
    """Read the score at the last response token, or average it over the response."""
    learning_rate: float = result(2e-4, gt=0)
    """Peak learning rate of the adapter."""
    head_learning_rate: float = result(1e-3, gt=0)
    """Peak learning rate of the scalar head."""
    epochs: int = result(2, ge=1)
    """Passes over the ranked prompts, at most."""
    batch_prompts: int = result(16, ge=1)
    """Prompts per optimiser step, over all processes; all pairs of a prompt are in one step."""
    micro_batch_prompts: int = speed(16, ge=1)
    """Prompts per forward pass and process."""
    max_tokens: int = result(512, ge=8)
    """Longer examples are refused, prompt and response together."""
    label_smoothing: float = result(0.0, ge=0, lt=0.5)
    """Move each label this far towards the opposite."""
    margins: bool = result(False)
    """Subtract the stated margin inside the sigmoid (Llama 2)."""
    centering: float = result(0.01, ge=0)
    """Weight of the squared sum of a pair's two scores, which keeps scores near 0."""
    max_grad_norm: float = result(1.0, gt=0)
    """Global gradient clipping."""
    warmup_share: float = result(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    evaluations: int = result(6, ge=1)
    """How many times per training the held-out loss is measured; the best state is kept."""
    patience: int = result(3, ge=1)
    """Stop after this many measurements without a better held-out loss."""
    normalisation_prompts: int = result(128, ge=8)
    """SFT responses to this many ppo prompts set score mean 0 and standard deviation 1."""
    control: Literal["none", "shuffled", "flipped"] = result("none")
    """Negative controls: train on shuffled labels, or flip the sign of every score afterwards."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        require_multiple(self.batch_prompts, self.micro_batch_prompts, "batch_prompts", "micro_batch_prompts")
        return self


@section
class PpoConfig:
    """PPO that moves only the policy's LoRA weights (and the critic's)."""

    import_path: Path | None = result(None)
    """Take the aligned adapter from this PEFT folder instead of training it."""
    start: Literal["sft", "previous"] = result("sft")
    """Where the policy starts: the SFT adapter, or the previous round's policy."""
    reference: Literal["sft", "previous"] = result("sft")
    """What the KL term anchors to."""
    critic: Literal["adapter", "head"] = result("adapter")
    """The critic's own adapter, initialised from the reward model; or a head on the policy's trunk."""
    updates: int = result(100, ge=1)
    """Rollout-and-optimise rounds."""
    batch_size: int = result(128, ge=2)
    """Episodes per update, over all processes."""
    minibatch_size: int = result(128, ge=1)
    """Episodes per optimiser step, over all processes."""
    micro_batch_size: int = speed(32, ge=1)
    """Episodes per forward pass and process."""
    rollout_batch_size: int = speed(128, ge=1)
    """Episodes decoded together, per process."""
    epochs: int = result(4, ge=1)
    """Passes over each batch of episodes."""
    learning_rate: float = result(1e-5, gt=0)
    """Peak learning rate of the policy."""
    critic_learning_rate: float = result(1e-4, gt=0)
    """Peak learning rate of the critic adapter and head."""
    critic_warmup_updates: int = result(2, ge=0)
    """First updates that train the critic alone."""
    linear_decay: bool = result(True)
    """Lower the learning rates linearly to 0 over the run."""
    adam_epsilon: float = result(1e-5, gt=0)
    """Adam's epsilon (Huang et al. 2024)."""
    max_grad_norm: float = result(1.0, gt=0)
    """Global gradient clipping."""
    kl_coef: float = result(0.1, ge=0)
    """Weight of the per-token KL term in the reward."""
    clip_range: float = result(0.2, gt=0)
    """Clip of the policy ratio."""
    value_clip_range: float = result(0.2, gt=0)
    """Clip of the value's move from its old estimate."""
    value_coef: float = result(0.1, gt=0)
    """Weight of the value loss."""
    discount: float = result(1.0, gt=0, le=1)
    """Discount factor gamma."""
    gae_lambda: float = result(0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation."""
    whiten_advantages: bool = result(True)
    """Advantages to mean 0 and standard deviation 1 over the batch's response tokens."""
    whiten_rewards: bool = result(False)
    """Divide rewards by their standard deviation; the mean is never shifted."""
    score_clip: float = result(5.0, gt=0)
    """Clip of the normalised score."""
    missing_eos_penalty: float = result(1.0, ge=0)
    """Subtracted from the score of a response that does not end by itself."""
    max_new_tokens: int = result(64, ge=1)
    """Longest response, in tokens."""
    temperature: float = result(1.0, gt=0, le=5)
    """Sampling temperature, also of all logprobs; rollouts use no top-k or top-p."""
    evaluate_every: int = output(10, ge=1)
    """Updates between looks at the validation prompts."""
    evaluation_prompts: int = output(64, ge=1)
    """Validation prompts per look."""
    checkpoint_every: int = output(10, ge=1)
    """Updates between checkpoints."""
    keep_checkpoints: int = output(2, ge=1)
    """Checkpoints kept."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        require_multiple(self.batch_size, self.minibatch_size, "batch_size", "minibatch_size")
        require_multiple(self.minibatch_size, self.micro_batch_size, "minibatch_size", "micro_batch_size")
        return self
