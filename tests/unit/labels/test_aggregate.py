"""Rankings to pairs: worked examples, and the symmetries that must hold."""

import random

import pytest

from rlhf.errors import DataError
from rlhf.labels.aggregate import POLICIES, aggregate, borda, consensus
from rlhf.records import CandidateSet, Ranking

ABC = CandidateSet("p", "prompt", ("a", "b", "c"))


def rank(*ranks: int, who: str = "x", **fields) -> Ranking:
    return Ranking("p", who, ranks, **fields)


def table(pairs):
    return {(pair.chosen + pair.rejected): pair for pair in pairs}


def test_votes_become_probabilities_weights_and_margins():
    votes = [rank(1, 2, 3, who="x", strengths=(1, 3)), rank(1, 1, 2, who="y"), rank(2, 1, 3, who="z", strengths=(3, 3))]
    pairs = table(aggregate([ABC], votes, "weighted"))
    # a over b: one win, one tie, one loss: (1 + 1/2) / 3 = 1/2, an exact tie, dropped.
    assert set(pairs) == {"ac", "bc"}
    # a over c: three wins. Strengths 1 + 3, an ungraded step (2), and z's step from rank 2 to 3 (3): 9 / 3.
    assert (pairs["ac"].probability, pairs["ac"].weight, pairs["ac"].margin, pairs["ac"].votes) == (1.0, 1.0, 3.0, 3)
    # b over c: three wins. Strengths 3, 2 and 3 + 3: 11 / 3.
    assert pairs["bc"].margin == pytest.approx(11 / 3)


def test_a_step_that_nobody_graded_counts_as_the_middle_grade():
    graded, ungraded = rank(1, 2, 3, strengths=(3, 2)), rank(1, 2, 3, strengths=(3, 0))
    assert aggregate([ABC], [graded], "weighted") == aggregate([ABC], [ungraded], "weighted")


def test_a_majority_of_two_to_one():
    votes = [rank(1, 2, 3, who="x"), rank(1, 2, 3, who="y"), rank(2, 1, 3, who="z")]
    pair = table(aggregate([ABC], votes, "weighted"))["ab"]
    assert pair.probability == pytest.approx(2 / 3)
    assert pair.weight == pytest.approx(1 / 3), "|2p - 1|"
    assert pair.margin == pytest.approx((2 + 2 - 2) / 3), "the dissenter's step counts against"
    assert (pair.chosen_index, pair.rejected_index, pair.split) == (0, 1, "label")


def test_policies_differ_in_ties_and_weights_only():
    votes = [rank(1, 2, 2, who="x"), rank(2, 1, 3, who="y")]
    hard, soft, weighted = (table(aggregate([ABC], votes, policy)) for policy in POLICIES)
    assert set(hard) == set(weighted) == {"ac", "bc"}
    assert set(soft) == {"ab", "ac", "bc"}
    assert (soft["ab"].probability, soft["ab"].weight) == (0.5, 1.0)
    assert (hard["bc"].probability, hard["bc"].weight, weighted["bc"].weight) == (0.75, 1.0, 0.5)


def test_the_threshold_drops_doubtful_pairs():
    votes = [rank(1, 2, 3, who="x"), rank(1, 3, 2, who="y"), rank(1, 2, 3, who="z")]
    assert set(table(aggregate([ABC], votes, "hard", min_probability=0.7))) == {"ab", "ac"}


def test_all_bad_counts_like_any_other():
    plain = aggregate([ABC], [rank(1, 2, 3)], "hard")
    assert aggregate([ABC], [rank(1, 2, 3, all_bad=True)], "hard") == plain


def test_renaming_candidates_renames_pairs_and_nothing_else():
    rng = random.Random(0)
    votes = [
        rank(*ranks, who=str(n)) for n, ranks in enumerate([(1, 2, 3), (2, 1, 1), (1, 1, 2), (3, 1, 2), (1, 2, 2)])
    ]
    plain = {(p.chosen, p.rejected): (p.probability, p.weight, p.margin) for p in aggregate([ABC], votes, "weighted")}
    for _ in range(5):
        order = rng.sample(range(3), 3)
        moved = CandidateSet("p", "prompt", tuple(ABC.responses[i] for i in order))
        moved_votes = [rank(*(vote.ranks[i] for i in order), who=vote.annotator) for vote in votes]
        found = aggregate([moved], moved_votes, "weighted")
        assert {(p.chosen, p.rejected): (p.probability, p.weight, p.margin) for p in found} == plain


def test_reversing_every_vote_reverses_every_pair():
    votes = [rank(1, 2, 3, strengths=(1, 2)), rank(2, 1, 3, who="y", strengths=(3, 1))]
    turned = [rank(*(4 - r for r in vote.ranks), who=vote.annotator, strengths=vote.strengths[::-1]) for vote in votes]
    plain, back = (table(aggregate([ABC], rows, "hard")) for rows in (votes, turned))
    assert {key[::-1] for key in plain} == set(back)
    for key, pair in plain.items():
        assert (back[key[::-1]].probability, back[key[::-1]].margin) == (pair.probability, pair.margin)


def test_unranked_sets_give_nothing_and_strangers_are_refused():
    assert aggregate([ABC], [], "hard") == []
    with pytest.raises(DataError, match="prompt q has no candidates"):
        aggregate([ABC], [Ranking("q", "x", (1, 2, 3))], "hard")
    with pytest.raises(DataError, match=r"2 ranks, prompt p has candidates 0-2"):
        aggregate([ABC], [rank(1, 2)], "hard")


@pytest.mark.parametrize(("policy", "threshold"), [("best", 0.5), ("hard", 0.3), ("hard", 1.2)])
def test_unknown_policies_and_thresholds(policy, threshold):
    with pytest.raises(DataError):
        aggregate([ABC], [], policy, min_probability=threshold)


def test_borda_and_consensus():
    votes = [rank(1, 2, 3), rank(1, 3, 2), rank(2, 1, 3)]
    # a beats b twice of three and c always: (2 + 3) / (3 * 2); b beats a once and c twice; c beats b once.
    assert borda(votes) == pytest.approx([5 / 6, 3 / 6, 1 / 6])
    assert consensus(votes) == (1, 2, 3)
    assert consensus([rank(1, 2, 3), rank(3, 2, 1)]) == (1, 1, 1)
