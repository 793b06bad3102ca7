"""The plan of a run: for each stage its parameters, memory, checkpoints, work and communication, before anything is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rlhf.config.recipe import Config, unshared_batches
from rlhf.errors import ConfigError
from rlhf.plan.activations import SUM_BYTES
from rlhf.plan.communication import communication_bytes, decoding_bytes, gathered_bytes
from rlhf.plan.loads import Load, PlannedStage, stage_loads
from rlhf.plan.memory import Layout, Memory, stage_memory
from rlhf.plan.shape import BaseShape
from rlhf.plan.work import Work, stage_work

RESERVED_BYTES, FRAGMENTED_SHARE = 1_000_000_000, 0.1
"""A GPU's own context and libraries, and what its allocator loses between tensors: both are left free."""
Variant = Literal["zero 0", "zero 2", "zero 3", "4-bit"]
VARIANTS: tuple[Variant, ...] = ("zero 0", "zero 2", "zero 3", "4-bit")


@dataclass(frozen=True)
class StagePlan:
    """What one stage needs.

    Attributes:
        load: What the stage puts on a device.
        layout: Where it runs.
        memory: Bytes on one GPU.
        trainable: Weights that learn.
        checkpoint: Bytes of one training checkpoint on disk.
        artifact: Bytes of the weights that the stage leaves on disk.
        work: Operations; None where nothing is computed.
        sent_per_step: Bytes that each GPU sends per optimiser step.
        sent_to_decode: Bytes that each GPU sends to decode one batch.
        peaks: Peak bytes of the same stage under other ZeRO stages, and with a 4-bit base under the least of them.
    """

    load: Load
    layout: Layout
    memory: Memory
    trainable: int
    checkpoint: int
    artifact: int
    work: Work | None
    sent_per_step: float
    sent_to_decode: float
    peaks: dict[Variant, int | None]

    @property
    def stage(self) -> PlannedStage:
        """Name of the stage."""
        return self.load.stage


@dataclass(frozen=True)
class Plan:
    """The plan of a recipe on some GPUs."""

    config: Config
    shape: BaseShape
    gpus: int
    stages: tuple[StagePlan, ...]
    refused: tuple[str, ...]

    @property
    def peak(self) -> int:
        """Bytes of the stage that needs most, on one GPU."""
        return max((stage.memory.peak for stage in self.stages), default=0)


def make_plan(config: Config, shape: BaseShape, gpus: int, *, on_gpu: bool = True) -> Plan:
    """Compute the plan.

    Args:
        config: The recipe; its `launch.zero` says how the processes divide a stage.
        shape: The base.
        gpus: Processes, one per GPU.
        on_gpu: False plans for a CPU, whose blocks of logits have another size.

    Raises:
        ConfigError: There are no GPUs, or an adapter names layers that the base does not have.
    """
    if gpus < 1:
        raise ConfigError(f"--gpus is {gpus}; give 1 or more")
    loads = list(stage_loads(config, shape, gpus))
    stages = tuple(_plan_stage(config, shape, load, gpus, on_gpu=on_gpu) for load in loads)
    return Plan(config, shape, gpus, stages, tuple(_refused(config, gpus)))


def layout_of(config: Config, gpus: int, *, on_gpu: bool = True) -> Layout:
    """Return where a stage runs; a single process has no DeepSpeed.

    transformers does not shard 4-bit weights, so that they are planned whole.
    """
    zero = config.launch.zero if gpus > 1 else 0
    if zero == 3 and config.base.quantization == "4bit":
        zero = 2
    return Layout(zero, gpus, on_gpu)


def fits(peak: int, memory: float) -> bool:
    """Tell whether a stage's peak leaves room for what no tensor shows."""
    return peak * (1 + FRAGMENTED_SHARE) + RESERVED_BYTES <= memory


def _plan_stage(config: Config, shape: BaseShape, load: Load, gpus: int, *, on_gpu: bool) -> StagePlan:
    layout = layout_of(config, gpus, on_gpu=on_gpu)
    learns = load.training is not None
    trainable = load.trainable(shape) if learns else 0
    sent = 0.0
    if load.training is not None:
        gathered = gathered_bytes(config, shape, load.training)
        sent = communication_bytes(
            layout.zero, layout.gpus, trainable, micro_steps=load.training.micro_steps, gathered=gathered
        )
    return StagePlan(
        load=load,
        layout=layout,
        memory=stage_memory(config, shape, load, layout),
        trainable=trainable,
        checkpoint=_checkpoint_bytes(shape, load) if learns else 0,
        artifact=SUM_BYTES * (trainable or (load.trainable(shape) if load.stage == "sft" else 0)),
        work=stage_work(config, shape, load),
        sent_per_step=sent,
        sent_to_decode=decoding_bytes(config, shape, layout, load.decoding),
        peaks=dict(_variants(config, shape, load, gpus, on_gpu=on_gpu)),
    )


def _checkpoint_bytes(shape: BaseShape, load: Load) -> int:
    """Weights and two moments of all that learns, in fp32; SFT and reward training also keep the best weights."""
    kept = 3 if load.stage == "ppo" else 4
    return kept * SUM_BYTES * load.trainable(shape)


def _variants(
    config: Config, shape: BaseShape, load: Load, gpus: int, *, on_gpu: bool
) -> Iterator[tuple[Variant, int | None]]:
    for zero in (0, 2, 3):
        packed = zero == 3 and config.base.quantization == "4bit"
        other = replace(config, launch=replace(config.launch, zero=zero, offload="none"))
        layout = layout_of(other, gpus, on_gpu=on_gpu)
        yield (
            VARIANTS[(0, 2, 3).index(zero)],
            None if (gpus == 1 and zero) or packed else stage_memory(other, shape, load, layout).peak,
        )
    packed_config = replace(
        config,
        base=replace(config.base, quantization="4bit"),
        launch=replace(config.launch, zero=min(config.launch.zero, 2), offload="none"),
    )
    layout = layout_of(packed_config, gpus, on_gpu=on_gpu)
    yield "4-bit", stage_memory(packed_config, shape, load, layout).peak


def _refused(config: Config, gpus: int) -> Iterator[str]:
    """Yield what the stages will refuse on so many processes."""
    yield from unshared_batches(config, gpus)
    if config.launch.zero == 3 and config.base.quantization == "4bit":
        yield "launch.zero 3 does not divide a 4-bit base; planned as launch.zero 2"
