"""What to change where a run does not fit: settings that the plan itself has checked.

In the order of what they cost: smaller passes (time only), gradient checkpointing (a third more time), ZeRO-3
(communication), a bf16 base, a 4-bit base (both change results a little). Batches that decide results stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rlhf.config.recipe import Config
from rlhf.plan.loads import PlannedStage
from rlhf.plan.memory import Moment
from rlhf.plan.plan import Plan, fits, make_plan
from rlhf.plan.shape import BaseShape

# A pass may shrink to this share before another kind of change is tried.
MILD_SHARE = 1 / 8
MOST_GPUS = 1024
Settings = dict[str, Any]


@dataclass(frozen=True)
class Advice:
    """What makes a run fit.

    Attributes:
        settings: Dotted settings and their new values; None where nothing does.
        plan: The plan with them, or the one that comes nearest.
        stages: Stages that do not fit in the recipe as it is.
        hopeless: Stages that no setting makes fit, with their least peak in bytes.
        gpus: Number of GPUs on which they do fit, where more GPUs help.
    """

    settings: Settings | None
    plan: Plan
    stages: tuple[PlannedStage, ...]
    hopeless: dict[PlannedStage, int]
    gpus: int | None = None


def advise(config: Config, shape: BaseShape, gpus: int, memory: float) -> Advice:
    """Return what to change so that every stage fits into `memory` bytes on each GPU."""
    plan = make_plan(config, shape, gpus)
    stages = _too_large(plan, memory)
    if not stages:
        return Advice({}, plan, (), {})
    found = _search(config, shape, gpus, memory)
    if found is not None:
        settings, better = found
        return Advice(settings, better, stages, {})
    least = _least(config, shape, gpus)
    hopeless: dict[PlannedStage, int] = {stage: peak for stage, peak in least.items() if not fits(peak, memory)}
    return Advice(None, plan, stages, hopeless, _enough_gpus(config, shape, gpus, memory, hopeless))


def changed(config: Config, settings: Settings) -> Config:
    """Return a recipe with some dotted settings replaced."""
    for name, value in settings.items():
        section, _, field = name.rpartition(".")
        if section:
            inner = replace(getattr(config, section), **{field: value})
            value, field = inner, section
        config = replace(config, **{field: value})
    return config


def _search(config: Config, shape: BaseShape, gpus: int, memory: float) -> tuple[Settings, Plan] | None:
    for least in (MILD_SHARE, 0.0):
        for settings in _changes(config, gpus):
            shrunk = _shrink(config, shape, gpus, memory, settings, least)
            if shrunk is not None:
                return shrunk
    return None


def _changes(config: Config, gpus: int) -> Iterator[Settings]:
    """Yield ever harder changes of what is in memory."""
    recompute: Settings = {} if config.base.gradient_checkpointing else {"base.gradient_checkpointing": True}
    formats: list[Settings] = [{}]
    if config.precision == "fp32":
        formats.append({"precision": "bf16"})
    for number in formats:
        for shards in _shards(config, gpus):
            yield number | shards
            if recompute:
                yield number | shards | recompute
    if config.base.quantization == "none":
        packed: Settings = formats[-1] | {"base.quantization": "4bit"}
        packed |= {"launch.offload": "optimizer"} if config.launch.offload == "all" else {}
        packed |= {"launch.zero": 2} if config.launch.zero == 3 else {}
        yield packed
        if recompute:
            yield packed | recompute


def _shards(config: Config, gpus: int) -> list[Settings]:
    helps = gpus > 1 and config.launch.zero != 3 and config.base.quantization == "none"
    return [{}, {"launch.zero": 3}] if helps else [{}]


def _shrink(
    config: Config, shape: BaseShape, gpus: int, memory: float, settings: Settings, least: float
) -> tuple[Settings, Plan] | None:
    """Halve the passes of the stages that are too large until all fit; None where that does not suffice."""
    settings = dict(settings)
    while True:
        plan = make_plan(changed(config, settings), shape, gpus)
        large = _too_large(plan, memory)
        if not large:
            return settings, plan
        for stage in plan.stages:
            if stage.stage in large:
                smaller = _smaller(plan.config, stage.stage, stage.memory.peak_moment)
                if smaller is None or smaller[1] < least * _value(config, smaller[0]):
                    return None
                settings[smaller[0]] = smaller[1]


def _smaller(config: Config, stage: PlannedStage, moment: Moment) -> tuple[str, int] | None:
    """Return the setting that makes a moment of a stage smaller, and its next smaller value."""
    name = {
        ("sft", "train"): "sft.micro_batch_size",
        ("sft", "read"): "sft.micro_batch_size",
        ("candidates", "decode"): "candidates.batch_size",
        ("reward", "train"): _by_tokens(config, "reward", "micro_batch_prompts"),
        ("reward", "read"): "reward.score_batch_size",
        ("reward", "decode"): "reward.score_batch_size",
        ("ppo", "train"): _by_tokens(config, "ppo", "micro_batch_size"),
        ("ppo", "read"): "ppo.micro_batch_size",
        ("ppo", "decode"): "ppo.rollout_batch_size",
        ("evaluate", "decode"): "evaluate.batch_size",
        ("evaluate", "read"): "evaluate.batch_size",
    }.get((stage, moment))
    if name is None:
        return None
    value = _value(config, name)
    whole = {
        "sft.micro_batch_size": config.sft.batch_size,
        "reward.micro_batch_prompts": config.reward.batch_prompts,
        "ppo.micro_batch_size": config.ppo.minibatch_size,
    }.get(name)
    smaller = [size for size in range(value // 2, 0, -1) if whole is None or whole % size == 0]
    return (name, smaller[0]) if smaller else None


def _by_tokens(config: Config, section: str, rows: str) -> str:
    tokens = getattr(getattr(config, section), "micro_batch_tokens", None)
    return f"{section}.{rows}" if tokens is None else f"{section}.micro_batch_tokens"


def _value(config: Config, name: str) -> int:
    section, _, field = name.rpartition(".")
    return getattr(getattr(config, section), field)


def _too_large(plan: Plan, memory: float) -> tuple[PlannedStage, ...]:
    return tuple(stage.stage for stage in plan.stages if not fits(stage.memory.peak, memory))


def _least(config: Config, shape: BaseShape, gpus: int) -> dict[PlannedStage, int]:
    """Return the smallest peak of each stage over all changes, with passes of one item."""
    least: dict[PlannedStage, int] = {}
    for settings in _changes(config, gpus):
        plan = make_plan(_smallest(changed(config, settings)), shape, gpus)
        for stage in plan.stages:
            least[stage.stage] = min(stage.memory.peak, least.get(stage.stage, stage.memory.peak))
    return least


def _smallest(config: Config) -> Config:
    ones: Settings = {
        "sft.micro_batch_size": 1,
        "candidates.batch_size": 1,
        "reward.micro_batch_prompts": 1,
        "reward.score_batch_size": 1,
        "ppo.micro_batch_size": 1,
        # After the sizes, which need divide nothing where tokens are counted.
        "reward.micro_batch_tokens": None,
        "ppo.micro_batch_tokens": None,
        "ppo.rollout_batch_size": 1,
        "evaluate.batch_size": 1,
    }
    return changed(config, ones)


def _enough_gpus(
    config: Config, shape: BaseShape, gpus: int, memory: float, hopeless: dict[PlannedStage, int]
) -> int | None:
    """Return the least number of GPUs, doubling, on which ZeRO-3 makes the hopeless stages fit; None where none does."""
    if not hopeless:
        return None
    while gpus < MOST_GPUS:
        gpus *= 2
        if all(fits(peak, memory) for stage, peak in _least(config, shape, gpus).items() if stage in hopeless):
            return gpus
    return None
