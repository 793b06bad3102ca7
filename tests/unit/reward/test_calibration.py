"""Accuracy, calibration error, temperature and normalisation on numbers that can be checked by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest

from rlhf.errors import DataError, TrainingError
from rlhf.reward.calibration import (
    JudgedPairs,
    accuracy_by,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    hits,
    negative_log_likelihood,
    normalisation,
    reliability,
    share,
    without_length,
)


def logit(probability: float) -> float:
    """Inverse of the logistic function."""
    return math.log(probability / (1 - probability))


def numbers(report: Any) -> list[float]:
    """All numbers of a report, in order."""
    if isinstance(report, (dict, list)):
        return [
            number for value in (report.values() if isinstance(report, dict) else report) for number in numbers(value)
        ]
    return [report]


def test_accuracy_counts_level_scores_half_and_skips_pairs_without_winner() -> None:
    pairs = JudgedPairs.of([1.0, -1.0, 0.0, 5.0], probability=[1.0, 0.9, 0.8, 0.5])
    found = calibrate(pairs).accuracy
    # right, wrong, half; the fourth names no winner
    assert found.value == pytest.approx(0.5)
    assert found.pairs == 3


def test_turning_a_pair_round_changes_no_figure() -> None:
    there = JudgedPairs.of(
        [1.0, -2.0, 0.5], probability=[0.9, 0.7, 0.6], lengths=[(3, 2), (1, 5), (4, 4)], margin=[1, 2, 3]
    )
    back = JudgedPairs.of(
        [-1.0, 2.0, -0.5], probability=[0.1, 0.3, 0.4], lengths=[(2, 3), (5, 1), (4, 4)], margin=[-1, -2, -3]
    )
    assert numbers(calibrate(there).to_json()) == pytest.approx(numbers(calibrate(back).to_json()))


def test_longer_wins_reads_lengths_and_not_scores() -> None:
    pairs = JudgedPairs.of([-1.0, -1.0, -1.0, -1.0], lengths=[(5, 2), (5, 2), (2, 5), (3, 3)])
    # longer, longer, shorter, level: (1 + 1 + 0 + .5) / 4
    assert calibrate(pairs).longer_wins.value == pytest.approx(0.625)
    # Only the level pair is within 10 % of its longer side.
    assert calibrate(pairs).length_matched.pairs == 1


def test_interval_is_wilsons_for_independent_pairs() -> None:
    hit = np.array([1.0] * 80 + [0.0] * 20)
    found = share(hit, np.arange(100))
    # Wilson 95 % for 80 of 100 is (.711, .867); the clustered variance has the divisor 99 instead of 100.
    assert (found.low, found.high) == (pytest.approx(0.711, abs=2e-3), pytest.approx(0.867, abs=2e-3))


def test_interval_widens_where_pairs_of_a_prompt_agree() -> None:
    hit = np.repeat(np.array([1.0] * 16 + [0.0] * 4), 6)
    alone, together = share(hit, np.arange(120)), share(hit, np.repeat(np.arange(20), 6))
    assert together.value == alone.value
    # Six copies of one pair are worth one: the width grows by about sqrt(6).
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(6), rel=0.15)


def test_interval_of_a_perfect_score_has_width() -> None:
    found = share(np.ones(60), np.repeat(np.arange(10), 6))
    # Wilson for 10 of 10 prompts: 1 / (1 + 3.84 / 10) = .722
    assert (found.low, found.high) == (pytest.approx(0.722, abs=1e-3), pytest.approx(1.0))


def test_reliability_folds_both_orientations_together() -> None:
    there = reliability(np.array([logit(0.9), -logit(0.8)]), np.array([1.0, 1.0]))
    # .9 and right; .8 and wrong
    assert [(entry.confidence, entry.accuracy) for entry in there] == [
        (pytest.approx(0.8), 0.0),
        (pytest.approx(0.9), 1.0),
    ]
    assert expected_calibration_error(there) == pytest.approx((0.8 + 0.1) / 2)


def test_calibration_error_is_zero_where_confidence_equals_frequency() -> None:
    gap = np.full(10, logit(0.7))
    label = np.array([1.0] * 7 + [0.0] * 3)
    assert expected_calibration_error(reliability(gap, label)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_temperature_recovers_the_scale(scale: float) -> None:
    generator = np.random.default_rng(0)
    gap = generator.normal(0, 2, 20_000)
    label = (generator.random(20_000) < 1 / (1 + np.exp(-gap))).astype(float)
    assert fit_temperature(gap * scale, label) == pytest.approx(scale, rel=0.05)


def test_temperature_is_bounded_where_the_data_ask_for_the_impossible() -> None:
    gap, right = np.array([1.0, 2.0, 3.0]), np.ones(3)
    assert fit_temperature(gap, right) == pytest.approx(0.01)
    assert fit_temperature(-gap, right) == pytest.approx(100.0)


def test_temperature_is_the_minimum_of_the_likelihood() -> None:
    gap, label = np.array([1.0, -2.0, 3.0, 0.5]), np.array([1.0, 1.0, 1.0, 0.3])
    best = fit_temperature(gap, label)
    at = [negative_log_likelihood(gap / t, label) for t in (best * 0.99, best, best * 1.01)]
    assert min(at) == at[1]


def test_accuracy_by_keeps_equal_values_together() -> None:
    pairs = JudgedPairs.of([1.0, 1.0, -1.0, 1.0], margin=[1.0, 1.0, 3.0, 3.0])
    groups = accuracy_by(pairs, pairs.margin)
    assert [(value, found.value, found.pairs) for value, found in groups] == [(1.0, 1.0, 2), (3.0, 0.5, 2)]


def test_level_scores_are_half_a_hit() -> None:
    assert hits(np.array([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]


def test_normalisation_gives_mean_and_deviation() -> None:
    # mean (1 + 3) / 2, population deviation 1
    assert normalisation([1.0, 3.0]) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("scores", "message"),
    [([1.0], "1 SFT samples"), ([2.5] * 8, "the same score"), ([1.0, math.nan], "1 of 2 scores")],
)
def test_normalisation_refuses_what_has_no_scale(scores: list[float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        normalisation(scores)


def test_calibrate_refuses_no_pairs_and_broken_scores() -> None:
    with pytest.raises(DataError, match="no held-out pairs"):
        calibrate(JudgedPairs.of([]))
    with pytest.raises(TrainingError, match="not finite"):
        calibrate(JudgedPairs.of([math.inf]))


def test_report_is_json_without_nan() -> None:
    report = calibrate(JudgedPairs.of([1.0, 0.2], probability=[0.5, 0.5])).to_json()
    assert report["accuracy"]["value"] is None
    json.dumps(report, allow_nan=False)


def test_a_model_that_counts_tokens_is_left_with_nothing_but_chance() -> None:
    # Right three times of four, always for the longer one.
    pairs = JudgedPairs.of([2.0, 4.0, 1.0, -3.0], lengths=[(4, 2), (6, 2), (3, 2), (2, 5)])
    found = calibrate(pairs)
    assert found.accuracy.value == pytest.approx(0.75)
    assert found.length_controlled.value == pytest.approx(0.5)


def test_what_length_explains_is_taken_out_of_the_gaps() -> None:
    pairs = JudgedPairs.of([1.0, 3.0, -1.0], lengths=[(3, 2), (4, 2), (2, 2)])
    # slope (1 x 1 + 3 x 2) / (1 + 4) = 1.4; left are -0.4, 0.2, -1
    assert without_length(pairs).tolist() == pytest.approx([-0.4, 0.2, -1.0])
    assert calibrate(pairs).length_controlled.value == pytest.approx(1 / 3)
