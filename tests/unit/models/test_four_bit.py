"""4-bit bases on a CPU: gradients survive an evaluation."""

from pathlib import Path

import pytest
import torch

from rlhf.config.base import BaseConfig
from rlhf.models.roles import SharedBase, build_shared_base
from tests.tiny import shake, tiny_base, tiny_roles

IDS = torch.randint(2, 250, (2, 9), generator=torch.Generator().manual_seed(0))


def _gradients(shared: SharedBase) -> dict[str, torch.Tensor]:
    shared.hidden("policy", IDS).float().square().sum().backward()
    return {name: p.grad.clone() for name, p in shared.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_evaluation_before_training_keeps_every_gradient(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("bitsandbytes")
    found = []
    for evaluate_first in (False, True):
        base = tiny_base(tmp_path, config=BaseConfig(quantization="4bit"), precision=precision, hidden=64)
        shared = build_shared_base(base, tiny_roles())
        shake(shared, "policy")
        if evaluate_first:
            with torch.no_grad():
                shared.eval()
                shared.hidden("reference", IDS)
        assert not shared.can_merge
        found.append(_gradients(shared))
    assert len(found[0]) == 28  # A and B of seven layers in two blocks
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
        assert torch.allclose(found[1][name], gradient, rtol=1e-3, atol=1e-5), name
