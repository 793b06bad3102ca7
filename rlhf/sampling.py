"""The decode loop of rollouts, candidates and evaluation.

Every (episode, token) has one uniform number of its own, from a counter-based generator keyed by (seed, episode key),
and the token is found by inverting the cumulative distribution in float64. What an episode samples therefore does not
depend on its neighbours, on the batch size or on the number of processes, up to the rounding of matrix products.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from rlhf.models.roles import SharedBase
from rlhf.tensors import pad_left, positions_from_mask
from rlhf.text import TextFormat

# Compacting the cache copies it; below this share of finished rows that costs more than it saves.
COMPACT_SHARE = 0.125


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

    Returns:
        Responses in the order of `prompts_ids`.
    """
    assert len(keys) == len(prompts_ids), f"{len(keys)} keys for {len(prompts_ids)} prompts"
    longest = max(map(len, prompts_ids), default=0)
    text.require_room(sampling.max_new_tokens, "max_new_tokens", longest)
    order = sorted(range(len(prompts_ids)), key=lambda index: (len(prompts_ids[index]), index))
    tokens: list[list[int]] = [[] for _ in order]
    logprobs: list[list[float]] = [[] for _ in order]
    was_training = shared.training
    shared.eval()
    with shared.merged(role) if merge else nullcontext(), shared.role(role):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            decoder = _Decoder(shared, [prompts_ids[row] for row in rows], text, sampling)
            batch = decoder.run(_draw_uniforms(seed, [keys[row] for row in rows], sampling.max_new_tokens))
            for row, ids, scores in zip(rows, *batch, strict=True):
                tokens[row], logprobs[row] = ids, scores
    shared.train(was_training)
    ended = [bool(ids) and ids[-1] in text.end_token_ids for ids in tokens]
    return Samples([list(ids) for ids in prompts_ids], tokens, ended, logprobs)


class _Decoder:
    """Decodes one batch; finished rows leave it."""

    def __init__(self, shared: SharedBase, prompts: Sequence[list[int]], text: TextFormat, sampling: Sampling) -> None:
        self._shared = shared
        self._sampling = sampling
        device = shared.device
        self._ends = torch.tensor(text.end_token_ids, device=device)
        self._ids = pad_left(prompts, text.pad_token_id).to(device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self._mask = torch.arange(self._ids.shape[1], device=device)[None, :] >= self._ids.shape[1] - lengths[:, None]
        self._positions = lengths
        self._cache = DynamicCache(config=shared.model.config)

    def run(self, uniforms: Float[np.ndarray, "batch tokens"]) -> tuple[list[list[int]], list[list[float]]]:
        draws = torch.from_numpy(uniforms).to(self._ids.device)
        count, steps = draws.shape
        tokens = torch.zeros((count, steps), dtype=torch.long, device=draws.device)
        scores = torch.zeros((count, steps), dtype=torch.float32, device=draws.device)
        lengths = torch.full((count,), steps, device=draws.device)
        rows = torch.arange(count, device=draws.device)  # which episode each row of the batch is
        alive = torch.ones(count, dtype=torch.bool, device=draws.device)
        hidden = self._forward(self._ids, positions_from_mask(self._mask))
        for step in range(steps):
            logits = self._shared.lm_head(hidden).float()
            chosen, logprob = choose(logits, draws[rows, step], self._sampling)
            # A finished row that is still in the batch writes nowhere that is read.
            tokens[rows, step], scores[rows, step] = chosen, logprob
            finished = alive & torch.isin(chosen, self._ends)
            lengths[rows[finished]] = step + 1
            alive = alive & ~finished
            remaining = int(alive.sum())
            if remaining == 0 or step + 1 == steps:
                break
            if len(rows) - remaining >= max(1.0, COMPACT_SHARE * len(rows)):
                kept = alive.nonzero().squeeze(1)
                rows, chosen, alive = rows[kept], chosen[kept], alive[kept]
                self._select(kept)
            hidden = self._extend(chosen)
        ends = lengths.tolist()
        return (
            [row[:end] for row, end in zip(tokens.tolist(), ends, strict=True)],
            [row[:end] for row, end in zip(scores.tolist(), ends, strict=True)],
        )

    def _extend(self, chosen: Int[Tensor, " batch"]) -> Float[Tensor, "batch hidden"]:
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=True)
        hidden = self._forward(chosen[:, None], self._positions[:, None])
        self._positions = self._positions + 1
        return hidden

    def _forward(self, ids: Int[Tensor, "batch sequence"], positions: Int[Tensor, "batch sequence"]) -> Tensor:
        output = self._shared.model.base_model(
            input_ids=ids,
            attention_mask=self._mask.long(),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def _select(self, kept: Int[Tensor, " kept"]) -> None:
        """Keep these rows of the batch."""
        self._cache.batch_select_indices(kept)
        self._mask, self._positions = self._mask[kept], self._positions[kept]


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
    logprobs = (logits / sampling.temperature).log_softmax(dim=-1)
    probabilities = logprobs.exp()
    if sampling.top_p < 1.0:
        probabilities = _keep_top(probabilities, sampling.top_p)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    # The first token whose cumulative probability exceeds the draw; one of probability 0 is never first.
    targets = uniforms.to(torch.float64)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True).clamp_max(logits.shape[-1] - 1).squeeze(1)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)


def _keep_top(probabilities: Tensor, share: float) -> Tensor:
    """Zero all but the smallest set of most likely tokens whose probability reaches `share` (Holtzman et al. 2020)."""
    ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
    return torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(before >= share, 0.0))


def _draw_uniforms(seed: int, keys: Sequence[int], count: int) -> Float[np.ndarray, "batch tokens"]:
    """Return uniforms in [0, 1) that depend on (seed, key, column) alone."""
    rows = [np.random.Generator(np.random.Philox(key=(seed, key))).random(count) for key in keys]
    return np.stack(rows) if rows else np.zeros((0, count))
