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


def require_shares(whole: int, processes: int, name: str) -> None:
    """Refuse a batch that the processes cannot share evenly.

    Raises:
        ValueError: `whole` is no multiple of `processes`.
    """
    if whole % processes:
        below, above = whole - whole % processes, whole + -whole % processes
        tried = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"{name} is {whole}, which {processes} processes do not share evenly; try {tried}")


def fitted_micro_batch(share: int, most: int) -> int:
    """Return the largest number up to `most` that divides a process's share of a batch."""
    return max(size for size in range(1, min(share, most) + 1) if share % size == 0)


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
    """Examples per forward pass and process, at most: a number that divides the process's share of the batch."""
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
class RewardBaseConfig:
    """A base of the reward model's own."""

    model: str | None = result(None)
    """A local folder or a model id on the hub, decoder or encoder, with its own tokenizer; safetensors only. None trains an
    adapter on the shared base."""
    revision: str | None = result(None)
    """Commit of a hub model, all 40 digits: a branch or a tag can move."""
    gradient_checkpointing: bool = speed(False)
    """Recompute activations in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _a_revision_is_of_a_model(self) -> Self:
        if self.revision is not None and self.model is None:
            raise ValueError(f"revision is {self.revision} and model is not given; name the model too")
        return self


@section
class RewardConfig:
    """Reward model: an adapter and one or several scalar heads on the shared base, or a model with a base of its own."""

    import_path: Path | None = result(None)
    """Take the reward model from this folder (PEFT adapter, head.safetensors, reward.json) instead of training it."""
    base: RewardBaseConfig = result(lambda: RewardBaseConfig())
    """Train another model than the shared base; it is frozen afterwards and scores texts."""
    tuning: Literal["lora", "full"] = result("lora")
    """How a base of its own learns: by an adapter that is merged in the end, or every weight (then lower `learning_rate`, to
    1e-5 say)."""
    init: Literal["sft", "fresh"] = result("sft")
    """Start from a copy of the SFT adapter, or from a new one; on a base of its own an adapter is always new."""
    lora: LoraSection = result(lambda: LoraSection())
    """The adapter's shape when it is fresh; a copy keeps the SFT adapter's."""
    heads: int = result(1, ge=1, le=64)
    """Scalar heads on the adapter, each trained on its own weighting of the prompts; the score is their mean."""
    uncertainty_penalty: float = result(0.0, ge=0)
    """Subtract this many times the variance of the heads' normalised scores (Coste et al. 2024); 0 leaves an imported model's
    own."""
    pooling: Literal["last", "mean"] = result("last")
    """Read the score at the last response token, or average it over the response."""
    learning_rate: float = result(2e-4, gt=0)
    """Peak learning rate of the adapter, or of all of the trunk with tuning `full`."""
    head_learning_rate: float = result(1e-3, gt=0)
    """Peak learning rate of the scalar head."""
    epochs: int = result(2, ge=1)
    """Passes over the ranked prompts, at most."""
    batch_prompts: int = result(16, ge=1)
    """Prompts per optimiser step, over all processes; all pairs of a prompt are in one step."""
    micro_batch_prompts: int = speed(16, ge=1)
    """Prompts per forward pass and process, at most."""
    micro_batch_tokens: int | None = speed(None, ge=1)
    """Tokens per forward pass and process, padding included; prompts of neighbouring lengths share one, each with all its
    candidates."""
    share_prompt: bool = speed(True)
    """Read a prompt once for all its candidates, which do not see each other; where the base's attention allows it, and never
    on a base of its own."""
    max_tokens: int = result(512, ge=8)
    """Longer examples are refused, prompt and response together; a base of its own reads their last tokens, here and later."""
    likelihood: Literal["bradley_terry", "davidson", "plackett_luce"] = result("bradley_terry")
    """Of all pairs of a prompt (Bradley and Terry), of pairs that may tie (Davidson), or of the whole order (Plackett and
    Luce)."""
    tie_strength: float = result(0.5, gt=0)
    """Davidson's nu: two equal responses tie with probability nu / (2 + nu)."""
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
    score_batch_size: int = speed(64, ge=1)
    """Responses that are sampled and scored at a time once training is done, also by `rlhf label prioritise`."""
    min_score_std: float = result(0.5, ge=0)
    """Divide calibrated scores, log-odds of preference, by at least this: who tells little apart speaks softly."""
    control: Literal["none", "shuffled", "flipped"] = result("none")
    """Negative controls: train on shuffled labels, or flip the sign of every score afterwards."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.micro_batch_tokens is None:
            require_multiple(self.batch_prompts, self.micro_batch_prompts, "batch_prompts", "micro_batch_prompts")
        return self

    @model_validator(mode="after")
    def _only_an_own_base_learns_as_a_whole(self) -> Self:
        if self.tuning == "full" and self.base.model is None:
            raise ValueError(
                "tuning is full and base.model is not given: all roles share the frozen base, and only a base of its own "
                "can learn as a whole; name one as reward.base.model, or leave tuning out"
            )
        return self

    @model_validator(mode="after")
    def _an_own_base_reads_its_own_score(self) -> Self:
        if self.base.model is None:
            return self
        if self.import_path is not None:
            raise ValueError(
                f"import_path is {self.import_path} and base.model is {self.base.model}: an imported reward model is not "
                "trained; leave out one of them"
            )
        if self.pooling != "last" or self.heads != 1:
            raise ValueError(
                f"pooling is {self.pooling} and heads is {self.heads}, which are for the shared base: {self.base.model} reads "
                "one score where its architecture does; leave both out"
            )
        return self

    @model_validator(mode="after")
    def _one_head_has_no_variance(self) -> Self:
        if self.uncertainty_penalty and self.heads == 1 and self.import_path is None:
            raise ValueError(
                f"uncertainty_penalty is {self.uncertainty_penalty} and heads is 1: one head has no variance; set heads to 2 "
                "or more (4 is a good start), or leave uncertainty_penalty out"
            )
        return self

    @model_validator(mode="after")
    def _orders_are_not_smoothed(self) -> Self:
        if self.likelihood == "plackett_luce" and (self.margins or self.label_smoothing):
            raise ValueError("likelihood plackett_luce knows neither margins nor label_smoothing; leave them out")
        return self


@section
class GuardConfig:
    """When a batch counts as bad: it is left out of training, and several in a row stop the run."""

    max_kl_nats: float = result(100.0, gt=0)
    """Mean KL of the responses to the reference above this, in nats per response."""
    max_ratio: float = result(10.0, gt=1)
    """Mean probability ratio of a minibatch above this, or below its inverse."""
    min_length_share: float = result(0.1, ge=0, lt=1)
    """Mean response length below this share of the first batch's."""
    min_eos_share: float = result(0.1, ge=0, lt=1)
    """Share of responses that end by themselves below this share of the first batch's, where most of those ended."""
    patience: int = result(3, ge=1)
    """This many bad batches in a row stop the run."""


