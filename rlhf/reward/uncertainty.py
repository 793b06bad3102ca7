"""What a reward model is unsure about: one number per prompt, from the scores of its candidates, and where the prompt lies.

With one head the only doubt that a model can state is how close its scores are: the entropy of the predicted preference,

    q_ij = sigma((r_i - r_j) / T)          u = mean over pairs i < j of -q log q - (1 - q) log(1 - q),

where T is the temperature fitted on held-out pairs. It is large also where people are divided and more answers teach
nothing. Several heads disagree where data are few (Coste et al. 2024):

    u = mean over pairs i < j of the standard deviation over heads k of (r_ik - r_jk).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf.models.roles import SharedBase
from rlhf.records import CandidateSet
from rlhf.reward.external import Classifier
from rlhf.reward.model import ROLE, Item, RewardInfo, score_heads, stack_rows
from rlhf.text import TextFormat

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Doubt:
    """What a reward model thinks of some prompts: `uncertainty` of each, and `features`, one row of each."""

    uncertainty: Floats
    features: Floats


def measure_doubt(
    shared: SharedBase, text: TextFormat, info: RewardInfo, sets: Sequence[CandidateSet], batch_size: int
) -> Doubt:
    """Score the candidates of each prompt and say how unsure the model is of their order.

    A prompt's features are the mean over its candidates of the trunk's mean hidden state over response tokens.

    Raises:
        DataError: A candidate is empty or longer than the context.
    """
    items: list[Item] = [
        (text.encode_prompt(item.prompt), text.encode_response(item.prompt, response, end=True))
        for item in sets
        for response in item.responses
    ]
    scores = score_heads(shared, text, info.pooling, items, batch_size)
    return _doubt(sets, scores, mean_states(shared, text, items, batch_size), info.temperature)


def measure_doubt_of_own(
    classifier: Classifier, info: RewardInfo, sets: Sequence[CandidateSet], batch_size: int
) -> Doubt:
    """As `measure_doubt`, by a reward model with a base of its own; its states are means over prompt and response."""
    prompts = [item.prompt for item in sets for _ in item.responses]
    responses = [response for item in sets for response in item.responses]
    scores = [[score] for score in classifier.score(prompts, responses, batch_size)]
    states = classifier.mean_states(prompts, responses, batch_size).double().numpy()
    return _doubt(sets, scores, states, info.temperature)


def _doubt(sets: Sequence[CandidateSet], scores: list[list[float]], states: Floats, temperature: float) -> Doubt:
    uncertainty, features = np.zeros(len(sets)), np.zeros((len(sets), states.shape[1]))
    start = 0
    for number, item in enumerate(sets):
        end = start + len(item.responses)
        uncertainty[number] = uncertainty_of(np.array(scores[start:end]), temperature)
        features[number] = states[start:end].mean(axis=0)
        start = end
    return Doubt(uncertainty, features)


def uncertainty_of(scores: Floats, temperature: float) -> float:
    """Return u of one prompt (see the module's formulas), in nats for one head and in raw scores for several.

    Args:
        scores: Raw scores, a row per candidate and a column per head.
        temperature: T, in raw scores.
    """
    first, second = np.triu_indices(len(scores), k=1)
    gaps = scores[first] - scores[second]
    if scores.shape[1] > 1:
        return float(gaps.std(axis=1).mean())
    logits = gaps[:, 0] / temperature
    # -q log q - (1 - q) log(1 - q) = log(1 + exp(-|z|)) + |z| (1 - q) with q = sigma(|z|).
    size = np.abs(logits)
    rest = np.exp(-np.logaddexp(0, size))
    return float((np.logaddexp(0, -size) + size * rest).mean())


@torch.no_grad()
def mean_states(shared: SharedBase, text: TextFormat, items: Sequence[Item], batch_size: int) -> Floats:
    """Return the reward trunk's mean hidden state over the response tokens of each (prompt ids, response ids) pair."""
    order = sorted(range(len(items)), key=lambda index: sum(map(len, items[index])), reverse=True)
    found = np.zeros((len(items), shared.lm_head.in_features))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids, mask = (
            part.to(shared.device) for part in stack_rows([items[index] for index in chosen], text.pad_token_id)
        )
        hidden = shared.hidden(ROLE, ids).float().masked_fill(~mask[..., None], 0.0)
        found[chosen] = (hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True)).cpu().numpy()
    return found
