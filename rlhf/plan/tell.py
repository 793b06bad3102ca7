"""The plan in words: tables per GPU, what it takes for granted, what fits, and what to change."""

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from rlhf.config.recipe import Config
from rlhf.errors import ConfigError
from rlhf.plan.advice import Advice, Settings, advise
from rlhf.plan.memory import KINDS, Kind
from rlhf.plan.plan import FRAGMENTED_SHARE, RESERVED_BYTES, VARIANTS, Plan, StagePlan, Variant, fits, make_plan
from rlhf.plan.shape import read_shape
from rlhf.plan.work import DECODE_UTILISATION, PASS_UTILISATION

if TYPE_CHECKING:
    from rich.table import Table

_MEMORY_UNITS = {
    **{name: 10 ** (3 * power) for power, name in enumerate(("B", "KB", "MB", "GB", "TB"))},
    **{name: 2 ** (10 * power) for power, name in enumerate(("KIB", "MIB", "GIB", "TIB"), start=1)},
}
_RATE_UNITS = {"": 1.0, "G": 1e9, "T": 1e12, "P": 1e15}
GIGA, MEGA = 1e9, 1e6
_UNITS = {"optimiser step": "step", "update": "update", "prompt": "prompt"}


def parse_memory(text: str) -> float:
    """Return the bytes of a text like `80GB` (10^9) or `80GiB` (2^30).

    Raises:
        ConfigError: It has no number, no known unit, or is not above 0.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]+)\s*", text)
    factor = _MEMORY_UNITS.get(found[2].upper()) if found else None
    number = _number(found[1]) if found else None
    if not number or factor is None:
        raise ConfigError(
            f"--memory is {text!r}; write a number above 0 with MB, GB, TB, MiB, GiB or TiB, such as 80GB"
        )
    return number * factor


def parse_rate(text: str) -> float:
    """Return the operations per second of a text like `400T` or `400e12`.

    Raises:
        ConfigError: It is no number above 0, or has an unknown unit.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE]\+?[0-9]+)?)\s*([GTPgtp]?)\s*", text)
    number = _number(found[1]) if found else None
    if not found or not number or not 1e9 <= number * _RATE_UNITS[found[2].upper()] < math.inf:
        raise ConfigError(f"--flops is {text!r}; write operations per second of one GPU, such as 400T or 400e12")
    return number * _RATE_UNITS[found[2].upper()]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def tell_plan(config: Config, gpus: int | None, memory: str | None, flops: str | None) -> None:
    """Print the plan of a recipe.

    Args:
        config: The recipe.
        gpus: How many; None takes `launch.processes`.
        memory: Of each GPU, such as `80GB`; None leaves the advice out.
        flops: Rate of each GPU, such as `400T`; None leaves times out.

    Raises:
        ConfigError: A number makes no sense, or the base's configuration cannot be read.
    """
    from rich.console import Console

    size = None if memory is None else parse_memory(memory)
    rate = None if flops is None else parse_rate(flops)
    count = config.launch.processes if gpus is None else gpus
    if count < 1:
        raise ConfigError(f"--gpus is {count}; give 1 or more")
    shape = read_shape(config.base)
    plan = make_plan(config, shape, count)
    console = Console(markup=False, highlight=False, emoji=False)
    say = partial(console.print, soft_wrap=True)
    say(_headline(plan))
    for table in (memory_table(plan, size), variants_table(plan), work_table(plan, rate)):
        console.print()
        console.print(table)
    say("\nTaken for granted:")
    for line in assumptions(plan, rate):
        say(f"- {line}")
    for line in plan.refused:
        say(f"\nThis recipe will be refused: {line}.")
    if size is not None:
        say()
        for line in describe_advice(advise(config, shape, count, size), size, count):
            say(line)


