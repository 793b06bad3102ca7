"""Token logprobs of responses without a batch x sequence x vocabulary tensor.

The frozen output layer is applied to response positions only, a block of the vocabulary at a time. Because its weight
needs no gradient, the gradient of a logprob with respect to the hidden state,

    d log p(y) / d h = (W[y] - sum_v p(v) W[v]) / temperature,

is formed in the forward pass while the block's probabilities are at hand: the backward pass is one multiplication.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlhf.models.base import gathered
from rlhf.models.matmul import linear
from rlhf.models.roles import SharedBase

# Numbers in one block of logits (fp32): 4 MiB stay in a processor's cache; a GPU wants fewer, larger blocks.
BLOCK_LOGITS = 1 << 20
BLOCK_LOGITS_CUDA = 1 << 25


class _FrozenHeadLogprobs(torch.autograd.Function):
    """Logprob of one target per row under a frozen linear layer; entropy comes along without gradient.

    One pass over blocks of the vocabulary. A running maximum m rescales the sums of exp(z - m), of exp(z - m) z and of
    exp(z - m) W[v], as attention does in Dao et al. (2022); so no row of logits is ever whole.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        needs_gradient = ctx.needs_input_grad[0]
        columns = max(1, (BLOCK_LOGITS_CUDA if hidden.is_cuda else BLOCK_LOGITS) // max(1, len(hidden)))
        largest = hidden.new_full((len(hidden), 1), -torch.inf, dtype=torch.float32)
        total, weighted = torch.zeros_like(largest), torch.zeros_like(largest)
        chosen = torch.zeros_like(largest)
        pull = torch.zeros_like(hidden, dtype=torch.float32) if needs_gradient else None
        for start in range(0, len(weight), columns):
            part = slice(start, start + columns)
            logits = linear(hidden, weight[part], None if bias is None else bias[part])
            logits = logits.float() if temperature == 1 else logits.float().div_(temperature)
            _pick(chosen, logits, targets, start)
            before, largest = largest, torch.maximum(largest, logits.amax(dim=1, keepdim=True))
            shrink = (before - largest).exp_()
            masses = logits.sub_(largest).exp() if entropy else logits.sub_(largest).exp_()
            if entropy:
                # Sums of exp(z - m) (z - m): moving m by d also moves each term by d.
                moved = torch.where(total > 0, weighted + total * (before - largest), 0.0)
                weighted = moved * shrink + (masses * logits).sum(dim=1, keepdim=True)
            total = total * shrink + masses.sum(dim=1, keepdim=True)
            if pull is not None:
                pull.mul_(shrink).add_(linear(masses.to(weight.dtype), weight[part].T))
        normaliser = largest + total.log()
        entropies = torch.zeros_like(total)
        if entropy:
            entropies = total.log() - weighted / total
        if pull is not None:
            gradient = (weight[targets] - pull.div_(total)).div_(temperature)
            ctx.save_for_backward(gradient.to(hidden.dtype))
        entropies = entropies.squeeze(1)
        ctx.mark_non_differentiable(entropies)
        return (chosen - normaliser).squeeze(1), entropies

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0][:, None].to(gradient.dtype), None, None, None, None, None


def _pick(chosen: Tensor, logits: Tensor, targets: Tensor, start: int) -> None:
    """Note the logits of those targets that are in the block of the vocabulary which starts at `start`."""
    column = targets[:, None] - start
    inside = (column >= 0) & (column < logits.shape[1])
    found = logits.gather(1, column.clamp(0, logits.shape[1] - 1))
    chosen.copy_(torch.where(inside, found, chosen))


def frozen_head_logprobs(
    head: nn.Linear,
    hidden: Float[Tensor, "tokens hidden"],
    targets: Int[Tensor, " tokens"],
    temperature: float,
    *,
    entropy: bool = False,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Return log p(target) in nats, and the entropy in nats (0 unless asked for), of softmax(head(h) / temperature)."""
    # Gathered before it is touched: DeepSpeed would make a sharded weight that a forward pass names its own business.
    with gathered(list(head.parameters())):
        assert not head.weight.requires_grad, "the output layer must be frozen: its gradient is not computed"
        return _FrozenHeadLogprobs.apply(hidden, head.weight, head.bias, targets, temperature, entropy)


def response_logprobs(
    shared: SharedBase,
    role: str | None,
    input_ids: Int[Tensor, "batch sequence"],
    attention_mask: Bool[Tensor, "batch sequence"] | None,
    response_mask: Bool[Tensor, "batch sequence"],
    temperature: float,
    *,
    entropy: bool = False,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Return logprobs (and entropies) of all response tokens, flat, row after row.

    Args:
        shared: The shared base.
        role: Whose logprobs.
        input_ids: Prompt, response and padding on either side.
        attention_mask: True on real tokens; None where all padding is on the right.
        response_mask: True on response tokens, end token included; never on the first column.
        temperature: Logits are divided by it, as in sampling.
        entropy: Also compute the entropy, for display.
    """
    hidden = shared.hidden(role, input_ids, attention_mask)
    return frozen_head_logprobs(
        shared.lm_head, predicting(hidden, response_mask), input_ids[response_mask], temperature, entropy=entropy
    )


def predicting(
    hidden: Float[Tensor, "batch sequence hidden"], response_mask: Bool[Tensor, "batch sequence"]
) -> Float[Tensor, "tokens hidden"]:
    """Return the hidden states that predict the response tokens: one column to their left."""
    return hidden[:, :-1][response_mask[:, 1:]]
