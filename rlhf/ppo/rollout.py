"""One batch of episodes: sample, score, and recompute logprobs and values with the weights that will be trained.

A rollout lives on the CPU. Rows are episodes; column t of a (batch, response) tensor is response token t. For the
model, prompt and response are laid end to end and padded on the right, so that no attention mask is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.batching import even_out, micro_batches
from rlhf.config.training import PpoConfig
from rlhf.models.logprobs import frozen_head_logprobs, predicting, response_logprobs
from rlhf.models.roles import SharedBase
from rlhf.reward.sources import Scores
from rlhf.runtime import Runtime
from rlhf.sampling import Samples, Sampling, sample
from rlhf.tensors import lengths_to_mask, pad_right, unflatten
from rlhf.text import TextFormat

# Reference responses draw from keys that neither rollouts nor looks at the validation prompts reach.
REFERENCE_KEYS = 1 << 41
# Scores of (prompt, response) token ids; a tensor where there is nothing to tell but the total.
ScoreFn = Callable[[list[list[int]], list[list[int]]], Tensor | Scores]


@dataclass
class Rollout:
    """Episodes with everything that was computed under the weights that sampled them.

    Attributes:
        sequences: Prompt and response ids of each episode.
        prompt_lengths: Tokens of each prompt.
        response_mask: True on response tokens, the end token included.
        ended: Whether the response ended by itself.
        scores: What the responses are scored by in all.
        logprobs: The policy's, recomputed as in training, in nats.
        reference_logprobs: The reference's, in nats.
        values: The critic's estimate before each token.
        entropies: Entropy of the policy at each token, in nats.
        sampler_gap: Mean absolute difference between the sampler's and the trainer's logprobs, in nats.
        compared_scores: Scores of reference responses to the same prompts, where the score is shaped by them.
        score_parts: What each source of the score gave, where there are several.
    """

    sequences: list[list[int]]
    prompt_lengths: list[int]
    response_mask: Bool[Tensor, "batch response"]
    ended: Bool[Tensor, " batch"]
    scores: Float[Tensor, " batch"]
    logprobs: Float[Tensor, "batch response"]
    reference_logprobs: Float[Tensor, "batch response"]
    values: Float[Tensor, "batch response"]
    entropies: Float[Tensor, "batch response"]
    sampler_gap: float
    compared_scores: Float[Tensor, "batch samples"] | None = None
    score_parts: dict[str, Float[Tensor, " batch"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sequences)


def score_references(
    shared: SharedBase,
    text: TextFormat,
    samples: Samples,
    keys: Sequence[int],
    score_fn: ScoreFn,
    config: PpoConfig,
    seed: int,
    *,
    in_step: Callable[[bool], bool] | None = None,
) -> Float[Tensor, "batch samples"] | None:
    """Score fresh responses of the reference to the same prompts, where scores are shaped by comparison.

    They are drawn anew in every update, so that a resumed run computes what an uninterrupted one does.
    """
    if config.score_shaping == "none":
        return None
    count = config.shaping_samples
    prompts = [prompt for prompt in samples.prompt_ids for _ in range(count)]
    keys = [REFERENCE_KEYS + key * count + place for key in keys for place in range(count)]
    drawn = sample_episodes(shared, text, prompts, keys, config, seed, role="reference", in_step=in_step)
    return score_samples(score_fn, drawn).total.view(-1, count)


def score_samples(score_fn: ScoreFn, samples: Samples) -> Scores:
    """Score whole responses, end token included, as they were cut."""
    found = score_fn(samples.prompt_ids, samples.response_ids)
    scores = found if isinstance(found, Scores) else Scores(found)
    columns = {"total": scores.total, **scores.parts}
    for name, column in columns.items():
        assert column.shape == (len(samples.prompt_ids),), f"score_fn returned {name} of shape {tuple(column.shape)}"
    total, *parts = (column.detach().float().cpu() for column in columns.values())
    return Scores(total, dict(zip(scores.parts, parts, strict=True)))


@torch.no_grad()
def sample_episodes(
    shared: SharedBase,
    text: TextFormat,
    prompts_ids: Sequence[list[int]],
    keys: Sequence[int],
    config: PpoConfig,
    seed: int,
    *,
    role: str = "policy",
    in_step: Callable[[bool], bool] | None = None,
) -> Samples:
    """Let a role respond, unconstrained: no top-k, no top-p, no minimal length; `in_step` as for `sample`."""
    return sample(
        shared,
        role,
        prompts_ids,
        text,
        Sampling(config.temperature, config.max_new_tokens),
        seed=seed,
        batch_size=config.rollout_batch_size,
        keys=keys,
        in_step=in_step,
    )


@torch.no_grad()
def examine(shared: SharedBase, samples: Samples, scores: Scores, config: PpoConfig, runtime: Runtime) -> Rollout:
    """Compute old logprobs, reference logprobs and, where there is a critic, values of sampled episodes."""
    sequences = [
        [*prompt, *response] for prompt, response in zip(samples.prompt_ids, samples.response_ids, strict=True)
    ]
    lengths = torch.tensor([len(response) for response in samples.response_ids])
    mask = lengths_to_mask(lengths, int(lengths.max()))
    shape = mask.shape
    logprobs, reference, values, entropies = (torch.zeros(shape) for _ in range(4))
    prompt_lengths = [len(prompt) for prompt in samples.prompt_ids]
    widths = [len(sequence) for sequence in sequences]
    parts = list(micro_batches(widths, range(len(widths)), config.micro_batch_size, config.micro_batch_tokens))
    for rows, _ in even_out([parts], runtime)[0]:
        ids, response = lay_out(sequences, prompt_lengths, rows, shared.device)
        hidden = shared.hidden("policy", ids)
        states, targets = predicting(hidden, response), ids[response]
        found, entropy = frozen_head_logprobs(shared.lm_head, states, targets, config.temperature, entropy=True)
        anchor, _ = response_logprobs(shared, "reference", ids, None, response, config.temperature)
        part = mask[rows]
        logprobs[rows] = unflatten(found.cpu(), part)
        entropies[rows] = unflatten(entropy.cpu(), part)
        reference[rows] = unflatten(anchor.cpu(), part)
        if config.advantage == "rloo":
            continue
        if config.critic == "adapter":
            states = predicting(shared.hidden("critic", ids), response)
        values[rows] = unflatten(shared.read_head("critic", states).cpu(), part)
    sampled = pad_right(samples.logprobs, 0.0, torch.float32)
    gap = ((sampled - logprobs).abs() * mask).sum() / mask.sum()
    ended = torch.tensor(samples.ended)
    return Rollout(
        sequences,
        prompt_lengths,
        mask,
        ended,
        scores.total,
        logprobs,
        reference,
        values,
        entropies,
        float(gap),
        score_parts=scores.parts,
    )


def lay_out(
    sequences: Sequence[list[int]], prompt_lengths: Sequence[int], rows: Sequence[int], device: torch.device
) -> tuple[Int[Tensor, "batch sequence"], Bool[Tensor, "batch sequence"]]:
    """Return token ids padded on the right to the longest of these rows, and the mask of their response tokens."""
    ids = pad_right([sequences[row] for row in rows], 0, torch.long)
    ends = lengths_to_mask(torch.tensor([len(sequences[row]) for row in rows]), ids.shape[1])
    prompts = lengths_to_mask(torch.tensor([prompt_lengths[row] for row in rows]), ids.shape[1])
    return ids.to(device), (ends & ~prompts).to(device)
