"""The one-coin model: by hand, its symmetries, and the simulation that it was chosen by."""

from itertools import combinations

import numpy as np
import pytest

from rlhf.labels.ranktable import RankTable, table_of
from rlhf.labels.reliability import fit_one_coin, votes_of, weighted_scores
from rlhf.records import Ranking

MIXED = np.repeat([0.2, 1.0, 3.0], [4, 8, 8])
EQUAL = np.full(20, 1.2)
ADVERSE = np.concatenate([np.full(3, -1.0), np.repeat([0.2, 1.0, 3.0], [3, 7, 7])])


def fit(*rankings: tuple[str, tuple[int, ...]], **options):
    table, _, _ = table_of(Ranking("p", who, ranks) for who, ranks in rankings)
    return fit_one_coin(votes_of(table), **options)


def test_one_step_by_hand():
    found = fit(("x", (1, 2)), ("y", (1, 2)), ("z", (2, 1)), max_steps=1)
    # Log odds: two for, one against, all logit 3/4, so p = 3/4. Right: 3/4, 3/4, 1/4 of one vote, beside 7.5 of 10.
    assert found.accuracy == pytest.approx([8.25 / 11, 8.25 / 11, 7.75 / 11])
    odds = 2 * np.log(8.25 / 2.75) - np.log(7.75 / 3.25)
    assert found.probability == pytest.approx([1 / (1 + np.exp(-odds))])


def test_a_tie_is_half_a_vote_each_way():
    found = fit(("x", (1, 1)), ("y", (1, 2)))
    assert found.accuracy[0] == pytest.approx(8.0 / 11, abs=1e-3), "half right, whatever the order is"
    assert found.probability == pytest.approx([found.accuracy[1]])


def test_a_vote_that_nobody_shares_says_nothing_about_its_author():
    found = fit(("x", (1, 2, 3)))
    assert found.accuracy == pytest.approx([0.75])
    assert found.probability == pytest.approx([0.75] * 3)
    assert np.isnan(found.right).all()


def test_reversing_the_candidates_turns_the_probabilities_over():
    rows = [("x", (1, 2, 3)), ("y", (2, 1, 2)), ("z", (1, 3, 2))]
    found, turned = fit(*rows), fit(*((who, ranks[::-1]) for who, ranks in rows))
    assert turned.accuracy == pytest.approx(found.accuracy)
    # Pairs ab, ac, bc of the reversed candidates are cb, ca, ba of the first.
    assert turned.probability == pytest.approx(1 - found.probability[[2, 1, 0]])


def simulate(prompts: int, raters: int, skills: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the share of true pair orders that the unweighted mean rank and the model recover.

    True scores are standard normal; an annotator of skill s orders s x score + Gumbel noise.
    """
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(prompts, 4))
    prompt = np.repeat(np.arange(prompts), raters)
    who = np.concatenate([rng.choice(len(skills), raters, replace=False) for _ in range(prompts)])
    noisy = scores[prompt] * skills[who][:, None] + rng.gumbel(size=(len(prompt), 4))
    ranks = np.zeros((len(prompt), 9), dtype=np.int8)
    ranks[:, :4] = np.argsort(np.argsort(-noisy, axis=1), axis=1) + 1
    table = RankTable(prompt, who, np.full(len(prompt), 4), ranks, prompts, len(skills))
    first, second = (list(part) for part in zip(*combinations(range(4), 2), strict=True))
    truth = scores[:, first] > scores[:, second]
    model = fit_one_coin(votes_of(table)).probability.reshape(prompts, -1) > 0.5
    mean = -np.add.reduceat(ranks[:, :4].astype(float), np.arange(0, len(prompt), raters), axis=0)
    lead = mean[:, first] - mean[:, second]
    unweighted = np.where(lead == 0, 0.5, (lead > 0) == truth)
    return float(unweighted.mean()), float((model == truth).mean())


@pytest.mark.parametrize(
    ("prompts", "raters", "skills", "least_gain"),
    [
        (1000, 3, MIXED, 0.02),
        (1000, 2, MIXED, 0.03),
        (1000, 5, MIXED, 0.02),
        (1000, 3, ADVERSE, 0.07),
        (200, 3, MIXED, 0.01),
        (1000, 3, EQUAL, -0.01),
    ],
    ids=["three", "two", "five", "adversaries", "few prompts", "equal skill"],
)
def test_weighting_recovers_what_bad_annotators_cost(prompts, raters, skills, least_gain):
    results = np.mean([simulate(prompts, raters, skills, seed) for seed in range(3)], axis=0)
    assert results[1] - results[0] > least_gain


def test_adversaries_are_found():
    rng = np.random.default_rng(5)
    rows = []
    for prompt in range(150):
        for person in range(4):
            right = rng.random() < (0.2 if person == 0 else 0.85)
            rows.append(Ranking(f"p-{prompt}", f"w-{person}", (1, 2) if right else (2, 1)))
    table, _, names = table_of(rows)
    accuracy = dict(zip(names, fit_one_coin(votes_of(table)).accuracy, strict=True))
    assert accuracy["w-0"] < 0.35
    assert min(accuracy[name] for name in ("w-1", "w-2", "w-3")) > 0.75


def test_the_same_votes_give_the_same_bytes():
    rows = [Ranking(f"p-{n}", f"w-{n % 3 + k}", (1, 2, 3) if n % 4 else (3, 1, 2)) for n in range(30) for k in range(2)]
    once, again = (fit_one_coin(votes_of(table_of(rows)[0])) for _ in range(2))
    assert once.probability.tobytes() == again.probability.tobytes()


def test_weighted_scores_follow_the_better_annotator():
    ranks = np.array([[1, 2, 3], [3, 2, 1]], dtype=np.int8)
    assert np.argmax(weighted_scores(ranks, np.array([0.9, 0.6]))) == 0
    assert np.argmax(weighted_scores(ranks, np.array([0.6, 0.9]))) == 2
    assert weighted_scores(ranks, np.array([0.8, 0.8])) == pytest.approx([0.5, 0.5, 0.5])
