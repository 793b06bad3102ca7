"""The product of a linear layer against torch's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf.models import matmul
from rlhf.models.matmul import linear
from tests.tiny import shake, tiny_shared

IDS = torch.randint(2, 250, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights of all products that oneDNN makes."""
    found: list[Tensor] = []
    inner = matmul._onednn_linear
    assert inner is not None, "this build of torch has no oneDNN"

    def note(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        found.append(weight)
        return inner(x, weight, *rest)

    monkeypatch.setattr(matmul, "_onednn_linear", note)
    return found


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(300,), (3, 100), (1,), (0,)])
def test_product_is_that_of_torch(
    calls: list[Tensor], monkeypatch: pytest.MonkeyPatch, turned: bool, biased: bool, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(matmul, "WORTHWHILE", 0)
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=draw) for size in ((*shape, 70), (130, 70), (130,)))
    weight = weight.T.contiguous().T if turned else weight
    found = linear(x, weight, bias if biased else None)
    assert len(calls) == 1
    assert found.shape == (*shape, 130)
    assert torch.allclose(found, nn.functional.linear(x, weight, bias if biased else None), atol=1e-4)


def test_small_products_and_other_formats_are_left_to_torch(calls: list[Tensor]) -> None:
    small, large = torch.ones(1, 64), torch.ones(4096, 64)
    linear(small, torch.ones(64, 64))
    linear(large.bfloat16(), torch.ones(64, 64).bfloat16())
    assert not calls
    linear(large, torch.ones(64, 64))
    assert len(calls) == 1


def test_a_build_without_onednn_multiplies_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_onednn_linear", None)
    assert torch.equal(linear(torch.ones(4096, 64), torch.ones(64, 64)), torch.full((4096, 64), 64.0))


def test_decoding_uses_it_for_merged_layers_and_the_output_layer(
    calls: list[Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(matmul, "WORTHWHILE", 0)
    shared = tiny_shared(tmp_path)
    shake(shared, "policy")
    with torch.no_grad():
        apart = shared.lm_head(shared.hidden("policy", IDS))
        calls.clear()
        with shared.merged("policy"):
            merged = shared.lm_head(shared.hidden("policy", IDS))
    assert len(calls) == 15  # two blocks of seven layers, and the output layer
    assert calls[-1] is shared.lm_head.weight
    assert torch.allclose(merged, apart, atol=1e-4)


def test_layers_that_want_gradients_keep_them(
    calls: list[Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(matmul, "WORTHWHILE", 0)
    shared = tiny_shared(tmp_path)
    hidden = shared.hidden("policy", IDS)
    calls.clear()
    assert shared.lm_head(hidden).requires_grad
    assert not calls
