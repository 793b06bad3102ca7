"""Losses that turn preferences into a scalar score (pure: tensors and numbers in, tensors out).

A step holds several prompts. Each prompt brings its candidates, scored once, and all its preference pairs,
which name two candidates each. Symbols: r is a score, w the chosen and l the rejected candidate, m the margin,
p the probability that w is truly preferred, v the pair's weight, n the number of pairs of its prompt.

    z = r_w - r_l - m                                                          (logit of a pair)
    t = p (1 - s) + (1 - p) s                                                  (smoothed target, s < 1/2)
    L = sum_pairs (v / n) [-t log sigma(z) - (1 - t) log sigma(-z) + c (r_w + r_l)^2] / sum_pairs (v / n)

With all v = 1, p = 1, m = s = c = 0 this is InstructGPT's loss (Ouyang et al. 2022, eq. 1): the mean over prompts
of the mean over a prompt's pairs. The division is left to the caller, who alone knows the sum of v / n over
all micro-batches and processes of a step.

Two other likelihoods take the place of the bracket's first two terms: Davidson's, in which a tie is an outcome of its own,
and Plackett and Luce's of the whole order, which has one term per prompt with the weight that its pairs have together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

# The score of what is not there: exp of it is 0, and unlike infinity it has a gradient.
_NOTHING = -1e9
Likelihood = Literal["bradley_terry", "davidson", "plackett_luce"]


@dataclass(frozen=True)
class PairBatch:
    """The pairs of some prompts; `chosen` and `rejected` are positions in the flat vector of scores.

    `ties` is the share of votes that are ties. `candidates` has one row per prompt: the positions of its candidates, with
    any position where there are fewer; `levels` their ranks in the consensus, 1 is best, equal numbers are ties, 0 fills.
    `emphasis` multiplies the weights of a prompt's pairs for each head of an ensemble; None is 1 everywhere.
    """

    chosen: Int[Tensor, " pairs"]
    rejected: Int[Tensor, " pairs"]
    prompt: Int[Tensor, " pairs"]
    weight: Float[Tensor, " pairs"]
    probability: Float[Tensor, " pairs"]
    margin: Float[Tensor, " pairs"]
    ties: Float[Tensor, " pairs"]
    candidates: Int[Tensor, "prompts most"]
    levels: Int[Tensor, "prompts most"]
    emphasis: Float[Tensor, "heads prompts"] | None = None

    def swap(self) -> "PairBatch":
        """Return the same judgements with the two sides of every pair exchanged."""
        turned = torch.where(self.levels > 0, self.levels.max(dim=1, keepdim=True).values + 1 - self.levels, 0)
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            probability=1 - self.probability,
            margin=-self.margin,
            levels=turned,
        )


def pair_logits(
    scores: Float[Tensor, " candidates"], pairs: PairBatch, *, margins: bool = False
) -> Float[Tensor, " pairs"]:
    """Return r_w - r_l of every pair, less the margin where `margins` (Llama 2, Touvron et al. 2023, eq. 2).

    Bradley and Terry (1952): sigma of the logit is the probability that the chosen candidate is preferred.
    """
    gaps = scores[pairs.chosen] - scores[pairs.rejected]
    return gaps - pairs.margin if margins else gaps


def smooth(probability: Float[Tensor, " pairs"], label_smoothing: float) -> Float[Tensor, " pairs"]:
    """Move each target towards the opposite: p (1 - s) + (1 - p) s.

    It is the likelihood of labels that are flipped with probability s, and bounds the logit that fits a hard label
    at log((1 - s) / s) (Wang et al. 2024, arXiv:2401.06080).
    """
    return probability * (1 - label_smoothing) + (1 - probability) * label_smoothing


def cross_entropy(logits: Float[Tensor, " pairs"], target: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """Return -t log sigma(z) - (1 - t) log sigma(-z), in nats per pair."""
    return -target * logsigmoid(logits) - (1 - target) * logsigmoid(-logits)


def prompt_balanced_weights(pairs: PairBatch) -> Float[Tensor, " pairs"]:
    """Return v / n: a prompt of nine candidates counts no more than one of two.

    The pairs of one prompt are strongly correlated, so their number says little about how much is known
    (Ouyang et al. 2022, section 3.5). Weights keep their meaning between prompts: they are not normalised
    within one.
    """
    if pairs.prompt.numel() == 0:
        return pairs.weight
    return pairs.weight / torch.bincount(pairs.prompt)[pairs.prompt]


def centering_penalty(scores: Float[Tensor, " candidates"], pairs: PairBatch) -> Float[Tensor, " pairs"]:
    """Return (r_w + r_l)^2, which pins the scores' free constant near 0 (Eisenstein et al. 2023, arXiv:2312.09244)."""
    return (scores[pairs.chosen] + scores[pairs.rejected]).square()


