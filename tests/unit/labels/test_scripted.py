"""Scripted annotators: calibrated, marked, through a person's calls."""

import hashlib

import numpy as np
import pytest

from rlhf.errors import LabelError
from rlhf.labels.agreement import pairwise_agreement
from rlhf.labels.exports import export_bytes, read_export
from rlhf.labels.publishing import publish, round_status
from rlhf.labels.scripted import assign_manners, calibrate, draw_answer, run_scripted
from rlhf.labels.store import open_store


def score(prompt, response: str) -> float:
    """Return a made-up true score: standard normal, fixed by the text."""
    digest = int.from_bytes(hashlib.sha256(response.encode()).digest()[:8], "big")
    return float(np.random.default_rng(digest).normal())


@pytest.fixture
def work(store, make_sets):
    publish(store, make_sets(70, candidates=4), overlap=3, seed=4)
    return store


def test_the_target_agreement_is_reached(work):
    report = run_scripted(work, score, annotators=4, agreement=0.73, seed=2)
    rankings, manifest = read_export(work)
    assert (report.answers, manifest.kinds, round_status(work, 0).complete) == (210, {"scripted": 210}, True)
    assert abs(report.noise.agreement - 0.73) < 0.002
    # About 1,200 pairs of annotators' strict orders; the standard error over 70 prompts is near 0.02.
    assert abs(pairwise_agreement(rankings, strict=True).value - 0.73) < 0.06


def test_equal_seeds_give_equal_bytes(tmp_path, make_sets):
    exports = []
    for run, seed in enumerate((2, 2, 3)):
        with open_store(tmp_path / f"{run}.db", create=True) as store:
            publish(store, make_sets(12, candidates=3), overlap=2, seed=4)
            run_scripted(store, score, annotators=3, seed=seed)
            exports.append(export_bytes(read_export(store)[0]))
    assert exports[0] == exports[1] != exports[2]


@pytest.mark.parametrize("target", [0.6, 0.73, 0.9])
def test_calibration_meets_its_target_on_fresh_draws(target):
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=size) for size in (3, 4, 5) * 40]
    noise = calibrate(scores, target, tie_rate=0.1)
    alike = both = 0
    for row in scores * 20:
        one, two = (np.array(draw_answer(row, noise, "careful", 0.0, rng)[0]) for _ in range(2))
        left, right = np.triu_indices(len(row), 1)
        signs = np.sign(one[left] - one[right]), np.sign(two[left] - two[right])
        strict = (signs[0] != 0) & (signs[1] != 0)
        alike, both = alike + (signs[0] == signs[1])[strict].sum(), both + strict.sum()
    assert abs(alike / both - target) < 0.015


def test_full_agreement_means_no_noise():
    rows = [np.array([3.0, 1.0, 2.0])] * 50
    noise = calibrate(rows, 1.0)
    assert draw_answer(rows[0], noise, "careful", 0.0, np.random.default_rng(0))[0] == (1, 3, 2)
    assert draw_answer(rows[0], noise, "adversarial", 0.0, np.random.default_rng(0))[0] == (3, 1, 2)
    assert draw_answer(rows[0], noise, "careful", 1.0, np.random.default_rng(0))[0] == (3, 1, 2), "always flipped"


def test_ties_come_as_often_as_asked(store, make_sets):
    publish(store, make_sets(120, candidates=3), overlap=1)
    run_scripted(store, score, annotators=1, tie_rate=0.2)
    rankings, _ = read_export(store)
    steps = [2 - (max(ranking.ranks) - 1) for ranking in rankings]
    # 240 neighbours, standard error 0.026.
    assert abs(sum(steps) / 240 - 0.2) < 0.08


def test_strengths_grade_the_gaps(work):
    run_scripted(work, score, annotators=3)
    grades = [grade for ranking in read_export(work)[0] for grade in ranking.strengths]
    shares = [grades.count(grade) / len(grades) for grade in (1, 2, 3)]
    assert all(abs(share - 1 / 3) < 0.08 for share in shares), shares


def test_manners():
    assert assign_manners(5, random=0.2, adversarial=0.4) == [
        "adversarial",
        "adversarial",
        "random",
        "careful",
        "careful",
    ]


def test_adversaries_lower_the_agreement(work):
    run_scripted(work, score, annotators=3, agreement=0.9, adversarial=0.34)
    assert pairwise_agreement(read_export(work)[0], strict=True).value < 0.6


def test_fewer_annotators_than_slots_leave_slots_open(work):
    assert run_scripted(work, score, annotators=2).answers == 140
    assert not round_status(work, 0).complete


@pytest.mark.parametrize(
    "fields", [{"annotators": 0}, {"annotators": 2, "agreement": 0.5}, {"annotators": 2, "flip_rate": 1.5}]
)
def test_nonsense_is_refused(work, fields):
    with pytest.raises(LabelError):
        run_scripted(work, score, **fields)
