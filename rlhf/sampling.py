"""The decode loop of rollouts, candidates and evaluation.

Every (episode, token) has one uniform number of its own, from a counter-based generator keyed by (seed, episode key),
and the token is found by inverting the cumulative distribution in float64. What an episode samples therefore does not
depend on its neighbours, on the batch size or on the number of processes, up to the rounding of matrix products.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.decoding import Decoder, InStep, Trunk
from rlhf.models.roles import SharedBase
from rlhf.text import TextFormat

BLOCK = 128
"""Tokens whose probabilities are summed before the draw is looked up among the sums."""


@dataclass(frozen=True)
class Sampling:
    """How to sample: temperature 0 is greedy; `top_p` below 1 keeps the smallest set of that probability."""

    temperature: float
    max_new_tokens: int
    top_p: float = 1.0


@dataclass
class Samples:
    """Responses in the order of their prompts.

    Attributes:
        prompt_ids: The prompts.
        response_ids: Token ids, the end token included where there is one.
        ended: Whether the response ended by itself.
        logprobs: log p of each token at the sampling temperature (at 1 where greedy), before `top_p`, in nats.
    """

    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    ended: list[bool]
    logprobs: list[list[float]]


@torch.no_grad()
def sample(
    shared: SharedBase,
    role: str | None,
    prompts_ids: Sequence[list[int]],
    text: TextFormat,
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int,
    keys: Sequence[int],
    merge: bool = True,
    in_step: InStep | None = None,
) -> Samples:
    """Sample one response per prompt.

    Args:
        shared: The shared base.
        role: Which role speaks; None is the bare base.
        prompts_ids: Token ids of the prompts; repeat a prompt to sample it several times.
        text: Knows the end tokens and the context length.
        sampling: Temperature, length, top-p.
        seed: Seed of the run.
        batch_size: Most episodes decoded together.
        keys: One number per episode; the same (seed, key) draws the same uniforms.
        merge: Decode with the adapter merged into an fp32 base.
        in_step: Says whether any process is still busy, given whether this one is. All processes must call `sample`
            with it, under sharded weights, whose every forward pass is a collective: each then runs equally many.

    Returns:
        Responses in the order of `prompts_ids`.
    """
    assert len(keys) == len(prompts_ids), f"{len(keys)} keys for {len(prompts_ids)} prompts"
    longest = max(map(len, prompts_ids), default=0)
    text.require_room(sampling.max_new_tokens, "max_new_tokens", longest)
    order = sorted(range(len(prompts_ids)), key=lambda index: (len(prompts_ids[index]), index))
    uniforms = _draw_uniforms(seed, [keys[index] for index in order], sampling.max_new_tokens)
    was_training = shared.training
    shared.eval()
    with shared.merged(role) if merge else nullcontext(), shared.role(role):
        trunk = Trunk(shared, in_step)
        decoder = Decoder(
            trunk, [prompts_ids[index] for index in order], torch.from_numpy(uniforms), text.end_token_ids
        )
        found = decoder.run(batch_size, partial(choose, sampling=sampling))
        trunk.wait()
    shared.train(was_training)
    tokens: list[list[int]] = [[] for _ in order]
    logprobs: list[list[float]] = [[] for _ in order]
    for index, ids, scores in zip(order, *found, strict=True):
        tokens[index], logprobs[index] = ids, scores
    ended = [bool(ids) and ids[-1] in text.end_token_ids for ids in tokens]
    return Samples([list(ids) for ids in prompts_ids], tokens, ended, logprobs)


def choose(
    logits: Float[Tensor, "batch vocabulary"], uniforms: Float[Tensor, " batch"], sampling: Sampling
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Pick one token per row by inverting the cumulative distribution at the given uniforms.

    Returns:
        The tokens and their logprobs at the sampling temperature, in nats.
    """
    if sampling.temperature == 0:
        tokens = logits.argmax(dim=-1)
        return tokens, logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1)
    scaled = logits if sampling.temperature == 1 else logits / sampling.temperature
    top = scaled.amax(dim=-1, keepdim=True)
    weights = (scaled - top).exp_()
    total = weights.sum(dim=-1, keepdim=True, dtype=torch.float64)
    kept = weights if sampling.top_p == 1 else _keep_top((weights / total).float(), sampling.top_p)
    tokens = _invert(kept, uniforms.to(torch.float64)[:, None])
    return tokens.squeeze(1), (scaled.gather(1, tokens) - top - total.log()).float().squeeze(1)


def _invert(weights: Float[Tensor, "batch vocabulary"], uniforms: Float[Tensor, "batch 1"]) -> Int[Tensor, "batch 1"]:
    """Return the first index whose cumulative weight exceeds the uniform's share of the sum; never one of weight 0.

    First among the sums of blocks, then within one block: a running sum over a whole vocabulary is slow.
    """
    rows, length = weights.shape
    blocks = torch.nn.functional.pad(weights, (0, -length % BLOCK)).view(rows, -1, BLOCK)
    ends = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    targets = uniforms * ends[:, -1:]
    block = torch.searchsorted(ends, targets, right=True).clamp_max(ends.shape[1] - 1)
    starts = torch.nn.functional.pad(ends, (1, 0)).gather(1, block)
    within = blocks[torch.arange(rows, device=weights.device), block.squeeze(1)].cumsum(dim=-1, dtype=torch.float64)
    # Sums in two orders differ in the last bits: without the limit a draw could fall behind the block's last weight.
    rest = torch.minimum(targets - starts, within[:, -1:] * (1 - torch.finfo(torch.float64).eps))
    index = block * BLOCK + torch.searchsorted(within, rest, right=True)
    return index.clamp_max(length - 1)


def _keep_top(probabilities: Tensor, share: float) -> Tensor:
    """Zero all but the smallest set of most likely tokens whose probability reaches `share` (Holtzman et al. 2020)."""
    ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
    return torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(before >= share, 0.0))


def _draw_uniforms(seed: int, keys: Sequence[int], count: int) -> Float[np.ndarray, "batch tokens"]:
    """Return uniforms in [0, 1) that depend on (seed, key, column) alone."""
    rows = [np.random.Generator(np.random.Philox(key=(seed, key))).random(count) for key in keys]
    return np.stack(rows) if rows else np.zeros((0, count))
