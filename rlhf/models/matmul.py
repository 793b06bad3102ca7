"""Products of fp32 matrices on a CPU, by oneDNN instead of MKL.

torch ships both and multiplies fp32 matrices with MKL, which on other processors than Intel's is the slower one (figures
in docs/performance.md). oneDNN also takes a transposed weight as it is, which backward passes have.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Multiplications below which calling oneDNN costs more than it saves.
WORTHWHILE = 1 << 23
# What torch's own compiler calls for a linear layer; it has no public name and no gradient.
_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W' + b as `nn.functional.linear` does, without a gradient.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs), in any order of memory.
        bias: (outputs).
    """
    large = x.numel() * weight.shape[0] >= WORTHWHILE
    fits = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if _onednn_linear is None or not large or not fits:
        return nn.functional.linear(x, weight, bias)
    return _onednn_linear(x, weight, bias, "none", [], "")


def quicken(layer: nn.Module) -> None:
    """Let a plain linear layer multiply so wherever no gradient is asked for and its weight is not sharded."""
    module: Any = layer
    if type(layer) is nn.Linear:
        module.forward = partial(_forward, module, module.forward)


def _forward(layer: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or hasattr(layer, "ds_id"):
        return plain(x)
    return linear(x, layer.weight, layer.bias)
