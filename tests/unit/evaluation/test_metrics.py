"""Figures of an evaluation, against numbers worked out by hand."""

from itertools import combinations
from math import comb, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.metrics import (
    best_of_n_expectation,
    best_of_n_kl,
    best_of_n_weights,
    distinct_n,
    gains_by_part,
    length_controlled_gain,
    longer_is_better,
    mean_estimate,
    paired_gain,
    response_kl,
    wilson_interval,
    win_rate,
    within_prompt_std,
)

values = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=12)


def test_mean_has_the_sample_standard_error():
    # 1, 2, 3, 4: mean 2.5, sample variance 5/3, standard error sqrt(5/3 / 4).
    found = mean_estimate([1, 2, 3, 4])
    assert found.value == 2.5
    assert found.error == pytest.approx(sqrt(5 / 12))
    assert mean_estimate([7.0]).error is None


def test_a_paired_gain_ignores_how_prompts_differ():
    # The prompts differ by thousands, the gain is 1 on each: its error is 0.
    found = paired_gain([1001.0, 2001.0, 3001.0], [1000.0, 2000.0, 3000.0])
    assert (found.value, found.error) == (1.0, 0.0)


def test_a_tie_is_half_a_win():
    # Outcomes 1, 1/2, 0, 1: mean 5/8; deviations .375, -.125, -.625, .375 squared sum .6875, over 3, over 4.
    found = win_rate([2, 1, 0, 5], [1, 1, 1, 1])
    assert found.value == 0.625
    assert found.error == pytest.approx(sqrt(0.6875 / 3 / 4))


@given(values, st.randoms(use_true_random=False))
def test_swapping_the_sides_of_a_win_rate_gives_the_complement(after, random):
    before = after.copy()
    random.shuffle(before)
    assert win_rate(after, before).value == pytest.approx(1 - win_rate(before, after).value)


def test_wilson_keeps_a_width_where_everything_was_won():
    # p = 1, n = 10: the lower end is n / (n + z^2) = 10 / 13.8415.
    low, high = wilson_interval(1.0, 10)
    assert low == pytest.approx(10 / (10 + 1.959963984540054**2))
    assert high == pytest.approx(1.0)


def test_distinct_2_counts_pairs_of_words_over_all_responses():
    # a b, b a, a b | a b: 2 different of 4. No pair crosses from one response to the next.
    assert distinct_n(["a b a b", "A  b"], 2) == 0.5
    assert distinct_n(["one", "two"], 2) == 0.0


def test_kl_estimates_of_one_response():
    # log p = -1, -2; log q = -1.5, -1: k1 = .5 - 1; k3 = (e^-.5 - 1 + .5) + (e^1 - 1 - 1).
    k1, k3 = response_kl([-1.0, -2.0], [-1.5, -1.0])
    assert k1 == pytest.approx(-0.5)
    assert k3 == pytest.approx(np.exp(-0.5) - 0.5 + np.e - 2)
    assert response_kl([], []) == (0.0, 0.0)


def test_k1_and_k3_average_to_the_exact_kl():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
    exact = float((p * np.log(p / q)).sum())
    pairs = [response_kl([a], [b]) for a, b in zip(np.log(p), np.log(q), strict=True)]
    assert sum(w * k1 for w, (k1, _) in zip(p, pairs, strict=True)) == pytest.approx(exact)
    assert sum(w * k3 for w, (_, k3) in zip(p, pairs, strict=True)) == pytest.approx(exact)


def test_best_of_n_bound():
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(4) == pytest.approx(log(4) - 0.75)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_expectation_is_the_mean_over_all_subsets(n):
    proxy, gold = [0.3, -1.0, 2.0, 0.9, 0.1], [5.0, 1.0, 2.0, 8.0, 3.0]
    picked = [gold[max(subset, key=lambda i: proxy[i])] for subset in combinations(range(5), n)]
    assert best_of_n_expectation(proxy, gold, n) == pytest.approx(sum(picked) / comb(5, n))


@given(values, st.data())
def test_best_of_n_weights_are_a_distribution_and_ties_share(proxy, data):
    n = data.draw(st.integers(1, len(proxy)))
    weights = best_of_n_weights(proxy, n)
    assert weights.sum() == pytest.approx(1.0)
    for left, right in combinations(range(len(proxy)), 2):
        if proxy[left] == proxy[right]:
            assert weights[left] == pytest.approx(weights[right])


def test_length_control_takes_out_what_length_explains():
    # gain = 1 + 2 * extra tokens, exactly: at equal length 1 is left, a token is worth 2, no error.
    found = length_controlled_gain([1 + 2 * extra for extra in (0, 1, 5, -3)], [0, 1, 5, -3])
    assert found is not None
    assert found.gain.value == pytest.approx(1.0)
    assert found.per_token == pytest.approx(2.0)
    assert found.gain.error == pytest.approx(0.0, abs=1e-6)


def test_length_control_is_undefined_where_lengths_never_differ():
    assert length_controlled_gain([1.0, 2.0, 3.0], [4, 4, 4]) is None
    assert length_controlled_gain([1.0, 2.0], [1, 2]) is None


def test_length_control_error_covers_the_truth():
    # 400 draws of a known line with noise: |estimate - 1| stays within 3 errors in nearly all of them.
    random = np.random.default_rng(3)
    missed = 0
    for _ in range(400):
        extra = random.normal(2, 3, size=80)
        found = length_controlled_gain((1 + 0.5 * extra + random.normal(size=80)).tolist(), extra.tolist())
        assert found is not None
        assert found.gain.error is not None
        missed += abs(found.gain.value - 1) > 3 * found.gain.error
    assert missed <= 8


def test_shares_of_the_gain_add_to_one_and_noise_has_none():
    before = [{"a": 0.0, "b": 1.0}, {"a": 0.1, "b": 1.0}, {"a": 0.0, "b": 0.9}]
    after = [{"a": 0.8, "b": 0.8}, {"a": 0.9, "b": 0.9}, {"a": 0.8, "b": 0.6}]
    found = gains_by_part(after, before)
    assert found["a"].gain.value == pytest.approx(0.8)
    assert found["b"].gain.value == pytest.approx(-0.2)
    assert found["a"].share == pytest.approx(0.8 / 0.6)
    assert found["b"].share == pytest.approx(-0.2 / 0.6)
    assert gains_by_part(before, before)["a"].share is None
    assert gains_by_part([{}], [{}]) == {}


def test_within_prompt_std_is_a_mean_over_prompts():
    # Sample deviations sqrt(2) (of 0, 2) and 0; the lonely value says nothing.
    assert within_prompt_std([[0, 2], [5, 5], [9]]) == pytest.approx(sqrt(2) / 2)
    assert within_prompt_std([[1.0]]) is None


def test_longer_is_better_counts_pairs_that_differ_in_both():
    # Prompt 1: (3 > 1: gold higher, win), (3, 3: equal length, out), (1, 3: win). Prompt 2: one loss.
    found = longer_is_better([[3, 1, 3], [1, 2]], [[0.9, 0.1, 0.5], [1.0, 0.0]])
    assert found is not None
    assert found.value == pytest.approx(2 / 3)
    assert found.count == 3
    assert longer_is_better([[2, 2]], [[0.0, 1.0]]) is None
