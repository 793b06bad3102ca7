"""The forward and backward pass of a LoRA layer in fewer passes over its input and output than PEFT takes.

PEFT computes x W' + s (x A') B' with two thin products and two passes over the output.

In fp32, on a batch of many tokens, it is cheaper to form W + s B A anew in every pass (a share rank / tokens of the
work) and to multiply once; the backward pass forms it again instead of keeping it. Nothing in memory is changed: the
sum is a temporary.

In bf16 the sum would lose small updates to rounding. There the thin products stay, but in bf16, added to the large one
where it lies, as under autocast; PEFT copies input and output to fp32 for them. Adapter weights remain fp32 in memory.

4-bit and sharded weights keep PEFT's forward.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rlhf.models.matmul import linear, quicken


class _FusedLora(torch.autograd.Function):
    """y = x (W + s B A)' + b with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        return linear(x, torch.addmm(weight, b, a, alpha=scaling), bias)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        gradient = upstream[0].reshape(-1, weight.shape[0])
        rows = x.reshape(-1, weight.shape[1])
        to_x = to_a = to_b = None
        if ctx.needs_input_grad[0]:
            to_x = linear(gradient, torch.addmm(weight, b, a, alpha=ctx.scaling).T).view_as(x)
        # On a CPU a thin product is several times faster with its short side first or its right factor transposed.
        if ctx.needs_input_grad[3]:
            to_a = nn.functional.linear(gradient, b.T.contiguous()).mul_(ctx.scaling).T @ rows
        if ctx.needs_input_grad[4]:
            to_b = ((rows @ a.T).mul_(ctx.scaling).T @ gradient).T
        return to_x, None, None, to_a, to_b, None


class _BesideLora(torch.autograd.Function):
    """y = x W' + b + s (x A') B' in the number format of x, with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        rows, down = x.reshape(-1, weight.shape[1]), a.to(x.dtype)
        narrow = rows @ down.T
        found = nn.functional.linear(rows, weight, bias).addmm_(narrow, b.to(x.dtype).T, alpha=scaling)
        ctx.save_for_backward(rows, narrow, weight, a, b)
        ctx.scaling = scaling
        return found.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, narrow, weight, a, b = ctx.saved_tensors
        gradient = upstream[0].reshape(-1, weight.shape[0])
        thin = gradient @ b.to(gradient.dtype)
        to_x = to_a = to_b = None
        if ctx.needs_input_grad[0]:
            to_x = (gradient @ weight).addmm_(thin, a.to(thin.dtype), alpha=ctx.scaling)
            to_x = to_x.view(*upstream[0].shape[:-1], weight.shape[1])
        if ctx.needs_input_grad[3]:
            to_a = (thin.T @ rows).to(a.dtype).mul_(ctx.scaling)
        if ctx.needs_input_grad[4]:
            to_b = (narrow.T @ gradient).T.to(b.dtype).mul_(ctx.scaling)
        return to_x, None, None, to_a, to_b, None


def fuse(layer: LoraLayer) -> None:
    """Let a LoRA layer on a plain linear layer use the fused pass wherever it applies."""
    module: Any = layer
    if type(module.get_base_layer()) is nn.Linear:
        quicken(module.get_base_layer())
        module.forward = partial(_forward, module, module.forward)


PASSES: dict[torch.dtype, type[torch.autograd.Function]] = {torch.float32: _FusedLora, torch.bfloat16: _BesideLora}


def _forward(layer: Any, plain: Callable[..., Tensor], x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    base, active = layer.get_base_layer(), layer._active_adapter
    if hasattr(base, "ds_id"):  # under ZeRO-3 merely naming the weight would gather it
        return plain(x, *arguments, **options)
    fits = x.dtype == base.weight.dtype and x.dtype in PASSES and not hasattr(base.weight, "ds_id")
    if not fits or len(active) != 1 or active[0] not in layer.lora_A or arguments or options:
        return plain(x, *arguments, **options)
    name = active[0]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return PASSES[x.dtype].apply(x, base.weight, base.bias, a, b, layer.scaling[name])
