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
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import metadata
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlhf.config.base import LaunchConfig, Offload, Zero
from rlhf.config.training import require_shares
from rlhf.errors import ConfigError, RlhfError
from rlhf.zero import engine_settings, leave_all_to_gloo, require_sound, trainer_environment

log = logging.getLogger(__name__)
Item = TypeVar("Item")
ECHO_SECONDS = 5.0
"""A signal that comes again so soon is the same one: batch systems and terminals signal all processes, launchers pass theirs on."""
COMPUTING: tuple[str, ...] = ("torch", "transformers", "peft", "trl", "accelerate", "deepspeed", "bitsandbytes")


class StoppedBySignal(RlhfError):
    """SIGTERM or SIGINT arrived; the work was put into a checkpoint first."""

    exit_code = 128 + signal.SIGTERM


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

    def require_same(self, **facts: str) -> None:
        """Hold all processes to the same facts and the same versions of what they compute with; all must call it.

        Raises:
            ConfigError: Names the first fact that differs, and the ranks on which it does.
        """
        facts |= {f"version of {name}": version for name, version in _versions().items()}
        rows = self.gather([facts])
        for name in facts:
            ranks = [str(rank) for rank, row in enumerate(rows) if row[name] != rows[0][name]]
            if ranks:
                there = rows[int(ranks[0])][name]
                raise ConfigError(
                    f"{name.replace('_', ' ')} differs on rank {', '.join(ranks)}: {there[:12]} there, {rows[0][name][:12]} on rank "
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


def start_runtime(
    *,
    processes: int | None = None,
    zero: Zero = 0,
    offload: Offload = "none",
    timeout_minutes: float = 30.0,
    for_trainer: bool = False,
) -> Runtime:
    """Start accelerate for a stage.

    Args:
        processes: How many processes the launcher was asked for; None takes what is there.
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
    wanted = started if processes is None else processes
    if accelerator.num_processes != wanted:
        raise ConfigError(
            f"{accelerator.num_processes} processes are running, {wanted} were asked for; start the stage with "
            f"`rlhf launch --processes {wanted}`"
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


def check_engine(module: Any, formats: dict[str, list[str]], *, zero: Zero, processes: int) -> None:
    """Hold what trains to what was asked for, and say what it is.

    Args:
        module: The module as accelerate returned it.
        formats: `number_formats` of the module as accelerate got it.
        zero: The ZeRO stage asked for.
        processes: How many processes train.
    """
    wanted = "DeepSpeedEngine" if zero else "DistributedDataParallel" if processes > 1 else None
    found = type(module).__name__
    engines = ("DeepSpeedEngine", "DistributedDataParallel")
    assert found == wanted or (wanted is None and found not in engines), f"the engine is {found}, not {wanted}"
    assert number_formats(module) == formats, f"weights were {formats}, the engine made them {number_formats(module)}"
    stage = f" under ZeRO-{zero}" if zero else ""
    log.info(
        "%d %s, %s%s; frozen weights %s, trained weights %s",
        processes,
        "process" if processes == 1 else "processes",
        found if wanted else "no engine",
        stage,
        " and ".join(formats["frozen"]),
        " and ".join(formats["trained"]),
    )


def number_formats(module: nn.Module) -> dict[str, list[str]]:
    """Return the number formats of the weights in force; packed 4-bit weights are uint8."""
    found: dict[str, set[str]] = {"frozen": set(), "trained": set()}
    for parameter in module.parameters():
        kind = "trained" if parameter.requires_grad else "frozen"
        found[kind].add(str(parameter.dtype).removeprefix("torch."))
    return {kind: sorted(names) for kind, names in found.items()}


def _versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on; `none` of one that is not installed."""
    found = dict.fromkeys(COMPUTING, "none")
    for name in COMPUTING:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class TrainingEngine:
    """One module, one optimiser, one backward per micro-step, with explicit boundaries.

    The gradient of the summed losses of all micro-steps and processes is what the optimiser sees: the caller scales
    each loss by its global token count, and the averaging of data parallelism is undone here.
    """

    def __init__(
        self, runtime: Runtime, module: nn.Module, groups: list[dict[str, Any]], max_grad_norm: float, epsilon: float
    ) -> None:
        self._runtime = runtime
        self._max_grad_norm = max_grad_norm
        formats = number_formats(module)
        named = [item for group in groups for item in group["named"]]
        self.parameters: dict[str, nn.Parameter] = dict(named)
        assert len(self.parameters) == len(named), "two groups share a parameter name"
        listed = [{**group, "params": [p for _, p in group["named"]]} for group in groups]
        for group in listed:
            del group["named"]
        # No weight decay: it would move weights whose learning rate is 0 only in name.
        self.optimizer: Any = torch.optim.AdamW(listed, lr=0.0, eps=epsilon, weight_decay=0.0)
        if runtime.zero:
            settings = runtime.accelerator.state.deepspeed_plugin.deepspeed_config
            settings["gradient_clipping"] = max_grad_norm
            # Adapters and heads stay whole on every process under ZeRO-3, as do norms: only the base is worth sharding.
            settings["zero_optimization"]["stage3_param_persistence_threshold"] = max(
                map(_size, self.parameters.values())
            )
            self.module, self.optimizer = runtime.accelerator.prepare(module, self.optimizer)
            self._link_states()
        else:
            self.module = runtime.accelerator.prepare(module)
        check_engine(self.module, formats, zero=runtime.zero, processes=runtime.process_count)

    def forward(self, *arguments: Any, last: bool = True) -> Any:
        """Run the module; `last` is what `backward` will be told."""
        with self._exchange(last):
            return self.module(*arguments)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of one micro-step; `last` ends the window, after which `step` must follow."""
        loss = loss * self._runtime.process_count
        if self._runtime.zero:
            self.module.set_gradient_accumulation_boundary(last)
            self.module.backward(loss)
        else:
            with self._exchange(last):
                loss.backward()

    def _exchange(self, last: bool) -> AbstractContextManager[None]:
        """Let plain data parallelism sum gradients in the last micro-step alone; it decides in the forward pass."""
        plain = not self._runtime.zero and self._runtime.process_count > 1
        return self.module.no_sync() if plain and not last else nullcontext()

    def step(self) -> Tensor:
        """Clip, step and clear; return the gradient norm before clipping.

        A gradient that is not finite is cleared without a step; DeepSpeed takes the step, and only a checkpoint helps.
        """
        if self._runtime.zero:
            self.module.step()
            return torch.as_tensor(self.module.get_global_grad_norm())
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self._max_grad_norm)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @contextmanager
    def gathered(self, *, wanted: bool = True) -> Iterator[None]:
        """Hold all weights in every process while responses are decoded: no pass is a collective then.

        Without it ZeRO-3 gathers the base once for every token. The weights must not change meanwhile.
        """
        if self._runtime.zero != 3 or not wanted:
            yield
            return
        import deepspeed
        from trl.models.utils import add_hooks, remove_hooks

        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            remove_hooks(self.module)  # they would shard a layer again after its first pass
            self._runtime.gathered = True
            try:
                yield
            finally:
                self._runtime.gathered = False
                add_hooks(self.module)

    def set_learning_rates(self, rates: dict[str, float]) -> None:
        """Set the learning rate of each named group."""
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]]

    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's state per parameter, whole, whatever the number of processes or ZeRO stage."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            for key in ("exp_avg", "exp_avg_sq"):
                found = self._read(parameter, key)
                if found is not None:
                    tensors[f"{name}.{key}"] = found.detach().to("cpu", copy=True).contiguous().view(_shape(parameter))
        tensors["step"] = torch.tensor(float(self._steps()))
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` returned."""
        for name, parameter in self.parameters.items():
            moments = {key: tensors[f"{name}.{key}"] for key in ("exp_avg", "exp_avg_sq") if f"{name}.{key}" in tensors}
            if self._runtime.zero:
                for key, value in moments.items():
                    self._write(parameter, key, value.to(self._runtime.device))
            elif moments:
                state = {key: value.to(parameter).clone() for key, value in moments.items()}
                self.optimizer.state[parameter] = {"step": tensors["step"].clone(), **state}
        if self._runtime.zero:
            for state in self._inner().state.values():
                state["step"] = tensors["step"].clone()
            # DeepSpeed steps on a copy of the weights, which were replaced by those of the checkpoint.
            self.module.optimizer.refresh_fp32_params()

    def _read(self, parameter: nn.Parameter, key: str) -> Tensor | None:
        if not self._runtime.zero:
            return self.optimizer.state.get(parameter, {}).get(key)
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, key)

    def _write(self, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self._runtime.zero != 3:
            safe_set_full_optimizer_state(parameter, value, key)
            return
        # DeepSpeed 0.19.8 forgets the padding of the last shard where it cuts a whole tensor.
        size = parameter.ds_tensor.numel()
        padded = nn.functional.pad(value.flatten(), (0, size * self._runtime.process_count - value.numel()))
        safe_set_local_optimizer_state(parameter, padded.narrow(0, size * self._runtime.process_index, size), key)

    def _link_states(self) -> None:
        """Create the moments of every group before the first step.

        DeepSpeed 0.19.8 maps moments to parameters after the step of the first group, when those of the second do not
        exist yet; they could then be neither read nor restored. ZeRO-3 keeps no map, and its flat weights elsewhere.
        """
        inner, wrapper = self._inner(), self.module.optimizer
        listed = [flat for group in inner.param_groups for flat in group["params"]]
        for flat in wrapper.fp32_partitioned_groups_flat if self._runtime.zero == 3 else listed:
            zeros = {"exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)}
            inner.state[flat] = {"step": torch.tensor(0.0), **zeros}
        if self._runtime.zero != 3:
            wrapper._lazy_init_hp_params_optimizer_state()

    def _inner(self) -> Any:
        """Return the plain optimiser inside DeepSpeed's and accelerate's wrappers."""
        inner = self.optimizer
        while hasattr(inner, "optimizer"):
            inner = inner.optimizer
        return inner

    def _steps(self) -> float:
        steps = {float(state["step"]) for state in self._inner().state.values() if "step" in state}
        assert len(steps) <= 1, f"parameters took different numbers of steps: {steps}"
        return steps.pop() if steps else 0.0


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _size(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
