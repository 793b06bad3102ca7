"""What trains: one module, one optimiser, plain or under accelerate's data parallelism or DeepSpeed."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.config.base import Zero
from rlhf.runtime import Runtime

log = logging.getLogger(__name__)


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
        "%d %s, %s%s; %strained weights %s",
        processes,
        "process" if processes == 1 else "processes",
        found if wanted else "no engine",
        stage,
        f"frozen weights {' and '.join(formats['frozen'])}, " if formats["frozen"] else "",
        " and ".join(formats["trained"]),
    )


def number_formats(module: nn.Module) -> dict[str, list[str]]:
    """Return the number formats of the weights in force; packed 4-bit weights are uint8."""
    found: dict[str, set[str]] = {"frozen": set(), "trained": set()}
    for parameter in module.parameters():
        kind = "trained" if parameter.requires_grad else "frozen"
        found[kind].add(str(parameter.dtype).removeprefix("torch."))
    return {kind: sorted(names) for kind, names in found.items()}
