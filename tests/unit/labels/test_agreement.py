"""Agreement: worked examples, independent implementations, and honest refusals."""

import tracemalloc
from itertools import combinations

import numpy as np
import pytest

from rlhf.labels.agreement import (
    kendalls_tau,
    kendalls_w,
    krippendorff_alpha,
    measure_agreement,
    measure_table,
    ordinal_alpha,
    pairwise_agreement,
    tau_by_prompt,
)
from rlhf.labels.figures import Figure, bootstrap_mean, median, ratio
from rlhf.labels.ranktable import RankTable
from rlhf.records import Ranking


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


@pytest.mark.parametrize("seed", range(6))
def test_ordinal_alpha_equals_the_krippendorff_package(seed):
    krippendorff = pytest.importorskip("krippendorff", reason="pip install krippendorff (tests only, GPL)")
    stats = pytest.importorskip("scipy.stats")
    rows = random_rankings(seed)
    people = sorted({row.annotator for row in rows})
    units: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        for candidate, rank_ in enumerate(stats.rankdata(row.ranks)):
            units.setdefault((row.prompt_id, candidate), {})[row.annotator] = rank_
    data = np.array([[unit.get(person, np.nan) for unit in units.values()] for person in people])
    expected = krippendorff.alpha(data, level_of_measurement="ordinal")
    assert ordinal_alpha(rows).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_tau_b_equals_the_mean_of_scipys(seed):
    stats = pytest.importorskip("scipy.stats")
    rows = random_rankings(seed)
    found = tau_by_prompt(rows)
    prompts = list(dict.fromkeys(row.prompt_id for row in rows))
    for prompt, value in zip(prompts, found, strict=True):
        ranks = [row.ranks for row in rows if row.prompt_id == prompt and len(set(row.ranks)) > 1]
        taus = [stats.kendalltau(one, two).statistic for one, two in combinations(ranks, 2)]
        assert value == pytest.approx(np.mean(taus)) if taus else np.isnan(value)
    assert kendalls_tau(rows).value == pytest.approx(np.nanmean(found))


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
    makers = (krippendorff_alpha, ordinal_alpha, kendalls_w, kendalls_tau)
    for figure in (pairwise_agreement(alone, strict=True), *(make(alone) for make in makers)):
        assert figure.value is None
        assert str(figure).startswith("undefined, because no prompt was ranked by two annotators")
    same = [rank("p", "x", 1, 2), rank("p", "y", 1, 2)]
    assert "all answers are the same" in krippendorff_alpha(same).reason
    tied = [rank("p", "x", 1, 1), rank("p", "y", 1, 1)]
    assert "one big tie" in kendalls_w(tied).reason
    assert "same rank" in ordinal_alpha(tied).reason
    assert "beside ties" in kendalls_tau(tied).reason
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


def naive_interval(table: np.ndarray, seed: int) -> tuple[float, float]:
    """Resample the prompts themselves, as many numbers as that takes."""
    draws = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), size=1000)
    sums = draws.astype(float) @ table
    low, high = np.percentile(sums[:, 0] / sums[:, 1], (2.5, 97.5))
    return low, high


def sums_of(prompts: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 13, size=prompts)
    return np.stack([rng.binomial(counts, 0.7), counts], axis=1).astype(float)


def test_up_to_500_prompts_each_is_drawn_for_itself():
    table = sums_of(500, seed=1)
    figure = ratio(table, seed=4)
    assert (figure.low, figure.high) == pytest.approx(naive_interval(table, 4), abs=1e-12)


def test_beyond_500_prompts_groups_give_the_same_width():
    widths = []
    for seed in range(4):
        table = sums_of(3_210, seed)
        figure = ratio(table, seed)
        low, high = naive_interval(table, seed)
        assert figure.low is not None
        assert figure.high is not None
        widths.append((figure.high - figure.low) / (high - low))
        assert figure.n == 3_210
    # Each width rests on 1000 draws of 500 groups: about 5 % of scatter, halved by the mean of four.
    assert np.mean(widths) == pytest.approx(1.0, abs=0.1)


def test_many_prompts_take_little_memory():
    """Resampling 20,000 prompts themselves would take 160 MB for the draws alone."""
    prompts, rng = 20_000, np.random.default_rng(0)
    ranks = np.zeros((3 * prompts, 9), dtype=np.int8)
    ranks[:, :4] = rng.random((3 * prompts, 4)).argsort(axis=1) + 1
    rows = np.repeat(np.arange(prompts), 3)
    table = RankTable(rows, np.tile(np.arange(3), prompts), np.full(3 * prompts, 4), ranks, prompts, 3)
    tracemalloc.start()
    found = measure_table(table, ["x", "y", "z"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6
    # Orders drawn at random agree half of the time, and W of three is (1 - 1/3) / 2 = 1/3 at chance.
    assert found.strict.value == pytest.approx(0.5, abs=0.01)
    assert found.alpha_ordinal.value == pytest.approx(0.0, abs=0.02)
    assert found.kendalls_w.value == pytest.approx(1 / 3, abs=0.01)


def test_median_goes_between_order_statistics():
    figure = median(np.arange(1.0, 101.0))
    # 100 tosses: (100 - 19.6) / 2 = 40.2, so the 40th smallest and the 40th largest.
    assert (figure.value, figure.low, figure.high) == (50.5, 40.0, 61.0)
    assert median(np.array([3.0, 1.0])).low is None
    assert "no answers" in median(np.array([])).reason


def test_the_mean_of_nothing_is_undefined():
    assert bootstrap_mean([], unit="days").reason == "there are no days"