def _headline(plan: Plan) -> str:
    shape, config = plan.shape, plan.config
    number = "4-bit (NF4, double quantisation)" if config.base.quantization == "4bit" else config.precision
    return (
        f"{shape.name} ({shape.architecture}): {shape.parameters:,} parameters in {number}, {len(shape.blocks)} blocks of "
        f"width {shape.hidden}; {plan.gpus} GPU{'s' if plan.gpus > 1 else ''}, launch.zero {config.launch.zero}"
    )


def memory_table(plan: Plan, memory: float | None) -> "Table":
    """Return the table of parameters, memory by kind, and sizes on disk."""
    rows: list[tuple[str, Callable[[StagePlan], str]]] = [
        ("GPUs", lambda stage: str(stage.layout.gpus)),
        ("ZeRO stage", lambda stage: str(stage.layout.zero)),
        ("trainable", lambda stage: f"{stage.trainable:,}"),
        ("share of the base", lambda stage: f"{stage.trainable / plan.shape.parameters:.3%}"),
    ]
    rows += [(kind, _amount_of(kind, plan)) for kind in KINDS]
    rows += [
        ("peak", lambda stage: _amount(stage.memory.peak, plan)),
        ("peak is at", lambda stage: stage.memory.peak_moment),
    ]
    if memory is not None:
        rows.append((f"fits {memory / GIGA:.4g} GB", lambda stage: "yes" if fits(stage.memory.peak, memory) else "NO"))
    rows += [
        ("checkpoint, MB", lambda stage: f"{stage.checkpoint / MEGA:.1f}" if stage.checkpoint else "-"),
        ("weights left, MB", lambda stage: f"{stage.artifact / MEGA:.1f}" if stage.artifact else "-"),
    ]
    return _table(f"Memory in {_unit(plan)} per GPU", plan, rows)


def _unit(plan: Plan) -> str:
    return "GB" if plan.peak >= GIGA else "MB"


def _amount(size: int | None, plan: Plan) -> str:
    return f"{size / (GIGA if plan.peak >= GIGA else MEGA):.2f}" if size else "-"


def _amount_of(kind: Kind, plan: Plan) -> Callable[[StagePlan], str]:
    def amount(stage: StagePlan) -> str:
        return _amount(stage.memory.largest(kind), plan)

    return amount


def variants_table(plan: Plan) -> "Table":
    """Return the table of peaks under each ZeRO stage and with a 4-bit base."""

    def peak_of(variant: Variant) -> Callable[[StagePlan], str]:
        return lambda stage: _amount(stage.peaks[variant], plan)

    return _table(f"Peak in {_unit(plan)} per GPU", plan, [(variant, peak_of(variant)) for variant in VARIANTS])


def work_table(plan: Plan, rate: float | None) -> "Table":
    """Return the table of operations, time and communication."""
    rows: list[tuple[str, Callable[[StagePlan], str]]] = [
        ("unit", lambda stage: _UNITS[stage.work.unit] if stage.work else "-"),
        ("TFLOP per unit", lambda stage: _tera(stage.work.passes + stage.work.decode) if stage.work else "-"),
        ("of which decoding", lambda stage: _tera(stage.work.decode) if stage.work else "-"),
        ("units", lambda stage: str(stage.work.units or "data say") if stage.work else "-"),
        ("sent per step, MB", lambda stage: _sent(stage.sent_per_step)),
        ("sent to decode, MB", lambda stage: _sent(stage.sent_to_decode)),
    ]
    if rate is not None:
        rows.append(("seconds per unit", lambda stage: _seconds(stage, rate)))
        rows.append(("hours in all", lambda stage: _hours(stage, rate)))
    return _table("Work of all GPUs, and what each GPU sends", plan, rows)


def _tera(operations: float) -> str:
    return f"{operations / 1e12:,.3g}" if operations < 1e15 else f"{operations / 1e12:,.0f}"


def _sent(size: float) -> str:
    return f"{size / MEGA:,.1f}" if size else "-"


def _seconds(stage: StagePlan, rate: float) -> str:
    return f"{stage.work.seconds(rate, stage.layout.gpus):,.3g}" if stage.work else "-"


