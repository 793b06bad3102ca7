"""Muon (Jordan et al. 2024) in fp32, for the few small matrices of the embedded base.

torch.optim.Muon orthogonalises in bfloat16, which a CPU without bf16 instructions emulates: there a step took ten times
as long as the forward and backward pass together. In fp32 it costs the same everywhere.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5 that drives singular values towards 1 fastest (Jordan et al. 2024)."""
ITERATIONS = 5
ADAMW_RMS = 0.2
"""Root mean square of an AdamW step in units of its learning rate (Liu et al. 2025, section 2.2)."""


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is orthogonalised: all directions of a weight matrix move equally far.

    Steps are scaled to the size of AdamW's, so that one learning rate serves both: for a matrix [m, n]
    W <- W (1 - lr * weight_decay) - lr * 0.2 sqrt(max(m, n)) * orthogonalise(nesterov momentum).
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonalise(weight.grad.lerp(average, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction, alpha=-group["lr"] * ADAMW_RMS * max(weight.shape) ** 0.5)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix [m, n] with about the same singular vectors and all singular values near 1 (.7 to 1.2).

    Newton-Schulz iteration on the smaller side; the sign and the scale of the input do not matter beyond direction.
    """
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
