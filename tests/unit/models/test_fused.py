"""The fused LoRA pass against PEFT's own."""

from pathlib import Path

import pytest
import torch

from rlhf.models.roles import SharedBase
from tests.tiny import shake, tiny_shared

IDS = torch.randint(2, 250, (3, 11), generator=torch.Generator().manual_seed(0))


def _unfuse(shared: SharedBase) -> None:
    for layer in shared._layers:
        del layer.forward


@pytest.mark.parametrize("fused", [True, False])
def test_states_and_gradients_equal_those_of_peft(tmp_path: Path, fused: bool) -> None:
    results = []
    for keep in (fused, False):
        shared = tiny_shared(tmp_path)
        shake(shared, "policy")
        if not keep:
            _unfuse(shared)
        hidden = shared.hidden("policy", IDS)
        hidden.square().sum().backward()
        grads = {name: p.grad for name, p in shared.named_parameters() if p.grad is not None}
        results.append((hidden.detach(), grads))
    (left, left_grads), (right, right_grads) = results
    assert torch.allclose(left, right, atol=1e-5)
    assert left_grads.keys() == right_grads.keys()
    for name, gradient in right_grads.items():
        assert torch.allclose(left_grads[name], gradient, rtol=1e-3, atol=1e-4), name


def test_the_pass_is_used_for_fp32_and_not_for_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args, **options: (calls.append(1), original(*args, **options))[1])
    tiny_shared(tmp_path).hidden("policy", IDS)
    assert len(calls) == 14  # two blocks, seven layers
    tiny_shared(tmp_path, precision="bf16").hidden("policy", IDS)
    assert len(calls) == 14
