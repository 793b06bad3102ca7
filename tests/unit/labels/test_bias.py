"""Position and length effects: shown where they are, and not where they are not."""

import numpy as np
import pytest

from rlhf.labels.bias import measure_bias
from rlhf.records import CandidateSet, Ranking


def rank(prompt: str, who: str, *ranks: int, **fields) -> Ranking:
    return Ranking(prompt, who, ranks, **fields)


def test_position_bias_shows_and_its_absence_too():
    sets = [CandidateSet(f"p-{n}", "q", ("a", "bb", "ccc")) for n in range(60)]
    rng = np.random.default_rng(1)
    biased, fair = [], []
    for n in range(60):
        order = tuple(rng.permutation(3).tolist())
        ranks = [0, 0, 0]
        for place, candidate in enumerate(order):
            ranks[candidate] = place + 1
        biased.append(rank(f"p-{n}", "x", *ranks, display_order=order))
        fair.append(rank(f"p-{n}", "x", *(rng.permutation(3) + 1).tolist(), display_order=order))
    report = measure_bias(sets, biased)
    assert [figure.value for figure in report.rank_by_place] == [0.0, 0.5, 1.0]
    assert report.first_wins.value == 1.0
    honest = measure_bias(sets, fair)
    assert honest.first_wins.high is not None
    assert honest.first_wins.low <= 0.5 <= honest.first_wins.high


def test_length_effect():
    sets = [CandidateSet("p", "q", ("a", "bb", "ccc"))]
    # Longer wins: bb over a, ccc over a; not ccc against bb, which tie.
    assert measure_bias(sets, [rank("p", "x", 2, 1, 1)]).longer_wins.value == 1.0
    same = measure_bias([CandidateSet("p", "q", ("a", "b"))], [rank("p", "x", 1, 2)])
    assert "different length" in same.longer_wins.reason
    assert "display order" in same.first_wins.reason


def two(prompt: str, first: int, second: int) -> CandidateSet:
    return CandidateSet(prompt, "q", ("a" * first, "b" * second))


def test_length_slope_of_nearly_equal_lengths():
    sets = [two(f"p-{n}", 1000, 1001) for n in range(4)]
    rows = [rank(f"p-{n}", "x", *((1, 2) if n == 0 else (2, 1))) for n in range(4)]
    assert measure_bias(sets, rows).length_slope.value == pytest.approx(np.log(3) / np.log(1.001))


def test_length_slope_by_hand():
    # The longer is twice as long and wins 3 of 4: log odds ln 3 = slope x ln 2.
    sets = [two(f"p-{n}", 10, 20) for n in range(4)]
    rows = [rank(f"p-{n}", "x", *((1, 2) if n == 0 else (2, 1))) for n in range(4)]
    slope = measure_bias(sets, rows).length_slope
    assert slope.value == pytest.approx(np.log(3) / np.log(2))
    # Scores are x / 4 three times and -3 x / 4, x = ln 2; information 4 x^2 3/16: s = sqrt(12/16) / (12/16) / x.
    assert slope.high == pytest.approx(np.log(3) / np.log(2) + 1.959964 * np.sqrt(12 / 16) / (12 / 16) / np.log(2))
    assert slope.n == 4


def test_length_slope_finds_what_was_put_in():
    rng = np.random.default_rng(3)
    sets, rows = [], []
    for n in range(600):
        lengths = rng.integers(20, 400, size=4)
        sets.append(
            CandidateSet(f"p-{n}", "q", tuple(f"{'x' * length}{place}" for place, length in enumerate(lengths)))
        )
        noisy = 0.8 * np.log(lengths + 1) + rng.gumbel(size=4)
        rows.append(rank(f"p-{n}", "x", *(np.argsort(np.argsort(-noisy)) + 1).tolist()))
    slope = measure_bias(sets, rows).length_slope
    # The difference of two Gumbel draws is logistic, so that 0.8 is the slope.
    assert slope.low is not None
    assert slope.high is not None
    assert slope.low < 0.8 < slope.high < slope.low + 0.4


def test_length_slope_of_one_sided_wins_is_undefined():
    sets = [two("p-1", 10, 20), two("p-2", 30, 20)]
    longer = measure_bias(sets, [rank("p-1", "x", 2, 1), rank("p-2", "x", 1, 2)]).length_slope
    assert longer.value is None
    assert "the longer candidate won every time" in longer.reason
    shorter = measure_bias(sets, [rank("p-1", "x", 1, 2), rank("p-2", "x", 2, 1)]).length_slope
    assert "the shorter candidate won every time" in shorter.reason
