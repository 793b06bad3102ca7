"""Processes, devices, seeds and signals of a training stage, through accelerate and DeepSpeed.

On CPU the `gloo` backend must be named: without it every process believes it is alone. With accelerate's CPU flag
DeepSpeed is dropped without a word. Both are checked at the start.
"""

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import metadata
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlhf.config.base import LaunchConfig, Offload, Zero
from rlhf.config.load import dump_config
from rlhf.config.recipe import Config
from rlhf.config.training import require_shares
from rlhf.errors import ConfigError, RlhfError
from rlhf.hashing import hash_value
from rlhf.zero import engine_settings, leave_all_to_gloo, require_sound, trainer_environment

log = logging.getLogger(__name__)
Item = TypeVar("Item")
ECHO_SECONDS = 5.0
"""A signal that comes again so soon is the same one: batch systems and terminals signal all processes, launchers pass theirs on."""
COMPUTING: tuple[str, ...] = ("torch", "transformers", "peft", "trl", "accelerate", "deepspeed", "bitsandbytes")


class StoppedBySignal(RlhfError):
    """SIGTERM or SIGINT arrived; the work was put into a checkpoint first."""

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@dataclass
class Runtime:
    """What a stage knows of its processes. Built by `start_runtime`.

    Attributes:
        accelerator: The accelerate object.
        zero: DeepSpeed ZeRO stage; 0 is plain data parallelism.
        gathered: Whether sharded weights are whole just now (see `TrainingEngine.gathered`).
    """

    accelerator: Any
    zero: Zero = 0
    gathered: bool = False
    _signal: list[int] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.accelerator.device

    @property
    def process_count(self) -> int:
        """Number of processes."""
        return self.accelerator.num_processes

    @property
    def process_index(self) -> int:
        """Rank of this process."""
        return self.accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes."""
        return tensor if self.process_count == 1 else self.accelerator.reduce(tensor.to(self.device), "sum").to(tensor)

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """Join the lists of all processes, in rank order."""
        if self.process_count == 1:
            return list(items)
        parts: list[Any] = [None] * self.process_count
        torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is set in some process: all must take the same turn."""
        return bool(self.sum(torch.tensor(float(flag))).item() > 0)

    @property
    def in_step(self) -> Callable[[bool], bool] | None:
        """What keeps decoding processes in step where every forward pass is a collective; None where none is."""
        return self.any if self.zero == 3 and not self.gathered else None

    def require_same(self, config: Config, weights_hash: str) -> None:
        """Hold all processes to the same recipe, weights and versions of what they compute with; all must call it.

        Raises:
            ConfigError: Names the first fact that differs, and the ranks on which it does.
        """
        facts = {"recipe": hash_value(dump_config(config)), "hash of the base": weights_hash}
        facts |= {f"version of {name}": version for name, version in _versions().items()}
        rows = self.gather([facts])
        for name in facts:
            ranks = [str(rank) for rank, row in enumerate(rows) if row[name] != rows[0][name]]
            if ranks:
                there = rows[int(ranks[0])][name]
                raise ConfigError(
                    f"{name} differs on rank {', '.join(ranks)}: {there[:12]} there, {rows[0][name][:12]} on rank "
                    "0; give all nodes the same recipe, the same run folder and the same installation"
                )

    def wait(self) -> None:
        """Wait for all processes."""
        self.accelerator.wait_for_everyone()

    def share(self, whole: int, name: str) -> int:
        """Return this process's part of a number of episodes.

        Raises:
            ConfigError: It does not divide evenly.
        """
        try:
            require_shares(whole, self.process_count, name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return whole // self.process_count

    def own_chunks(self, count: int, size: int) -> list[range]:
        """Return this process's consecutive pieces of `count` items, each of `size` but the last.

        Every process gets equally many; some may be empty. What is in a piece does not depend on the number of processes.
        """
        pieces = [range(start, min(count, start + size)) for start in range(0, count, size)]
        pieces += [range(0)] * (-len(pieces) % self.process_count)
        return pieces[self.process_index :: self.process_count]

    def hold(self, module: nn.Module) -> None:
        """Make a module ready for forward passes: under ZeRO-3 each of them gathers the shards that it needs."""
        if self.zero == 3:
            engine = self.accelerator.prepare(module)
            assert type(engine).__name__ == "DeepSpeedEngine", f"engine is {type(engine).__name__}"

    @contextmanager
    def noticing_signals(self) -> Iterator[None]:
        """Turn SIGTERM and SIGINT into a flag while work runs; another one, `ECHO_SECONDS` later or more, acts as usual."""
        before: dict[int, Any] = {}
        first: float | None = None

        def notice(number: int, frame: FrameType | None) -> None:
            nonlocal first
            if first is None:
                first = time.monotonic()
                log.warning("signal %d: stopping after this update", number)
            elif time.monotonic() - first >= ECHO_SECONDS:
                signal.signal(number, before[number])
                signal.raise_signal(number)
            self._signal.append(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                before[number] = signal.signal(number, notice)
            except ValueError:  # not the main thread, which alone may set handlers
                break
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def stop_requested(self) -> bool:
        """Whether some process was told to stop."""
        return self.any(bool(self._signal))

    def stopped(self, message: str) -> StoppedBySignal:
        """Return what ends a stage once its checkpoint is written; the signal may have reached another process alone."""
        return StoppedBySignal(message, *self._signal[:1])


def start_runtime(
    *,
    zero: Zero = 0,
    offload: Offload = "none",
    timeout_minutes: float = 30.0,
    for_trainer: bool = False,
) -> Runtime:
    """Start accelerate for a stage.

    Args:
        zero: DeepSpeed ZeRO stage.
        offload: What DeepSpeed keeps in the memory of the host.
        timeout_minutes: How long a process waits for the others before it gives up.
        for_trainer: DeepSpeed's settings are those of TRL's trainer, which makes the engine itself.

    Raises:
        ConfigError: Another number of processes is running than was asked for, or the environment asks for another engine.
        ResourceError: DeepSpeed is missing or broken.
    """
    require_sound(zero)
    on_cpu = not torch.cuda.is_available()
    if not on_cpu:
        require_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count())
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs

    started = int(os.environ.get("WORLD_SIZE", "1"))
    options: dict[str, Any] = {}
    if zero and "WORLD_SIZE" not in os.environ:
        raise ConfigError(f"launch.zero is {zero}, which needs a launcher: start the stage with `rlhf launch`")
    if zero:
        # DeepSpeed calls what torch renamed; every process would say so at every kind of call.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if zero and on_cpu:
        leave_all_to_gloo()
    if zero and for_trainer:
        os.environ.update(trainer_environment(zero, offload))
    elif zero:
        options["deepspeed_plugin"] = DeepSpeedPlugin(hf_ds_config=engine_settings(zero, offload))
    if started > 1 or zero:
        group: dict[str, Any] = {"backend": "gloo"} if on_cpu else {}
        limit = timedelta(minutes=timeout_minutes)
        options["kwargs_handlers"] = [InitProcessGroupKwargs(timeout=limit, **group)]
    if on_cpu and not zero:
        options["cpu"] = True
    accelerator = Accelerator(mixed_precision="no", **options)
    if accelerator.num_processes != started:
        raise ConfigError(
            f"{accelerator.num_processes} processes know of each other, {started} were started; start the stage with `rlhf launch`"
        )
    plugin = accelerator.state.deepspeed_plugin
    assert (plugin.zero_stage if plugin else 0) == zero, "DeepSpeed was dropped, or runs another stage"
    return Runtime(accelerator, zero)


def require_gpus(processes: int, gpus: int) -> None:
    """Refuse more processes on a machine than it has GPUs.

    Raises:
        ConfigError: There are too few.
    """
    if processes > gpus:
        raise ConfigError(
            f"{processes} processes were started here, and there are {gpus} GPUs; each needs one of its own: lower "
            "launch.processes (or --processes), or make more visible with CUDA_VISIBLE_DEVICES"
        )


def _started(launch: LaunchConfig) -> int:
    """Return how many processes there are; say so where the recipe names several and nothing launched them."""
    if "WORLD_SIZE" not in os.environ and launch.processes > 1:
        log.warning(
            "launch.processes is %d, and this is one process without a launcher; `rlhf run` and `rlhf launch` start them all",
            launch.processes,
        )
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_runtime(launch: LaunchConfig, *, for_trainer: bool = False) -> Runtime:
    """Start accelerate as the recipe says; alone, a process needs DeepSpeed for nothing but offloading.

    Raises:
        ConfigError: There is no GPU to offload from, or as `start_runtime`.
    """
    if launch.offload != "none" and not torch.cuda.is_available():
        raise ConfigError(f"launch.offload is {launch.offload!r}, and there is no GPU to take it from; set it to none")
    started = _started(launch)
    return start_runtime(
        zero=launch.zero if started > 1 or launch.offload != "none" else 0,
        offload=launch.offload,
        timeout_minutes=launch.timeout_minutes,
        for_trainer=for_trainer,
    )


def answering_runtime(launch: LaunchConfig) -> Runtime:
    """Start accelerate for a stage that trains nothing: its processes share nothing but, under ZeRO-3, the base's weights."""
    sharded = _started(launch) > 1 and launch.zero == 3
    return start_runtime(zero=3 if sharded else 0, timeout_minutes=launch.timeout_minutes)


def _versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on; `none` of one that is not installed."""
    found = dict.fromkeys(COMPUTING, "none")
    for name in COMPUTING:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
