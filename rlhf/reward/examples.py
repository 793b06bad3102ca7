"""Preference pairs as training examples: one example is a prompt with its candidates and all its pairs.

The pairs of one prompt are kept together (Ouyang et al. 2022, section 3.5): each candidate is forwarded once, not
once per pair, and no prompt is on both sides of a split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rlhf.errors import DataError, report_all
from rlhf.models.classifiers import ClassifierText
from rlhf.records import Message, PreferencePair, PromptText
from rlhf.reward.losses import PairBatch
from rlhf.reward.model import Item, stack_rows, stack_shared
from rlhf.text import TextFormat


@dataclass(frozen=True)
class RankedPrompt:
    """A prompt, its candidates as token ids, and its pairs, which name candidates by position.

    A model with a tokenizer of its own reads whole exchanges: `prompt_ids` is empty then, `response_ids` are the exchanges.
    """

    prompt_id: str
    prompt: PromptText
    prompt_ids: list[int]
    response_ids: list[list[int]]
    lengths: list[int]
    """Tokens of each response alone."""
    chosen: list[int]
    rejected: list[int]
    weight: list[float]
    probability: list[float]
    margin: list[float]
    ties: list[float]
    emphasis: tuple[float, ...] = ()
    """How much each head of an ensemble makes of this prompt; empty is 1 for all."""

    @property
    def levels(self) -> list[int]:
        """The consensus: ranks by each candidate's mean chance to win its pairs; 1 is best, equal numbers are ties."""
        chances: list[list[float]] = [[] for _ in self.response_ids]
        for chosen, rejected, probability in zip(self.chosen, self.rejected, self.probability, strict=True):
            chances[chosen].append(probability)
            chances[rejected].append(1.0 - probability)
        means = [round(sum(found) / len(found), 9) for found in chances]
        order = sorted(set(means), reverse=True)
        return [order.index(mean) + 1 for mean in means]

    @property
    def items(self) -> list[Item]:
        """(prompt ids, response ids) of each candidate."""
        return [(self.prompt_ids, response) for response in self.response_ids]

    @property
    def balanced_weight(self) -> float:
        """Sum of the pairs' weights divided by their number: what the prompt adds to a step's denominator."""
        return sum(self.weight) / len(self.weight)

    def extent(self, *, share: bool) -> tuple[int, int]:
        """Return how many rows the prompt takes in a pass, and the tokens of the longest one; see `collate`."""
        lengths = [len(response) for response in self.response_ids]
        return (
            (1, len(self.prompt_ids) + sum(lengths)) if share else (len(lengths), len(self.prompt_ids) + max(lengths))
        )


@dataclass(frozen=True)
class Batch:
    """Some prompts, ready for one forward pass."""

    input_ids: Tensor
    response_mask: Tensor
    row_of: Tensor | None
    pairs: PairBatch


def encode_pairs(
    text: TextFormat | ClassifierText, pairs: Sequence[PreferencePair], max_tokens: int, kind: str
) -> list[RankedPrompt]:
    """Group pairs by prompt and round, in order of first appearance; distinct texts are the candidates.

    `max_tokens` is for a `TextFormat`, which refuses longer examples; a `ClassifierText` cuts them by its own limit.

    Raises:
        DataError: There are no pairs, one id stands for two prompts, or a candidate has too many tokens.
    """
    if not pairs:
        raise DataError(f"no {kind} pairs; label more prompts, or lower pairs.min_probability")
    groups: dict[tuple[str, int], list[PreferencePair]] = {}
    for pair in pairs:
        groups.setdefault((pair.prompt_id, pair.round), []).append(pair)
    encoded: list[RankedPrompt] = []
    problems: list[str] = []
    for (prompt_id, _), group in groups.items():
        try:
            encoded.append(_encode_prompt(text, prompt_id, group, max_tokens))
        except DataError as error:
            problems.append(f"{kind} prompt {prompt_id}: {error}")
    report_all(DataError, problems, f"{len(problems)} of {len(groups)} {kind} prompts cannot be used")
    return encoded


def check_disjoint(train: Sequence[RankedPrompt], held_out: Sequence[RankedPrompt]) -> None:
    """Refuse a prompt on both sides, under whatever id.

    Raises:
        DataError: Names the first such prompt.
    """
    ids = {prompt.prompt_id for prompt in train}
    asked = {_turns(prompt.prompt): prompt.prompt_id for prompt in train}
    for prompt in held_out:
        if prompt.prompt_id in ids or _turns(prompt.prompt) in asked:
            twin = prompt.prompt_id if prompt.prompt_id in ids else asked[_turns(prompt.prompt)]
            raise DataError(
                f"held-out prompt {prompt.prompt_id} is also trained on (as {twin}); the held-out accuracy would be "
                "too high: keep all pairs of a prompt on one side"
            )


def shuffle_labels(prompts: Sequence[RankedPrompt], seed: int) -> list[RankedPrompt]:
    """Turn round a random half of all pairs: labels of the right form that say nothing (a negative control).

    Exactly half are turned, since a coin per pair leaves a small majority for one side that a model can find.
    """
    total = sum(len(prompt.chosen) for prompt in prompts)
    turned = np.random.Generator(np.random.Philox(key=[seed, total])).permutation(total) % 2 == 0
    shuffled: list[RankedPrompt] = []
    start = 0
    for prompt in prompts:
        flags = turned[start : start + len(prompt.chosen)].tolist()
        start += len(flags)
        sides = list(zip(prompt.chosen, prompt.rejected, flags, strict=True))
        shuffled.append(
            replace(
                prompt,
                chosen=[rejected if flag else chosen for chosen, rejected, flag in sides],
                rejected=[chosen if flag else rejected for chosen, rejected, flag in sides],
            )
        )
    return shuffled


