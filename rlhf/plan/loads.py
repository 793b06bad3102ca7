"""What each stage of a recipe puts on a device: its roles, its largest training pass, its decoding, its largest reading pass.

Every prompt, response and example is taken at its longest, so that what is planned for is the worst batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rlhf.config.base import LoraSection
from rlhf.config.recipe import Config
from rlhf.config.training import fitted_micro_batch
from rlhf.evaluation.compare import CANDIDATES
from rlhf.plan.shape import BaseShape
from rlhf.stage_graph import import_path, needed_stages

PlannedStage = Literal["sft", "candidates", "reward", "ppo", "evaluate"]
PLANNED: tuple[PlannedStage, ...] = ("sft", "candidates", "reward", "ppo", "evaluate")


@dataclass(frozen=True)
class Role:
    """An adapter in memory (None: only a head on another role's trunk), and the scalars of its head."""

    name: str
    lora: LoraSection | None
    heads: int = 0
    trainable: bool = False

    def parameters(self, shape: BaseShape) -> int:
        """Return the weights of adapter and heads; a head has a weight per dimension and a bias."""
        adapter = 0 if self.lora is None else shape.adapter_parameters(self.lora)
        return adapter + self.heads * (shape.hidden + 1)


@dataclass(frozen=True)
class Training:
    """One forward and backward pass, and how often it comes.

    Attributes:
        lora: Shape of the adapter that learns.
        rows: Sequences.
        width: Tokens in each.
        responses: Tokens in each whose output is read.
        trunks: Passes through the blocks that are kept at once: a critic with an adapter is a second one.
        layers: Which pass LoRA layers take where the base is whole and not in 4 bits.
        output: How the last hidden states are read: `fused` (TRL), `frozen` (logprobs), `head` (scalars only).
        masked: Whether attention takes a mask of its own per token.
        dropout: Whether the adapter's input is dropped out.
        micro_steps: Passes of a process per optimiser step.
    """

    lora: LoraSection
    rows: int
    width: int
    responses: int
    trunks: int
    layers: Literal["fused", "peft"]
    output: Literal["fused", "frozen", "head"]
    masked: bool
    dropout: bool
    micro_steps: int


@dataclass(frozen=True)
class Decoding:
    """Rows decoded together: `prompts` different ones of `prompt` tokens, `response` more for each row.

    `whole` tells whether ZeRO-3 puts the base together once for all tokens (`ppo.gather_to_decode`).
    """

    lora: LoraSection
    rows: int
    prompts: int
    prompt: int
    response: int
    whole: bool = False


@dataclass(frozen=True)
class Load:
    """What one stage puts on a device.

    Attributes:
        stage: Its name.
        roles: Adapters and heads in memory.
        training: Its largest training pass; None where nothing learns.
        decoding: Its largest decode batch; None where nothing is sampled.
        reading: (rows, width) of its largest pass without gradients.
    """

    stage: PlannedStage
    roles: tuple[Role, ...]
    training: Training | None
    decoding: Decoding | None
    reading: tuple[int, int]

    def trainable(self, shape: BaseShape) -> int:
        """Return how many weights learn."""
        return sum(role.parameters(shape) for role in self.roles if role.trainable)

    def attached(self, shape: BaseShape) -> int:
        """Return how many weights of adapters and heads are in memory."""
        return sum(role.parameters(shape) for role in self.roles)


def stage_loads(config: Config, shape: BaseShape, processes: int) -> Iterator[Load]:
    """Yield the loads of the stages that a recipe needs and that use the shared base.

    Args:
        config: The recipe.
        shape: The base.
        processes: Processes of launched stages, which share a batch.
    """
    makers = {
        "sft": lambda: _sft(config, processes),
        "candidates": lambda: _candidates(config),
        "reward": lambda: _reward(config, shape, processes),
        "ppo": lambda: _ppo(config, processes),
        "evaluate": lambda: _evaluate(config),
    }
    needed = needed_stages(config)
    for stage in PLANNED:
        elsewhere = stage == "reward" and config.reward.base.model is not None
        if stage in needed and not elsewhere and (stage == "evaluate" or import_path(stage, config) is None):
            yield makers[stage]()


def _sft(config: Config, processes: int) -> Load:
    sft = config.sft
    learns = sft.method == "lora"
    share = max(1, sft.batch_size // processes)
    rows = fitted_micro_batch(share, sft.micro_batch_size)
    training = Training(
        lora=sft.lora,
        rows=rows,
        width=sft.max_tokens,
        responses=sft.max_tokens,
        trunks=1,
        layers="peft",
        output="fused",
        masked=rows > 1,
        dropout=sft.lora.dropout > 0,
        micro_steps=share // rows,
    )
    role = Role("policy", sft.lora, trainable=learns)
    return Load(
        "sft", (role,), training if learns else None, None, (sft.micro_batch_size if learns else 1, sft.max_tokens)
    )


def _candidates(config: Config) -> Load:
    candidates, lora = config.candidates, config.sft.lora
    rows = candidates.batch_size
    prompts = -(-rows // candidates.samples)
    decoding = Decoding(lora, rows, prompts, config.prompts.max_tokens, candidates.max_new_tokens)
    return Load("candidates", (Role("policy", lora),), None, decoding, (0, 0))


def _reward(config: Config, shape: BaseShape, processes: int) -> Load:
    reward, count = config.reward, config.candidates.count
    lora = _reward_lora(config)
    prompt, response = _ranked_lengths(config)
    share = reward.share_prompt and shape.can_branch
    rows, width = (1, prompt + count * response) if share else (count, prompt + response)
    prompts = _fitting(reward.micro_batch_prompts, reward.micro_batch_tokens, rows * width)
    training = Training(
        lora=lora,
        rows=prompts * rows,
        width=width,
        responses=1,
        trunks=1,
        layers="fused",
        output="head",
        masked=share,
        dropout=False,
        micro_steps=max(1, -(-reward.batch_prompts // (prompts * processes))),
    )
    roles = (Role("policy", config.sft.lora), Role("reward", lora, reward.heads, trainable=True))
    rollouts = config.ppo
    sampled = min(reward.score_batch_size, reward.normalisation_prompts)
    decoding = Decoding(config.sft.lora, sampled, sampled, config.prompts.max_tokens, rollouts.max_new_tokens)
    # The held-out prompts go two passes at a time; then all held-out candidates are scored.
    scored = (reward.score_batch_size, prompt + response)
    looks = max((2 * training.rows, width), scored, key=lambda pair: pair[0] * pair[1])
    return Load("reward", roles, training, decoding, looks)


def _ppo(config: Config, processes: int) -> Load:
    ppo, lora = config.ppo, config.sft.lora
    width = config.prompts.max_tokens + ppo.max_new_tokens
    critic = ppo.critic if ppo.advantage == "gae" else None
    rows = _fitting(min(ppo.micro_batch_size, ppo.minibatch_size), ppo.micro_batch_tokens, width)
    training = Training(
        lora=lora,
        rows=rows,
        width=width,
        responses=ppo.max_new_tokens,
        trunks=2 if critic == "adapter" else 1,
        layers="fused",
        output="frozen",
        masked=False,
        dropout=False,
        micro_steps=max(1, -(-ppo.minibatch_size // (rows * processes))),
    )
    roles = [Role("reference", lora), Role("policy", lora, trainable=True)]
    judged = _has_reward_role(config)
    if judged:
        roles.append(Role("reward", _reward_lora(config), config.reward.heads))
    if critic is not None:
        start = _reward_lora(config) if judged else lora
        roles.append(Role("critic", start if critic == "adapter" else None, 1, trainable=True))
    decoded = min(ppo.rollout_batch_size, max(1, ppo.batch_size // processes))
    decoding = Decoding(
        lora,
        decoded,
        -(-decoded // ppo.samples_per_prompt),
        config.prompts.max_tokens,
        ppo.max_new_tokens,
        whole=ppo.gather_to_decode,
    )
    return Load("ppo", tuple(roles), training, decoding, (ppo.micro_batch_size, width))


def _evaluate(config: Config) -> Load:
    evaluate, lora = config.evaluate, config.sft.lora
    roles = [Role("reference", lora), Role("policy", lora)]
    if _has_reward_role(config):
        roles.append(Role("reward", _reward_lora(config), config.reward.heads))
    rows = evaluate.batch_size
    # The policy's answers are one per prompt, so that all prompts of a batch differ.
    decoding = Decoding(lora, rows, rows, config.prompts.max_tokens, evaluate.max_new_tokens)
    width = config.prompts.max_tokens + evaluate.max_new_tokens
    return Load("evaluate", tuple(roles), None, decoding, (rows, width))


def evaluated_samples(config: Config) -> int:
    """Return how many responses to each test prompt are drawn: those of SFT, and one of the policy."""
    return max(config.evaluate.best_of, CANDIDATES) + 1


def _has_reward_role(config: Config) -> bool:
    return config.score.reward != 0 and config.reward.base.model is None


def _reward_lora(config: Config) -> LoraSection:
    return config.reward.lora if config.reward.init == "fresh" else config.sft.lora


def _ranked_lengths(config: Config) -> tuple[int, int]:
    """Return the tokens of the longest ranked prompt and response; imported ones may fill `reward.max_tokens`."""
    limit = config.reward.max_tokens
    prompt = min(config.prompts.max_tokens, limit - 1)
    imported = config.pairs.import_path is not None or config.candidates.import_path is not None
    sampled = limit if imported else config.candidates.max_new_tokens
    return prompt, min(limit - prompt, sampled)


def _fitting(most: int, tokens: int | None, width: int) -> int:
    """Return how many items of a width are in a pass: at most so many, and at most so many tokens, but one."""
    return most if tokens is None else max(1, min(most, tokens // width))