@section
class PpoConfig:
    """PPO that moves only the policy's LoRA weights (and the critic's)."""

    import_path: Path | None = result(None)
    """Take the aligned adapter from this PEFT folder instead of training it."""
    start: Literal["sft", "previous"] = result("sft")
    """Where the policy starts: the SFT adapter, or the previous round's policy."""
    reference: Literal["sft", "previous"] = result("sft")
    """What the KL term anchors to."""
    advantage: Literal["gae", "rloo"] = result("gae")
    """Generalised advantage estimation with a critic; or the leave-one-out baseline, without one."""
    samples_per_prompt: int = result(1, ge=1)
    """Responses to each prompt of a batch; `rloo` compares them with each other and needs 2 or more."""
    critic: Literal["adapter", "head"] = result("adapter")
    """The critic's own adapter, initialised from the reward model; or a head on the policy's trunk."""
    updates: int = result(100, ge=1)
    """Rollout-and-optimise rounds."""
    batch_size: int = result(128, ge=2)
    """Episodes per update, over all processes."""
    minibatch_size: int = result(128, ge=1)
    """Episodes per optimiser step, over all processes."""
    micro_batch_size: int = speed(32, ge=1)
    """Episodes per forward pass and process, at most."""
    micro_batch_tokens: int | None = speed(None, ge=1)
    """Tokens per forward pass and process, padding included; episodes of neighbouring lengths share one."""
    rollout_batch_size: int = speed(128, ge=1)
    """Episodes decoded together, per process."""
    gather_to_decode: bool = speed(False)
    """With launch.zero 3, hold the whole base in every GPU while responses are decoded: much faster, where it fits."""
    epochs: int = result(4, ge=1)
    """Passes over each batch of episodes."""
    stop_epochs_kl: float | None = result(None, gt=0)
    """Leave out the rest of an update once a minibatch's KL to the rollout's policy exceeds this, in nats per token."""
    learning_rate: float = result(1e-5, gt=0)
    """Peak learning rate of the policy."""
    critic_learning_rate: float = result(1e-4, gt=0)
    """Peak learning rate of the critic adapter and head."""
    critic_warmup_updates: int = result(2, ge=0)
    """First updates that train the critic alone; `rloo` has none."""
    linear_decay: bool = result(True)
    """Lower the learning rates linearly to 0 over the run."""
    adam_epsilon: float = result(1e-5, gt=0)
    """Adam's epsilon (Huang et al. 2024)."""
    max_grad_norm: float = result(1.0, gt=0)
    """Global gradient clipping."""
    kl_coef: float = result(0.1, ge=0)
    """Weight of the per-token KL term in the reward; where the controller adapts it, the first one."""
    kl_controller: Literal["fixed", "adaptive"] = result("fixed")
    """Keep `kl_coef`, or steer it so that the KL comes to `kl_target` (Ziegler et al. 2019)."""
    kl_target: float = result(6.0, gt=0)
    """KL that the adaptive controller steers to, in nats per response."""
    kl_horizon: int = result(10000, ge=1)
    """Episodes in which the adaptive controller changes the coefficient by at most about a fifth."""
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
    score_shaping: Literal["none", "preference"] = result("none")
    """Train on the score, or on the probability of being preferred to reference responses (PAR, Fu et al. 2025)."""
    shaping_samples: int = result(1, ge=1)
    """Reference responses to each prompt that `preference` compares with."""
    missing_eos_penalty: float = result(1.0, ge=0)
    """Subtracted from the score of a response that does not end by itself."""
    max_new_tokens: int = result(64, ge=1)
    """Longest response, in tokens."""
    temperature: float = result(1.0, gt=0, le=5)
    """Sampling temperature, also of all logprobs; rollouts use no top-k or top-p."""
    select: Literal["last", "best"] = result("last")
    """Keep the last policy, or the one with the best validation score at a KL of at most `best_max_kl_nats`."""
    best_max_kl_nats: float = result(10.0, gt=0)
    """KL on the validation prompts beyond which a policy is never the best one, in nats per response."""
    evaluate_every: int = result(10, ge=1)
    """Updates between looks at the validation prompts."""
    evaluation_prompts: int = result(64, ge=1)
    """Validation prompts per look."""
    guard: GuardConfig = result(lambda: GuardConfig())
    """When a batch counts as bad."""
    checkpoint_every: int = output(10, ge=1)
    """Updates between checkpoints."""
    keep_checkpoints: int = output(2, ge=1)
    """Checkpoints kept, besides the last good one."""

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        require_multiple(self.batch_size, self.minibatch_size, "batch_size", "minibatch_size")
        require_multiple(self.batch_size, self.samples_per_prompt, "batch_size", "samples_per_prompt")
        if self.micro_batch_tokens is None:
            require_multiple(self.minibatch_size, self.micro_batch_size, "minibatch_size", "micro_batch_size")
        if self.advantage == "rloo" and self.samples_per_prompt < 2:
            raise ValueError(f"advantage rloo needs samples_per_prompt of 2 or more, found {self.samples_per_prompt}")
        return self