def emphasise(prompts: Sequence[RankedPrompt], heads: int, seed: int) -> list[RankedPrompt]:
    """Give each head its own weighting of the prompts, so that the heads of an ensemble disagree where data are few.

    The weights are exponential with mean 1 over the prompts: the Bayesian bootstrap (Rubin 1981), in which no prompt is
    left out altogether and no step is left without weight. Prompts are weighed and not pairs, since the pairs of one prompt
    are strongly correlated. One head weighs all alike.
    """
    if heads == 1:
        return list(prompts)
    draws = np.random.Generator(np.random.Philox(key=[seed, heads])).exponential(size=(len(prompts), heads))
    weights = draws / draws.mean(axis=0)
    return [replace(prompt, emphasis=tuple(row)) for prompt, row in zip(prompts, weights.tolist(), strict=True)]


def collate(
    prompts: Sequence[RankedPrompt], pad_token_id: int, device: torch.device, *, scale: float = 1.0, share: bool = False
) -> Batch:
    """Stack the candidates of some prompts.

    Args:
        prompts: Whole prompts.
        pad_token_id: Any id; masks decide.
        device: Where to.
        scale: Multiplies the weights (0 makes a filler that moves nothing).
        share: One row per prompt, with all its candidates behind it, instead of one row per candidate.
    """
    row_of = None
    if share:
        whole = [(prompt.prompt_ids, prompt.response_ids) for prompt in prompts]
        input_ids, response_mask, rows = stack_shared(whole, pad_token_id)
        row_of = rows.to(device)
    else:
        input_ids, response_mask = stack_rows([item for prompt in prompts for item in prompt.items], pad_token_id)
    return Batch(input_ids.to(device), response_mask.to(device), row_of, pair_batch(prompts, device, scale=scale))


def pair_batch(prompts: Sequence[RankedPrompt], device: torch.device, *, scale: float = 1.0) -> PairBatch:
    """Return the pairs of some prompts, which name positions among all their candidates."""
    chosen: list[int] = []
    rejected: list[int] = []
    owner: list[int] = []
    most = max(len(prompt.response_ids) for prompt in prompts)
    positions: list[list[int]] = []
    levels: list[list[int]] = []
    start = 0
    for number, prompt in enumerate(prompts):
        count = len(prompt.response_ids)
        positions.append([*range(start, start + count), *[start] * (most - count)])
        levels.append([*prompt.levels, *[0] * (most - count)])
        chosen += [start + index for index in prompt.chosen]
        rejected += [start + index for index in prompt.rejected]
        owner += [number] * len(prompt.chosen)
        start += count

    def floats(name: str, factor: float = 1.0) -> Tensor:
        values = [factor * value for prompt in prompts for value in getattr(prompt, name)]
        return torch.tensor(values, dtype=torch.float32, device=device)

    return PairBatch(
        chosen=torch.tensor(chosen, device=device),
        rejected=torch.tensor(rejected, device=device),
        prompt=torch.tensor(owner, device=device),
        weight=floats("weight", scale),
        probability=floats("probability"),
        margin=floats("margin"),
        ties=floats("ties"),
        candidates=torch.tensor(positions, device=device),
        levels=torch.tensor(levels, device=device),
        emphasis=_emphasis(prompts, device),
    )


def _emphasis(prompts: Sequence[RankedPrompt], device: torch.device) -> Tensor | None:
    if not prompts[0].emphasis:
        return None
    return torch.tensor([prompt.emphasis for prompt in prompts], dtype=torch.float32, device=device).T


def _turns(prompt: PromptText) -> tuple[Message, ...]:
    return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)


def _encode_prompt(
    text: TextFormat | ClassifierText, prompt_id: str, pairs: list[PreferencePair], max_tokens: int
) -> RankedPrompt:
    prompt: PromptText = pairs[0].prompt
    if any(pair.prompt != prompt for pair in pairs):
        raise DataError("its id stands for different prompts; give each prompt an id of its own")
    texts = list(dict.fromkeys(side for pair in pairs for side in (pair.chosen, pair.rejected)))
    position = {response: index for index, response in enumerate(texts)}
    prompt_ids, response_ids, lengths = _encode_candidates(text, prompt, texts, max_tokens)
    return RankedPrompt(
        prompt_id=prompt_id,
        prompt=prompt,
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        lengths=lengths,
        chosen=[position[pair.chosen] for pair in pairs],
        rejected=[position[pair.rejected] for pair in pairs],
        weight=[pair.weight for pair in pairs],
        probability=[pair.probability for pair in pairs],
        margin=[pair.margin for pair in pairs],
        ties=[pair.ties for pair in pairs],
    )


def _encode_candidates(
    text: TextFormat | ClassifierText, prompt: PromptText, responses: list[str], max_tokens: int
) -> tuple[list[int], list[list[int]], list[int]]:
    """Return `prompt_ids`, `response_ids` and `lengths` of a `RankedPrompt`."""
    if isinstance(text, ClassifierText):
        return [], [text.encode(prompt, response) for response in responses], [text.count(each) for each in responses]
    examples = [text.encode_example(prompt, response, max_length=max_tokens) for response in responses]
    prompt_length = examples[0].response_mask.index(True)
    response_ids = [example.input_ids[prompt_length:] for example in examples]
    return examples[0].input_ids[:prompt_length], response_ids, [len(ids) for ids in response_ids]
