"""The fused LoRA pass against PEFT's own."""

from pathlib import Path

import pytest
import torch

from rlhf.models.roles import SharedBase
from tests.tiny import shake, tiny_shared

IDS = torch.randint(2, 250, (3, 11), generator=torch.Generator().manual_seed(0))


def _loss(hidden: torch.Tensor) -> torch.Tensor:
    """Weigh the states at random: their squares alone sum up to the same after the last norm, whatever came before."""
    draw = torch.Generator().manual_seed(1)
    return (hidden.float() * torch.randn(hidden.shape, generator=draw)).sum()


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
        _loss(hidden).backward()
        grads = {name: p.grad for name, p in shared.named_parameters() if p.grad is not None}
        results.append((hidden.detach(), grads))
    (left, left_grads), (right, right_grads) = results
    assert torch.allclose(left, right, atol=1e-5)
    assert left_grads.keys() == right_grads.keys()
    for name, gradient in right_grads.items():
        assert torch.allclose(left_grads[name], gradient, rtol=1e-3, atol=1e-4), name


def test_in_bf16_states_and_gradients_are_as_near_as_the_format_allows(tmp_path: Path) -> None:
    """The yardstick is fp32: a pass of our own may not be farther from it than PEFT's is, but for a little."""
    results = []
    for precision, keep in (("bf16", True), ("bf16", False), ("fp32", False)):
        shared = tiny_shared(tmp_path, precision=precision)
        shake(shared, "policy")
        if not keep:
            _unfuse(shared)
        hidden = shared.hidden("policy", IDS).float()
        _loss(hidden).backward()
        grads = [p.grad.flatten() for _, p in shared.trainable("policy") if p.grad is not None]
        assert all(grad.dtype == torch.float32 for grad in grads)
        results.append((hidden.detach().flatten(), torch.cat(grads)))
    (ours, our_grads), (pefts, peft_grads), (exact, exact_grads) = results
    assert (ours - exact).norm() <= 1.2 * (pefts - exact).norm()
    assert (our_grads - exact_grads).norm() <= 1.2 * (peft_grads - exact_grads).norm()


def test_each_number_format_has_its_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args, **options: (calls.append(1), original(*args, **options))[1])
    tiny_shared(tmp_path).hidden("policy", IDS)
    assert len(calls) == 14  # two blocks, seven layers
    plain = tiny_shared(tmp_path, precision="bf16")
    states = plain.hidden("policy", IDS)
    assert len(calls) == 14
    assert _passes(states) == {"_BesideLoraBackward"}


def _passes(states: torch.Tensor) -> set[str]:
    """Return the names of our passes that the graph of a tensor holds."""
    found, waiting, seen = set(), [states.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        found |= {node.name()} & {"_FusedLoraBackward", "_BesideLoraBackward"}
    return found
