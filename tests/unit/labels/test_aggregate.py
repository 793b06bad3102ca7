"""Rankings to pairs: worked examples, and the symmetries that must hold."""

import math
import random

import pytest

from rlhf.errors import DataError
from rlhf.labels.aggregate import BELIEFS, ENOUGH_VOTES, POLICIES, aggregate, borda, consensus
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


FOUR = [CandidateSet(f"p-{number}", "prompt", ("a", "b", "c", "d")) for number in range(60)]


def panel(seed: int = 3) -> list[Ranking]:
    """Return rankings of four people, of whom one is right, two mostly, and the last always the wrong way round."""
    rng = random.Random(seed)
    rows = []
    for item in FOUR:
        for who, ranks in (
            ("right", (1, 2, 3, 4)),
            ("mostly", (1, 2, 3, 4) if rng.random() < 0.8 else (2, 1, 4, 3)),
            ("often", (1, 2, 3, 4) if rng.random() < 0.7 else (1, 3, 2, 4)),
            ("turned", (4, 3, 2, 1)),
        ):
            rows.append(Ranking(item.prompt_id, who, ranks))
    return rows


@pytest.mark.parametrize("belief", ["agreement", "one_coin"])
def test_a_liar_speaks_for_the_opposite(belief):
    equal = aggregate(FOUR, panel(), "hard")
    found = aggregate(FOUR, panel(), "hard", belief=belief)
    assert all(pair.chosen < pair.rejected for pair in found), "the true order everywhere"
    assert len(found) == 6 * len(FOUR)
    assert len(equal) < len(found), "two against two is a tie where all count alike"
    assert all(pair.votes == 4 for pair in found)


def test_one_coin_gives_chances():
    """Three who agree are surer than one; a share of votes is 1 for both."""
    sets = [CandidateSet(name, "prompt", ("a", "b")) for name in ("alone", "three")]
    rows = [Ranking("alone", "x", (1, 2)), *(Ranking("three", who, (1, 2)) for who in "xyz")]
    alone, three = aggregate(sets, rows, "soft", belief="one_coin")
    assert 0.7 < alone.probability < 0.85 < three.probability < 1.0
    assert [pair.probability for pair in aggregate(sets, rows, "soft")] == [1.0, 1.0]


def test_agreement_by_hand():
    """Two agree on ab and z does not: the prior for x and y, 7.5 of 11 for z."""
    votes = [rank(1, 2, who="x"), rank(1, 2, who="y"), rank(2, 1, who="z")]
    (pair,) = aggregate([CandidateSet("p", "prompt", ("a", "b"))], votes, "weighted", belief="agreement")
    # The others of x are y and z, who are divided: that pair says nothing about x, nor about y.
    weights = [math.log(3), math.log(3), math.log((7.5 / 11) / (3.5 / 11))]
    assert pair.probability == pytest.approx(0.5 + 0.5 * (weights[0] + weights[1] - weights[2]) / sum(weights))


def test_auto_takes_what_the_answers_can_bear():
    few = [*(rank(1, 2, 3, who=who) for who in "vxyz"), rank(3, 2, 1, who="w")]
    assert aggregate([ABC], few, "soft", belief="agreement") != aggregate([ABC], few, "soft", belief="equal")
    assert aggregate([ABC], few, "soft", belief="auto") == aggregate([ABC], few, "soft", belief="agreement")
    alone = [rank(1, 2, 3)]
    assert aggregate([ABC], alone, "soft", belief="auto") == aggregate([ABC], alone, "soft", belief="equal")
    many = panel()
    assert 6 * len(FOUR) >= ENOUGH_VOTES
    assert aggregate(FOUR, many, "soft", belief="auto") == aggregate(FOUR, many, "soft", belief="one_coin")


@pytest.mark.parametrize("belief", BELIEFS)
def test_a_decision_is_certain_and_the_same_input_gives_the_same_pairs(belief):
    rows = [*panel(), Ranking("p-0", "manager", (2, 1, 3, 3), adjudicated=True)]
    found = aggregate(FOUR, rows, "weighted", belief=belief)
    decided = {pair.chosen + pair.rejected: pair.probability for pair in found if pair.prompt_id == "p-0"}
    assert decided == {"ba": 1.0, "ac": 1.0, "ad": 1.0, "bc": 1.0, "bd": 1.0}, "c and d are tied"
    assert aggregate(FOUR, rows, "weighted", belief=belief) == found
    assert aggregate(FOUR[::-1], rows, "weighted", belief=belief) != found
    assert sorted(map(repr, aggregate(FOUR[::-1], rows, "weighted", belief=belief))) == sorted(map(repr, found))


def test_flags_of_half_the_annotators_stand():
    votes = [
        rank(1, 2, 3, who="x", flags=((), ("false", "harmful"), ("off_task",))),
        rank(1, 2, 3, who="y", flags=((), ("false",), ())),
        rank(1, 2, 3, who="z"),
    ]
    pairs = table(aggregate([ABC], votes, "hard"))
    assert (pairs["ab"].chosen_flags, pairs["ab"].rejected_flags) == ("", "false")
    assert (pairs["bc"].chosen_flags, pairs["bc"].rejected_flags) == ("false", "")
    assert (pairs["bc"].swap().chosen_flags, pairs["bc"].swap().rejected_flags) == ("", "false")
