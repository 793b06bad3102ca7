"""Floating-point operations of each stage: matrix products, two operations for each weight and token.

Counted are the blocks, attention and the output layer; not norms, activations, softmax, sampling, the optimiser, and the
adapters' own products (about 1 % of the blocks'). A backward pass costs as much as a forward pass and not twice as much: the
base is frozen, so no gradient of its weights is formed. Gradient checkpointing adds another forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rlhf.config.recipe import Config
from rlhf.plan.loads import Decoding, Load, PlannedStage, Training, evaluated_samples
from rlhf.plan.shape import BaseShape

PASS_UTILISATION, DECODE_UTILISATION = 0.3, 0.03
"""Shares of a GPU's stated rate that time is reckoned with; a base below about 2 billion parameters reaches half of them."""


@dataclass(frozen=True)
class Work:
    """Operations of one unit of a stage's work, over all GPUs.

    Attributes:
        unit: What is counted: an optimiser step, an update, a prompt.
        passes: Operations in passes over many tokens.
        decode: Operations in decoding, one token of each row at a time.
        units: How many units the recipe asks for; None where that depends on the data.
    """

    unit: Literal["optimiser step", "update", "prompt"]
    passes: float
    decode: float
    units: int | None

    def seconds(self, flops: float, gpus: int) -> float:
        """Return the time of one unit at a rate per GPU, in operations per second."""
        return (self.passes / PASS_UTILISATION + self.decode / DECODE_UTILISATION) / (flops * gpus)


def trunk_flops(weights: float, layers: int, query_width: int, tokens: int) -> float:
    """Return the operations of one pass of a sequence through all blocks.

    Args:
        weights: Weights that multiply each token, in all blocks together.
        layers: Blocks.
        query_width: Numbers of a token's queries over all heads; attention sees half of the square of tokens.
        tokens: Length of the sequence.
    """
    return 2 * weights * tokens + 2 * layers * query_width * tokens * (tokens + 1)


def stage_work(config: Config, shape: BaseShape, load: Load) -> Work | None:
    """Return the work of a stage; None where it computes nothing."""
    counters: dict[PlannedStage, Callable[[Config, BaseShape, Load], Work | None]] = {
        "sft": _sft,
        "candidates": _candidates,
        "reward": _reward,
        "ppo": _ppo,
        "evaluate": _evaluate,
    }
    return counters[load.stage](config, shape, load)


def _trunk(shape: BaseShape, tokens: int) -> float:
    return trunk_flops(shape.active_weights, len(shape.blocks), shape.query_width, tokens)


def _head(shape: BaseShape, tokens: int) -> float:
    return 2 * shape.hidden * shape.vocabulary * tokens


def _decode(shape: BaseShape, decoding: Decoding) -> tuple[float, float]:
    """Return the operations of reading one prompt, and of the response that follows."""
    whole = _trunk(shape, decoding.prompt + decoding.response)
    prompt = _trunk(shape, decoding.prompt)
    return prompt, whole - prompt + _head(shape, decoding.response)


def _learn(config: Config, shape: BaseShape, training: Training) -> float:
    """Return the operations of training on one row: forward and backward, and forward again with checkpointing."""
    passes = 3 if config.base.gradient_checkpointing else 2
    head = 0.0 if training.output == "head" else 2 * _head(shape, training.responses)
    # TRL's output layer computes its logits again in the backward pass.
    head *= 1.5 if training.output == "fused" else 1
    return passes * training.trunks * _trunk(shape, training.width) + head


def _sft(config: Config, shape: BaseShape, load: Load) -> Work | None:
    if load.training is None:
        return None
    return Work("optimiser step", config.sft.batch_size * _learn(config, shape, load.training), 0.0, None)


def _candidates(config: Config, shape: BaseShape, load: Load) -> Work:
    assert load.decoding is not None
    prompt, response = _decode(shape, load.decoding)
    return Work("prompt", prompt, config.candidates.samples * response, config.candidates.max_prompts)


def _reward(config: Config, shape: BaseShape, load: Load) -> Work:
    assert load.training is not None
    rows = 1 if load.training.masked else config.candidates.count
    return Work("optimiser step", config.reward.batch_prompts * rows * _learn(config, shape, load.training), 0.0, None)


def _ppo(config: Config, shape: BaseShape, load: Load) -> Work:
    assert load.training is not None
    assert load.decoding is not None
    ppo, training = config.ppo, load.training
    prompt, response = _decode(shape, load.decoding)
    trunk, head = _trunk(shape, training.width), _head(shape, training.responses)
    # Of policy and reference, and of a critic of its own.
    examine = (1 + training.trunks) * trunk + 2 * head
    score = trunk if config.score.reward != 0 else 0.0
    learn = ppo.epochs * _learn(config, shape, training)
    samples = 1 + (ppo.shaping_samples if ppo.score_shaping == "preference" else 0)
    passes = ppo.batch_size * (prompt * samples / ppo.samples_per_prompt + samples * score + examine + learn)
    return Work("update", passes, ppo.batch_size * samples * response, ppo.updates)


def _evaluate(config: Config, shape: BaseShape, load: Load) -> Work:
    assert load.decoding is not None
    samples = evaluated_samples(config)
    prompt, response = _decode(shape, load.decoding)
    trunk = _trunk(shape, load.decoding.prompt + load.decoding.response)
    judged = samples * trunk if config.score.reward != 0 else 0.0
    divergence = 2 * (trunk + _head(shape, load.decoding.response))
    return Work("prompt", 2 * prompt + judged + divergence, samples * response, config.evaluate.max_prompts)
