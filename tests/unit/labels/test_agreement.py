"""Agreement and bias: worked examples, an independent implementation, and honest refusals."""

import numpy as np
import pytest

from rlhf.labels.agreement import (
    Figure,
    kendalls_w,
    krippendorff_alpha,
    measure_agreement,
    pairwise_agreement,
)
from rlhf.labels.bias import measure_bias
from rlhf.records import CandidateSet, Ranking


def rank(prompt: str, who: str, *ranks: int, **fields) -> Ranking:
    return Ranking(prompt, who, ranks, **fields)


def random_rankings(seed: int, prompts: int = 12, people: int = 5) -> list[Ranking]:
    """Return rankings with ties, different K, and people who miss prompts."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(prompts):
        size = int(rng.integers(2, 6))
        for person in range(people):
            if rng.random() < 0.3:
                continue
            levels = rng.integers(0, size, size=size)
            dense = np.unique(levels, return_inverse=True)[1] + 1
            rows.append(rank(f"p-{prompt}", f"w-{person}", *dense.tolist()))
    return rows


def test_strict_and_tie_aware_agreement_by_hand():
    rows = [rank("p", "x", 1, 2, 3), rank("p", "y", 1, 1, 2)]
    # Pairs ab, ac, bc: x says >, >, >; y says =, >, >. Strict pairs: two, both alike.
    assert pairwise_agreement(rows, strict=True).value == 1.0
    # Tie-aware: 1/2, 1, 1.
    assert pairwise_agreement(rows, strict=False).value == pytest.approx(2.5 / 3)


def test_only_compares_one_annotator_with_the_others():
    rows = [rank("p", "x", 1, 2), rank("p", "y", 1, 2), rank("p", "z", 2, 1)]
    assert pairwise_agreement(rows, strict=True).value == pytest.approx(1 / 3)
    assert pairwise_agreement(rows, strict=True, only="z").value == 0.0
    assert measure_agreement(rows).by_annotator["x"].value == 0.5


@pytest.mark.parametrize("seed", range(6))
def test_alpha_equals_the_krippendorff_package(seed):
    krippendorff = pytest.importorskip("krippendorff", reason="pip install krippendorff (tests only, GPL)")
    rows = random_rankings(seed)
    people = sorted({row.annotator for row in rows})
    units: dict[tuple[str, int, int], dict[str, int]] = {}
    for row in rows:
        for one in range(len(row.ranks)):
            for two in range(one + 1, len(row.ranks)):
                sign = int(np.sign(row.ranks[two] - row.ranks[one]))
                units.setdefault((row.prompt_id, one, two), {})[row.annotator] = sign
    data = [[unit.get(person, np.nan) for unit in units.values()] for person in people]
    expected = krippendorff.alpha(np.array(data, dtype=float), level_of_measurement="nominal")
    assert krippendorff_alpha(rows).value == pytest.approx(expected, abs=1e-12)


def test_kendalls_w_by_hand():
    rows = [rank("p", "x", 1, 2, 3), rank("p", "y", 1, 2, 3), rank("p", "z", 2, 1, 3)]
    # Rank sums: a 4, b 5, c 9; mean 6; S = 4 + 1 + 9 = 14; W = 168 / 216.
    assert kendalls_w(rows).value == pytest.approx(12 * 14 / (9 * 24))


def test_kendalls_w_with_ties_is_one_for_equal_judges():
    rows = [rank("p", "x", 1, 1, 2), rank("p", "y", 1, 1, 2)]
    # Mean ranks 1.5, 1.5, 3 twice; sums 3, 3, 6; S = 6; T = 2^3 - 2 = 6 per judge: 72 / (4 * 24 - 2 * 12) = 1.
    assert kendalls_w(rows).value == pytest.approx(1.0)


def test_without_ties_and_two_judges_w_is_the_mean_of_rho_and_one():
    stats = pytest.importorskip("scipy.stats")
    one, two = (1, 4, 2, 3), (2, 4, 1, 3)
    rho = stats.spearmanr(one, two).statistic
    assert kendalls_w([rank("p", "x", *one), rank("p", "y", *two)]).value == pytest.approx((rho + 1) / 2)


def test_undefined_says_why():
    alone = [rank("p", "x", 1, 2), rank("q", "y", 1, 2)]
    for figure in (pairwise_agreement(alone, strict=True), krippendorff_alpha(alone), kendalls_w(alone)):
        assert figure.value is None
        assert str(figure).startswith("undefined, because no prompt was ranked by two annotators")
    same = [rank("p", "x", 1, 2), rank("p", "y", 1, 2)]
    assert "all answers are the same" in krippendorff_alpha(same).reason
    tied = [rank("p", "x", 1, 1), rank("p", "y", 1, 1)]
    assert "one big tie" in kendalls_w(tied).reason
    assert "strict orders" in pairwise_agreement(tied, strict=True).reason


def test_one_prompt_has_a_value_but_no_interval():
    figure = pairwise_agreement([rank("p", "x", 1, 2, 3), rank("p", "y", 2, 1, 3)], strict=True)
    assert (figure.value, figure.low, figure.high) == (pytest.approx(2 / 3), None, None)


def test_intervals_cover_the_truth():
    """Of 40 samples whose true agreement is 0.7, about 95 % of intervals should hold it."""
    rng = np.random.default_rng(0)
    hits = 0
    for sample in range(40):
        rows = []
        for prompt in range(80):
            rows += [
                rank(f"p-{prompt}", "x", 1, 2),
                rank(f"p-{prompt}", "y", *((1, 2) if rng.random() < 0.7 else (2, 1))),
            ]
        figure = pairwise_agreement(rows, strict=True, seed=sample)
        assert figure.high is not None
        hits += figure.low <= 0.7 <= figure.high
    assert hits >= 34


def test_figures_read_well():
    assert str(Figure(0.7312, 0.7, 0.76, 600)) == "0.731 (95 % interval 0.700 to 0.760, n = 600 prompts)"


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
