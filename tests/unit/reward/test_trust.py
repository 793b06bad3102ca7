"""Whom a reward model agrees with, on votes that can be counted by hand."""

import math

import pytest

from rlhf.data.splits import FEWEST_ANNOTATORS, choose_annotators
from rlhf.records import CandidateSet, Ranking
from rlhf.reward.trust import UNKNOWN, find_disagreements, measure_trust

SETS = [
    CandidateSet("p1", "one", ("a", "b", "c"), ("old", "new", "new")),
    CandidateSet("p2", "two", ("d", "e"), ("old", "new")),
]
SCORES = {"p1": [2.0, 1.0, 0.0], "p2": [0.0, 0.0]}


def test_each_annotator_is_held_against_the_scores_vote_by_vote() -> None:
    rankings = [
        Ranking("p1", "ann", (1, 2, 3)),  # three votes, all right
        Ranking("p1", "bob", (2, 1, 1)),  # b and c over a: two votes, both wrong; the tie is no vote
        Ranking("p2", "bob", (1, 2)),  # level scores: half right
    ]
    found = measure_trust(SETS, rankings, SCORES, apart={"bob"})
    ann, bob = found.accuracy_by_annotator["ann"], found.accuracy_by_annotator["bob"]
    assert (ann.value, ann.pairs, ann.prompts) == (1.0, 3, 1)
    assert (bob.value, bob.pairs, bob.prompts) == (pytest.approx(0.5 / 3), 3, 2)
    assert found.known_annotators == ann
    assert found.new_annotators == bob


def test_a_source_is_judged_on_the_pairs_it_is_in() -> None:
    rankings = [Ranking("p1", "ann", (1, 3, 2))]  # a over b and a over c right, c over b wrong
    found = measure_trust(SETS, rankings, SCORES)
    assert found.accuracy_by_source["old"].value == 1.0
    assert found.accuracy_by_source["new"].value == pytest.approx(2 / 3)
    assert math.isnan(found.new_annotators.value)


def test_scores_are_spread_out_by_source() -> None:
    found = measure_trust(SETS, [], SCORES).scores_by_source
    assert (found["old"].candidates, found["old"].mean, found["old"].median) == (2, 1.0, 1.0)
    assert (found["new"].candidates, found["new"].mean) == (3, pytest.approx(1 / 3))
    assert found["new"].std == pytest.approx(math.sqrt(2) / 3)
    bare = measure_trust([CandidateSet("p2", "two", ("d", "e"))], [], SCORES)
    assert list(bare.scores_by_source) == [UNKNOWN]


def test_undefined_shares_become_null() -> None:
    assert measure_trust(SETS, [], SCORES).to_json()["known_annotators"]["value"] is None


def test_disagreement_is_the_mean_distance_of_two_chances() -> None:
    rankings = [Ranking("p1", "ann", (3, 2, 1)), Ranking("p2", "ann", (1, 1))]
    first, second = find_disagreements(SETS, rankings, SCORES, sharpness=2.0)
    # people say 0 to each pair; the model sigma(2 x 1), sigma(2 x 2), sigma(2 x 1)
    expected = (2 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-4))) / 3
    assert (first.prompt_id, first.disagreement) == ("p1", pytest.approx(expected))
    assert first.shares == (0.0, 0.5, 1.0)
    assert (second.prompt_id, second.disagreement) == ("p2", 0.0)
    assert find_disagreements(SETS, rankings, SCORES, sharpness=-2.0)[0].prompt_id == "p1"
    assert len(find_disagreements(SETS, rankings, SCORES, 2.0, limit=1)) == 1


def test_prompts_that_nobody_ranked_are_no_disagreements() -> None:
    assert find_disagreements(SETS, [Ranking("p2", "ann", (1, 2))], SCORES, 1.0)[0].prompt_id == "p2"
    assert len(find_disagreements(SETS, [Ranking("p2", "ann", (1, 2))], SCORES, 1.0)) == 1


def test_annotators_are_kept_apart_only_where_there_are_enough() -> None:
    names = [f"ann-{number}" for number in range(10)]
    assert choose_annotators(names, 0.0, 1) == []
    assert choose_annotators(names[: FEWEST_ANNOTATORS - 1], 0.5, 1) == []
    found = choose_annotators(names, 0.3, 1)
    assert len(found) == 3
    assert found == choose_annotators(list(reversed(names)), 0.3, 1)
    assert len(choose_annotators(names, 0.01, 1)) == 1
    assert any(choose_annotators(names, 0.3, seed) != found for seed in range(2, 6))
