"""Token logprobs of responses without a batch x sequence x vocabulary tensor.

The frozen output layer is applied to response positions only, a chunk at a time. Because its weight needs no
gradient, the gradient of a logprob with respect to the hidden state,

    d log p(y) / d h = (W[y] - sum_v p(v) W[v]) / temperature,

is formed in the forward pass while the chunk's probabilities are at hand: the backward pass is one multiplication.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlhf.models.base import gathered
from rlhf.models.roles import SharedBase

# Numbers in one chunk of logits (fp32): 32 MiB.
CHUNK_LOGITS = 1 << 23


class _FrozenHeadLogprobs(torch.autograd.Function):
    """Logprob of one target per row under a frozen linear layer; entropy comes along without gradient."""

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
        rows = max(1, CHUNK_LOGITS // weight.shape[0])
        needs_gradient = ctx.needs_input_grad[0]
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        entropies = torch.zeros_like(logprobs)
        gradient = torch.empty_like(hidden) if needs_gradient else None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            target = targets[part, None]
            logits = nn.functional.linear(hidden[part], weight, bias).float().div_(temperature)
            chosen = logits.gather(1, target).squeeze(1)
            normaliser = logits.logsumexp(dim=1)
            logprobs[part] = chosen - normaliser
            if not (entropy or needs_gradient):
                continue
            probabilities = logits.sub_(normaliser[:, None]).exp() if not entropy else None
            if probabilities is None:
                log_probabilities = logits.sub_(normaliser[:, None])
                probabilities = log_probabilities.exp()
                entropies[part] = -(probabilities * log_probabilities).sum(dim=1)
            if gradient is not None:
                probabilities.scatter_add_(1, target, torch.full_like(chosen, -1.0)[:, None])
                gradient[part] = (probabilities.to(weight.dtype) @ weight).div_(-temperature)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0][:, None].to(gradient.dtype), None, None, None, None, None


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
