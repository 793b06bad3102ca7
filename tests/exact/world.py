"""A world small enough to enumerate: every response, its probability and its score, so that the optimum is known.

The vocabulary has 8 tokens, one of which ends a response; a response holds at most 4 tokens and is cut there when it
has not ended. That makes 2,801 responses: 1 + 7 + 49 + 343 that end, and 2,401 that are cut. Both kinds are scored by
the table alone (no penalty for a missing end). The best policy of J = E[score] - kl_coef * KL(policy || reference) is

    pi*(y) = ref(y) exp(score(y) / kl_coef) / Z,    J* = kl_coef * log E_ref[exp(score / kl_coef)]

Prefixes are numbered as in a heap: the empty one is 0, and token v after prefix n gives 8 n + 1 + v. A response is
named by the number that follows its last token. All exact figures are float64.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

VOCABULARY, LENGTH, END = 8, 4, 0
# Prefixes of 0 to 3 tokens; those that hold an end token are never reached.
PREFIXES = sum(VOCABULARY**length for length in range(LENGTH))
NODES = sum(VOCABULARY**length for length in range(LENGTH + 1))


@dataclass(frozen=True)
class Responses:
    """All responses, one per row.

    Attributes:
        tokens: Token ids; `END` beyond the last token.
        mask: True on response tokens, the end token included.
        ended: Whether the response ends by itself.
        prefixes: Number of the prefix before each token; 0 beyond the last token.
        row_of: Row of the response named by each heap number; -1 where there is none.
    """

    tokens: Int[Tensor, "response time"]
    mask: Bool[Tensor, "response time"]
    ended: Bool[Tensor, " response"]
    prefixes: Int[Tensor, "response time"]
    row_of: Int[Tensor, " node"]

    def find(self, ids: list[int]) -> int:
        """Return the row of a response."""
        node = 0
        for token in ids:
            node = VOCABULARY * node + 1 + token
        return int(self.row_of[node])


@dataclass(frozen=True)
class Figures:
    """Where a policy stands between the reference and the optimum.

    Attributes:
        gap_closed: (J - J_ref) / (J* - J_ref).
        kl_ratio: KL / KL*.
        objective: J = E[score] - kl_coef * KL.
        reference_objective: J of the reference: its mean score.
        best_objective: J*.
        kl: KL(policy || reference) of whole responses, in nats.
        best_kl: KL of the optimum, in nats.
        length: Mean response length, in tokens.
        best_length: That of the optimum.
    """

    gap_closed: float
    kl_ratio: float
    objective: float
    reference_objective: float
    best_objective: float
    kl: float
    best_kl: float
    length: float
    best_length: float

    def __str__(self) -> str:
        return (
            f"gap closed {self.gap_closed:.4f}, KL {self.kl:.3f} of {self.best_kl:.3f} nats ({self.kl_ratio:.3f}), "
            f"length {self.length:.2f} of {self.best_length:.2f} tokens"
        )


@cache
def enumerate_responses() -> Responses:
    """Return all responses, shortest first."""
    rows: list[list[int]] = []
    growing: list[list[int]] = [[]]
    for length in range(1, LENGTH + 1):
        grown = [[*row, token] for row in growing for token in range(VOCABULARY)]
        rows += [row for row in grown if row[-1] == END or length == LENGTH]
        growing = [row for row in grown if row[-1] != END]
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(LENGTH)[None, :] < lengths[:, None]
    tokens = torch.tensor([row + [END] * (LENGTH - len(row)) for row in rows])
    prefixes = torch.zeros_like(tokens)
    nodes = torch.zeros(len(rows), dtype=torch.long)
    for t in range(LENGTH):
        prefixes[:, t] = nodes * mask[:, t]
        nodes = torch.where(mask[:, t], VOCABULARY * nodes + 1 + tokens[:, t], nodes)
    row_of = torch.full((NODES,), -1)
    row_of[nodes] = torch.arange(len(rows))
    return Responses(tokens, mask, torch.tensor([row[-1] == END for row in rows]), prefixes, row_of)


def random_table(seed: int) -> Float[Tensor, "prefix token"]:
    """Return random logits after every prefix: a reference policy."""
    return torch.randn(PREFIXES, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def table_logprobs(table: Float[Tensor, "prefix token"]) -> Float[Tensor, " response"]:
    """Return the logprob of every response under a table of logits, in nats."""
    every = enumerate_responses()
    logprobs = table.detach().double().log_softmax(dim=-1)[every.prefixes, every.tokens]
    return (logprobs * every.mask).sum(dim=1)


def random_scores(reference: Float[Tensor, " response"], seed: int) -> Float[Tensor, " response"]:
    """Return an independent random score of every response, with mean 0 and standard deviation 1 under the reference.

    The good ones are needles: how near a run comes to the optimum is a matter of how many episodes it sees.
    """
    generator = torch.Generator().manual_seed(seed)
    return _standardise(torch.randn(len(reference), generator=generator, dtype=torch.float64), reference)


def pair_scores(reference: Float[Tensor, " response"], seed: int) -> Float[Tensor, " response"]:
    """Return random scores with something to generalise from: a sum over places of a weight per pair of neighbours.

    Mean 0 and standard deviation 1 under the reference, as in `random_scores`.
    """
    every, generator = enumerate_responses(), torch.Generator().manual_seed(seed)
    weights = torch.randn(LENGTH, VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64)
    before = torch.cat([torch.zeros(len(every.tokens), 1, dtype=torch.long), every.tokens[:, :-1]], dim=1)
    places = torch.arange(LENGTH).expand_as(every.tokens)
    return _standardise((weights[places, before, every.tokens] * every.mask).sum(dim=1), reference)


def _standardise(scores: Float[Tensor, " response"], reference: Float[Tensor, " response"]) -> Tensor:
    weights = reference.exp()
    scores = scores - weights @ scores
    return scores / (weights @ scores.square()).sqrt()


def optimum(
    reference: Float[Tensor, " response"], scores: Float[Tensor, " response"], kl_coef: float
) -> Float[Tensor, " response"]:
    """Return the logprob of every response under the best policy."""
    return (reference + scores / kl_coef).log_softmax(dim=0)


def compare(
    policy: Float[Tensor, " response"],
    reference: Float[Tensor, " response"],
    scores: Float[Tensor, " response"],
    kl_coef: float,
) -> Figures:
    """Return where a policy stands, from the exact logprobs of every response."""
    best, lengths = optimum(reference, scores, kl_coef), enumerate_responses().mask.sum(dim=1).double()
    best_objective = float(kl_coef * torch.logsumexp(reference + scores / kl_coef, dim=0))
    reference_objective = float(reference.exp() @ scores)
    kl, best_kl = (float(logprobs.exp() @ (logprobs - reference)) for logprobs in (policy, best))
    objective = float(policy.exp() @ scores) - kl_coef * kl
    return Figures(
        gap_closed=(objective - reference_objective) / (best_objective - reference_objective),
        kl_ratio=kl / best_kl,
        objective=objective,
        reference_objective=reference_objective,
        best_objective=best_objective,
        kl=kl,
        best_kl=best_kl,
        length=float(policy.exp() @ lengths),
        best_length=float(best.exp() @ lengths),
    )
