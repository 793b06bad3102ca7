"""Response logprobs under the frozen output layer."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax

from rlhf.models import logprobs
from rlhf.models.logprobs import frozen_head_logprobs, response_logprobs
from tests.tiny import shake, tiny_shared


def _head(vocabulary: int = 50, width: int = 8, *, bias: bool = False) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(width, vocabulary, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("block", [1 << 20, 150, 1])
def test_values_entropy_and_gradient_match_autograd(monkeypatch: pytest.MonkeyPatch, block: int, bias: bool) -> None:
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", block)  # 150 logits: 15 words of 50 at a time, for 10 rows
    head, targets = _head(bias=bias), torch.arange(10)
    hidden = torch.randn(10, 8, requires_grad=True)
    weights = torch.randn(10)
    plain = log_softmax(head(hidden) / 0.7, dim=-1)
    expected = plain[torch.arange(10), targets]
    (gradient,) = torch.autograd.grad((weights * expected).sum(), hidden)
    found, entropy = frozen_head_logprobs(head, hidden, targets, 0.7, entropy=True)
    (ours,) = torch.autograd.grad((weights * found).sum(), hidden)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(entropy, -(plain.exp() * plain).sum(-1), atol=1e-5)
    assert torch.allclose(ours, gradient, atol=1e-5)


def test_large_logits_neither_overflow_nor_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 20)
    head = _head()
    with torch.no_grad():
        head.weight.mul_(1000)
    hidden, targets = torch.randn(10, 8), torch.arange(10)
    plain = log_softmax(head(hidden).double(), dim=-1)
    found, entropy = frozen_head_logprobs(head, hidden, targets, 1.0, entropy=True)
    assert torch.allclose(found.double(), plain[torch.arange(10), targets], rtol=1e-4, atol=1e-2)
    assert torch.allclose(entropy.double(), -(plain.exp() * plain).sum(-1), atol=1e-2)


def test_a_trainable_output_layer_is_refused() -> None:
    with pytest.raises(AssertionError, match="frozen"):
        frozen_head_logprobs(_head().requires_grad_(True), torch.randn(2, 8), torch.arange(2), 1.0)


def test_the_whole_model_gives_the_same_logprobs(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    shake(shared, "policy")
    ids = torch.randint(2, 250, (3, 9))
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, 4:] = True
    found, _ = response_logprobs(shared, "policy", ids, None, mask, 1.3)
    with shared.role("policy"), torch.no_grad():
        full = log_softmax(shared.model(input_ids=ids).logits / 1.3, dim=-1)
    assert torch.allclose(found.view(3, 5), full[:, 3:-1].gather(2, ids[:, 4:, None]).squeeze(2), atol=1e-5)


def test_padding_on_either_side_changes_nothing(tmp_path: Path) -> None:
    shared = tiny_shared(tmp_path)
    shake(shared, "policy")
    ids = torch.randint(2, 250, (1, 9))
    response = torch.tensor([[False] * 4 + [True] * 5])
    bare, _ = response_logprobs(shared, "policy", ids, None, response, 1.0)
    for left, right in ((3, 0), (0, 4), (2, 2)):
        pad = (left, right)
        padded = torch.nn.functional.pad(ids, pad, value=7)
        real = torch.nn.functional.pad(torch.ones_like(response), pad, value=False)
        moved = torch.nn.functional.pad(response, pad, value=False)
        found, _ = response_logprobs(shared, "policy", padded, real, moved, 1.0)
        assert torch.allclose(found, bare, atol=1e-4)
    found, _ = response_logprobs(
        shared, "policy", torch.nn.functional.pad(ids, (0, 4)), None, torch.nn.functional.pad(response, (0, 4)), 1.0
    )
    assert torch.allclose(found, bare, atol=1e-4)