def _hours(stage: StagePlan, rate: float) -> str:
    if stage.work is None or stage.work.units is None:
        return "-"
    return f"{stage.work.units * stage.work.seconds(rate, stage.layout.gpus) / 3600:,.2f}"


def _table(title: str, plan: Plan, rows: list[tuple[str, Callable[[StagePlan], str]]]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("")
    for stage in plan.stages:
        table.add_column(stage.stage, justify="right")
    for name, cell in rows:
        table.add_row(name, *(cell(stage) for stage in plan.stages))
    return table


def assumptions(plan: Plan, rate: float | None) -> Iterator[str]:
    """Yield what the numbers rest on."""
    config, stages = plan.config, plan.stages
    yield "every prompt, response and example is at its longest, and every pass full; usual batches need less"
    yield "GB are 10^9 bytes; kinds are each at their largest, the peak is the largest moment, which has not all of them"
    yield (
        f"a run fits where its peak and {FRAGMENTED_SHARE:.0%} (lost between tensors) and {RESERVED_BYTES / GIGA:g} GB "
        "(the GPU's own) are there"
    )
    yield "adapters, heads, their gradients and AdamW's two moments are fp32; temporaries are those of a block's widest place"
    recompute = config.base.gradient_checkpointing
    yield f"activations {'with' if recompute else 'without'} gradient checkpointing (base.gradient_checkpointing)"
    if any(stage.load.training and stage.load.training.masked for stage in stages):
        yield "attention with a mask of its own is planned as a fused kernel that keeps keys and values of all heads"
    if plan.shape.experts_per_token:
        yield f"a token passes {plan.shape.experts_per_token} experts; how tokens divide among them is not planned"
    if not plan.shape.slots:
        yield "this base decodes in a cache that grows; windows that would keep it smaller are not counted"
    if config.score.classifiers or config.score.functions:
        yield "classifiers and functions that score from elsewhere are not counted"
    if config.score.reward != 0 and config.reward.base.model is not None:
        yield "the reward model's own base (reward.base) is not counted: not its training, nor its place in PPO and evaluation"
    if config.launch.offload != "none":
        yield f"launch.offload {config.launch.offload} is not counted: what goes to the host's memory is planned on the GPU"
    if any(stage.layout.zero and stage.layout.gpus > 1 for stage in stages):
        yield "reduction buckets are as large as DeepSpeed makes them, whatever the adapters' size"
    yield "merged decoding keeps the summed weights beside the base's own: fp32 bases only"
    if rate is not None:
        yield (
            f"time: {PASS_UTILISATION:.0%} of {rate / 1e12:g} TFLOP/s in passes over many tokens, {DECODE_UTILISATION:.0%} in "
            "decoding; communication, data and evaluation in between cost nothing"
        )


def describe_advice(advice: Advice, memory: float, gpus: int) -> Iterator[str]:
    """Yield what fits, and if not everything does, what to change."""
    room = f"{memory / GIGA:.4g} GB"
    if not advice.stages:
        yield f"Every stage fits into {room} per GPU."
        return
    yield f"Too large for {room} per GPU: {', '.join(advice.stages)}."
    if advice.settings is not None:
        yield "With these settings every stage fits (checked by this plan):"
        yield f"  {override_line(advice.settings)}"
        for stage in advice.plan.stages:
            if stage.stage in advice.stages:
                yield f"  {stage.stage}: peak {stage.memory.peak / GIGA:.2f} GB"
        return
    for stage, peak in advice.hopeless.items():
        yield f"No setting makes {stage} fit: it needs {peak / GIGA:.2f} GB at least, on {gpus} GPUs."
    if not advice.hopeless:
        yield "Each stage can be made to fit, but no one set of settings fits them all; run the stages with their own."
    elif advice.gpus is not None:
        yield f"With launch.zero=3 they fit on {advice.gpus} GPUs."


def override_line(settings: Settings) -> str:
    """Return settings as one appends them to a command."""
    return " ".join(f"{name}={_shown(value)}" for name, value in settings.items())


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