def davidson_log_probabilities(
    gaps: Float[Tensor, " pairs"], tie_strength: float
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Return log P(chosen wins), log P(tie), log P(rejected wins) of pairs with score differences d = r_w - r_l.

    With worths pi = exp(r), P(w wins) = pi_w / (pi_w + pi_l + nu sqrt(pi_w pi_l)) and P(tie) = nu sqrt(pi_w pi_l) over the
    same sum (Davidson 1970, eq. 2.4); nu = 0 is Bradley and Terry's model. Dividing by sqrt(pi_w pi_l) leaves
    exp(d / 2), exp(-d / 2) and nu.

    Args:
        gaps: d.
        tie_strength: nu; two responses of equal worth tie with probability nu / (2 + nu).
    """
    terms = [gaps / 2, torch.full_like(gaps, tie_strength).log(), -gaps / 2]
    total = torch.logsumexp(torch.stack(terms), dim=0)
    return terms[0] - total, terms[1] - total, terms[2] - total


def davidson_loss(
    gaps: Float[Tensor, " pairs"],
    target: Float[Tensor, " pairs"],
    ties: Float[Tensor, " pairs"],
    tie_strength: float,
) -> Float[Tensor, " pairs"]:
    """Return the cross-entropy of votes under Davidson's model, in nats per pair.

    Args:
        gaps: r_w - r_l.
        target: The chance that the chosen one is better, a tie being half a vote each way.
        ties: The share of votes that are ties; the chosen one then wins target - ties / 2 of them, the other the rest.
        tie_strength: nu > 0.
    """
    win, tie, loss = davidson_log_probabilities(gaps, tie_strength)
    # A target that is an estimate may leave less than half of the ties to one side.
    shares = torch.stack([(target - ties / 2).clamp(min=0), ties, (1 - target - ties / 2).clamp(min=0)])
    return -(shares / shares.sum(dim=0) * torch.stack([win, tie, loss])).sum(dim=0)


def plackett_luce_loss(
    scores: Float[Tensor, "prompts candidates"], levels: Int[Tensor, "prompts candidates"]
) -> Float[Tensor, " prompts"]:
    """Return the negative log-likelihood of whole rankings, in nats per choice that a ranking makes.

    The best is chosen from all with probability softmax(r), the next from those that remain, and so on (Luce 1959;
    Plackett 1975). A tied group of size k that is chosen from the remaining R counts, by Efron (1977, eq. 2.5),

        sum of the group's r - sum over l = 0 .. k-1 of log(sum over R of exp(r) - l / k sum over the group of exp(r)),

    which is close to the mean over all orders of the group. The last group makes no choice where it is a single one. With
    two candidates and no tie this is Bradley and Terry's loss.

    Args:
        scores: One row per prompt.
        levels: The rank of each candidate, 1 is best, equal numbers are ties, 0 where the row has no such candidate.
    """
    worth = scores.masked_fill(levels == 0, _NOTHING)
    total, choices = torch.zeros_like(scores[:, 0]), torch.zeros_like(scores[:, 0])
    for level in range(1, int(levels.max()) + 1):
        group = levels == level
        size = group.sum(dim=1)
        rest = torch.logsumexp(worth.masked_fill(levels < level, _NOTHING), dim=1)
        own = torch.logsumexp(worth.masked_fill(~group, _NOTHING), dim=1)
        for place in range(int(size.max())):
            counts = place < size
            used = torch.where(counts, place / size.clamp(min=1), 0.0)
            # log(exp(rest) - used exp(own)), of rows whose group has so many.
            total = total + torch.where(counts, rest + torch.log1p(-used * torch.exp(own - rest)), 0.0)
        total = total - torch.where(group, scores, 0.0).sum(dim=1)
        choices = choices + size
    last = levels.max(dim=1).values[:, None] == levels
    choices = choices - (last.sum(dim=1) == 1).to(choices.dtype)
    return total / choices.clamp(min=1)


def preference_loss(
    scores: Float[Tensor, " candidates"],
    pairs: PairBatch,
    *,
    likelihood: Likelihood = "bradley_terry",
    tie_strength: float = 0.5,
    label_smoothing: float = 0.0,
    margins: bool = False,
    centering: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the numerator of L (see the module's formula) and its denominator, the sum of v / n.

    Summing both over micro-batches and dividing once gives the same gradient for every way to cut a step, as
    long as no prompt is cut. `tie_strength` is Davidson's nu. The likelihood of orders knows neither smoothing nor margins.
    """
    weights = prompt_balanced_weights(pairs)
    logits = pair_logits(scores, pairs, margins=margins)
    penalty = (weights * centering * centering_penalty(scores, pairs)).sum() if centering else 0.0
    if likelihood == "plackett_luce":
        of_prompt = torch.zeros_like(scores[: len(pairs.levels)]).index_add(0, pairs.prompt, weights)
        losses = plackett_luce_loss(scores[pairs.candidates], pairs.levels)
        return (of_prompt * losses).sum() + penalty, weights.sum()
    target = smooth(pairs.probability, label_smoothing)
    if likelihood == "davidson":
        losses = davidson_loss(logits, target, pairs.ties, tie_strength)
    else:
        losses = cross_entropy(logits, target)
    return (weights * losses).sum() + penalty, weights.sum()


def each_head(
    scores: Float[Tensor, "heads candidates"], pairs: PairBatch
) -> Iterator[tuple[Float[Tensor, " candidates"], PairBatch]]:
    """Yield each head's scores beside the pairs as this head weighs them; the loss of an ensemble is the mean over heads."""
    for number, own in enumerate(scores):
        if pairs.emphasis is None:
            yield own, pairs
        else:
            yield own, replace(pairs, weight=pairs.weight * pairs.emphasis[number][pairs.prompt])
