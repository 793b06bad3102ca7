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
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class PairBatch:
    """The pairs of some prompts; `chosen` and `rejected` are positions in the flat vector of scores."""

    chosen: Int[Tensor, " pairs"]
    rejected: Int[Tensor, " pairs"]
    prompt: Int[Tensor, " pairs"]
    weight: Float[Tensor, " pairs"]
    probability: Float[Tensor, " pairs"]
    margin: Float[Tensor, " pairs"]

    def swap(self) -> "PairBatch":
        """Return the same judgements with the two sides of every pair exchanged."""
        return PairBatch(self.rejected, self.chosen, self.prompt, self.weight, 1 - self.probability, -self.margin)


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


def preference_loss(
    scores: Float[Tensor, " candidates"],
    pairs: PairBatch,
    *,
    label_smoothing: float = 0.0,
    margins: bool = False,
    centering: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the numerator of L (see the module's formula) and its denominator, the sum of v / n.

    Summing both over micro-batches and dividing once gives the same gradient for every way to cut a step, as
    long as no prompt is cut.
    """
    weights = prompt_balanced_weights(pairs)
    logits = pair_logits(scores, pairs, margins=margins)
    losses = cross_entropy(logits, smooth(pairs.probability, label_smoothing))
    if centering:
        losses = losses + centering * centering_penalty(scores, pairs)
    return (weights * losses).sum(), weights.sum()
