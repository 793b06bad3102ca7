"""Muon against torch's, which computes in bf16."""

import pytest
import torch

from rlhf.models.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 2, shape[1])
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(orthogonalise(matrix))
    assert before[0] / before[-1] > 3
    assert after.max() < 1.3
    assert after.min() > 0.3


def test_scale_of_the_gradient_does_not_matter() -> None:
    matrix = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalise(matrix * 1e-3), orthogonalise(matrix))


def test_steps_are_those_of_torch() -> None:
    """Three steps of both: the difference is the rounding of bf16, far below three steps of up to .006."""
    generator = torch.Generator().manual_seed(2)
    ours, theirs = (torch.nn.Parameter(torch.ones(16, 48)) for _ in range(2))
    optimizers = [
        Muon([ours], 1e-2),
        torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        gradient = torch.randn(16, 48, generator=generator)
        ours.grad, theirs.grad = gradient, gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert (ours - 1).abs().max() > 5e-3
    assert (ours - theirs).abs().max() < 5e-4
