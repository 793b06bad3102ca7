"""Figures of an evaluation: plain numbers in, estimates with their standard errors out.

All gains are *paired by prompt*: the standard error is that of the differences, and covers the choice of
prompts and of samples. It does not cover the training seed; runs with other seeds do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, log, sqrt

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error (None where it is not estimated) and the number of observations."""

    value: float
    error: float | None
    count: int


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and its standard error, `s / sqrt(n)` with the sample standard deviation s."""
    array = _array(values)
    error = float(array.std(ddof=1) / sqrt(array.size)) if array.size > 1 else None
    return Estimate(float(array.mean()), error, int(array.size))


def paired_gain(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Return the mean of `after[i] - before[i]` with the standard error of the differences."""
    return mean_estimate(_differences(after, before).tolist())


def win_rate(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Return the share of prompts on which `after` is higher; a tie counts one half.

    The standard error is that of the outcomes (0, 1/2, 1). It is 0 where every prompt has the same outcome;
    `wilson_interval` stays honest there.
    """
    return mean_estimate(((np.sign(_differences(after, before)) + 1) / 2).tolist())


def wilson_interval(rate: float, count: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson (1927) score interval of a share, which keeps a width at 0 and 1.

    `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`.
    """
    assert count > 0, count
    assert -1e-9 <= rate <= 1 + 1e-9, rate
    spread = z * sqrt(max(rate * (1 - rate), 0.0) / count + z * z / (4 * count * count))
    centre, scale = rate + z * z / (2 * count), 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def distinct_n(responses: Sequence[str], n: int = 2) -> float:
    """Return unique n-grams over all n-grams, of all responses together (Li et al. 2016, distinct-n).

    Words are what white space separates, in lower case. N-grams do not cross responses. The figure falls with
    the amount of text: compare only policies that answered the same prompts equally often. No n-gram at all
    (every response shorter than n words) gives 0.
    """
    assert n >= 1, n
    total, unique = 0, set()
    for response in responses:
        words = response.lower().split()
        grams = list(zip(*(words[shift:] for shift in range(n)), strict=False))
        total += len(grams)
        unique.update(grams)
    return len(unique) / total if total else 0.0


def response_kl(policy: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Return the k1 and k3 estimates of KL(policy | reference) from one response, in nats.

    Both take the logprobs of the tokens of a response *sampled from the policy*. Over many responses the mean of k1,
    `sum_t log p - log q`, is unbiased; k3, `sum_t q/p - 1 - log q/p` (Schulman 2020), is never negative and varies
    less. k1 is the figure; k3 is there to be seen beside it.
    """
    assert len(policy) == len(reference), (len(policy), len(reference))
    ratio = np.asarray(reference, dtype=np.float64) - np.asarray(policy, dtype=np.float64)
    return float(-ratio.sum()), float((np.expm1(ratio) - ratio).sum())


def best_of_n_kl(n: int) -> float:
    """Return `log n - (n - 1) / n`, an upper bound of best-of-n's KL to its sampler, in nats.

    Stiennon et al. (2020) state it as the value; Beirami et al. (2024) show that it is a bound, tight for
    continuous scores that never tie.
    """
    assert n >= 1, n
    return log(n) - (n - 1) / n


def best_of_n_weights(proxy: Sequence[float], n: int) -> NDArray[np.float64]:
    """Return each sample's chance of being the best of n drawn without replacement from these N samples.

    Sorted by proxy, the i-th lowest has weight `C(i-1, n-1) / C(N, n)` (Coste et al. 2023, eq. 4). Samples with
    equal proxy share their weights, as a fair coin would.
    """
    scores = _array(proxy)
    assert 1 <= n <= scores.size, (n, scores.size)
    order = np.argsort(scores, kind="stable")
    weights = np.empty(scores.size)
    weights[order] = [comb(place, n - 1) / comb(scores.size, n) for place in range(scores.size)]
    for score in np.unique(scores):
        tied = scores == score
        weights[tied] = weights[tied].mean()
    return weights


def best_of_n_expectation(proxy: Sequence[float], values: Sequence[float], n: int) -> float:
    """Return the expected value of the sample that best-of-n picks by proxy, without bias, from N >= n samples."""
    return float(best_of_n_weights(proxy, n) @ _array(values))


@dataclass(frozen=True, slots=True)
class LengthControl:
    """Gain at equal length, and what one more token is worth."""

    gain: Estimate
    per_token: float


def length_controlled_gain(gains: Sequence[float], extra_tokens: Sequence[float]) -> LengthControl | None:
    """Return the gain that is left where both responses are equally long.

    Least squares of the gain on the length difference, `gain = a + b (tokens after - tokens before)`: `a` is the
    answer, with White's (1980) standard error, corrected for the two parameters (HC1). None where the length
    difference does not vary (nothing to control for) or fewer than three prompts are there.
    """
    y, x = _array(gains), _array(extra_tokens)
    assert y.size == x.size, (y.size, x.size)
    if y.size < 3 or float(np.ptp(x)) == 0.0:
        return None
    design = np.column_stack([np.ones_like(x), x])
    bread = np.linalg.inv(design.T @ design)
    intercept, slope = bread @ design.T @ y
    residual = y - design @ (intercept, slope)
    meat = design.T @ (design * (residual**2)[:, None])
    covariance = bread @ meat @ bread * y.size / (y.size - 2)
    return LengthControl(Estimate(float(intercept), float(sqrt(covariance[0, 0])), int(y.size)), float(slope))


@dataclass(frozen=True, slots=True)
class PartGain:
    """One part of the gold before and after, its paired gain, and its share of the gain of all parts."""

    before: Estimate
    after: Estimate
    gain: Estimate
    share: float | None


def gains_by_part(after: Sequence[Mapping[str, float]], before: Sequence[Mapping[str, float]]) -> dict[str, PartGain]:
    """Return what became of each part of the gold, paired by prompt.

    A share is the part's gain over the sum of all parts' gains (so shares add to 1, and a part that fell has a
    negative one); None where that sum is within one standard error of 0, since shares of noise say nothing.
    """
    names = list(before[0]) if before else []
    columns = {name: ([row[name] for row in after], [row[name] for row in before]) for name in names}
    gains = {name: paired_gain(*pair) for name, pair in columns.items()}
    total = (
        mean_estimate([sum(a.values()) - sum(b.values()) for a, b in zip(after, before, strict=True)])
        if names
        else None
    )
    clear = total is not None and abs(total.value) > (total.error or 0.0)
    return {
        name: PartGain(
            before=mean_estimate(columns[name][1]),
            after=mean_estimate(columns[name][0]),
            gain=gains[name],
            share=gains[name].value / total.value if total is not None and clear else None,
        )
        for name in names
    }


def within_prompt_std(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the mean, over prompts, of the sample standard deviation of a prompt's values.

    This is what annotators and best-of-n have to work with. None where no prompt has two values.
    """
    spreads = [float(_array(group).std(ddof=1)) for group in groups if len(group) > 1]
    return sum(spreads) / len(spreads) if spreads else None


def longer_is_better(lengths: Sequence[Sequence[int]], golds: Sequence[Sequence[float]]) -> Estimate | None:
    """Return how often the longer of two responses to one prompt has the higher gold.

    Over all pairs of a prompt that differ in both. A rule of thumb without a model: the further `max(p, 1 - p)` is
    above 1/2, the less a reward model needs to have understood. The standard error treats prompts, not pairs, as
    independent. None where no pair differs in both.
    """
    wins, pairs = [], []
    for sizes, values in zip(lengths, golds, strict=True):
        size, value = np.asarray(sizes), _array(values)
        agreement = np.sign(size[:, None] - size[None, :]) * np.sign(value[:, None] - value[None, :])
        upper = agreement[np.triu_indices(size.size, k=1)]
        wins.append(float((upper > 0).sum()))
        pairs.append(float((upper != 0).sum()))
    total = sum(pairs)
    if not total:
        return None
    rate = sum(wins) / total
    error = sqrt(sum((won - rate * of) ** 2 for won, of in zip(wins, pairs, strict=True))) / total
    return Estimate(rate, error, int(total))


def _array(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    assert array.size > 0, "expected at least one number"
    return array


def _differences(after: Sequence[float], before: Sequence[float]) -> NDArray[np.float64]:
    left, right = _array(after), _array(before)
    assert left.size == right.size, (left.size, right.size)
    return left - right
