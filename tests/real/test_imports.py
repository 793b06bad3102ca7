"""Published preference sets are imported whole: every row is a record, or is counted under the reason why not.

What is expected is counted here with json alone, and the figures stand beside it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.judgements import import_pairs
from rlhf.data.rankings import import_candidates, import_rankings
from rlhf.labels.aggregate import aggregate

EMPTY_SIDES = {"empty rejected response": 32, "empty chosen response": 1}
MERGED = "repeated candidate, merged"


@dataclass(frozen=True)
class PairSet:
    """A file of preference pairs: its rows, the different prompts among the pairs, and what is left out."""

    file: str
    rows: int
    prompts: int
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RankedSet:
    """A file of ranked candidate sets.

    `pairs` counts what aggregation with policy `weighted` makes of them: all couples of candidates but those whose votes
    are exactly even.
    """

    file: str
    rows: int
    prompts: int
    sets: int
    candidates: int
    largest: int
    rankings: int
    pairs: int
    dropped_sets: dict[str, int] = field(default_factory=dict)
    dropped_rankings: dict[str, int] = field(default_factory=dict)
    ranks: str = "ranks"


PAIR_SETS = [
    PairSet("hh_rlhf_harmless", 1585, 1584),
    PairSet("llamafactory_dpo_demo", 203, 199),
    PairSet("llmbar", 310, 309),
    PairSet("mtbench_human_majority", 141, 52),
    PairSet("pandalm_3annotators", 643, 112, EMPTY_SIDES),
]
RANKED_SETS = [
    RankedSet("oasst_en_rankings/rankings", 123, 123, 123, 385, 9, 123, 477),
    RankedSet(
        "pandalm_3annotators/annotations", 717, 122, 684, 1368, 2, 2052, 623,
        {"set of fewer than two different candidates": 33},
        {"ranking of a set of fewer than two different candidates": 99},
    ),
    RankedSet("squality_human_eval/rankings", 70, 70, 70, 210, 3, 210, 210),
    RankedSet("squality_human_eval/rankings", 70, 70, 70, 210, 3, 210, 210, ranks="correctness_ranks"),
    RankedSet("squality_human_eval/rankings", 70, 70, 70, 210, 3, 210, 210, ranks="selection_ranks"),
    RankedSet("wmt23_mqm_zhen_3raters/rankings", 249, 249, 249, 2256, 10, 747, 7544, {MERGED: 234}),
    RankedSet("topical_chat_human_scores/rankings", 46, 46, 46, 275, 6, 46, 635, {MERGED: 1}),
]  # fmt: skip


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("known", PAIR_SETS, ids=lambda known: known.file)
def test_every_pair_is_read_or_counted(shared: Path, known: PairSet) -> None:
    path = shared / "data" / known.file / "preferences.jsonl"
    rows = rows_of(path)
    usable = [row for row in rows if row["chosen"].strip() and row["rejected"].strip()]
    found = import_pairs(path)
    assert len(rows) == known.rows
    assert len(usable) == known.rows - sum(known.dropped.values())
    assert [(pair.chosen, pair.rejected) for pair in found.records] == [
        (row["chosen"], row["rejected"]) for row in usable
    ]
    assert found.dropped == known.dropped
    assert len({pair.prompt_id for pair in found.records}) == known.prompts
    assert len({row["prompt"] for row in usable}) == known.prompts


@pytest.mark.parametrize("known", RANKED_SETS, ids=lambda known: f"{known.file.split('/')[0]}-{known.ranks}")
def test_every_ranking_is_read_or_counted(shared: Path, known: RankedSet) -> None:
    path = shared / "data" / f"{known.file}.jsonl"
    rows = rows_of(path)
    usable = {row["id"]: row for row in rows if len(different(row)) > 1}
    sets = import_candidates(path)
    columns = {"ranks": None if known.ranks == "ranks" else known.ranks}
    rankings = import_rankings(path, sets.records, columns)

    assert (len(rows), len({row["prompt"] for row in rows})) == (known.rows, known.prompts)
    assert [item.prompt_id for item in sets.records] == list(usable)
    assert [list(item.responses) for item in sets.records] == [different(row) for row in usable.values()]
    sizes = [len(item.responses) for item in sets.records]
    assert (len(sizes), sum(sizes), max(sizes)) == (known.sets, known.candidates, known.largest)
    assert (sets.dropped, rankings.dropped) == (known.dropped_sets, known.dropped_rankings)

    said = {(one.prompt_id, one.annotator): one.ranks for one in rankings.records}
    judged = {name: judgements_of(row, known.ranks) for name, row in usable.items()}
    assert len(said) == len(rankings.records) == sum(map(len, judged.values())) == known.rankings
    for name, judgements in judged.items():
        for annotator, mean in judgements.items():
            assert orders(said[name, annotator].__getitem__, len(mean)) == orders(mean.__getitem__, len(mean))

    even = sum(
        sum(orders(mean.__getitem__, len(mean))[couple] for mean in judgements.values()) == 0
        for judgements in judged.values()
        for couple in combinations(range(len(next(iter(judgements.values())))), 2)
    )
    couples = sum(size * (size - 1) // 2 for size in sizes)
    pairs = aggregate(sets.records, rankings.records, "weighted")
    assert len(pairs) == couples - even == known.pairs


def different(row: dict[str, Any]) -> list[str]:
    return [
        text for place, text in enumerate(row["completions"]) if text.strip() and text not in row["completions"][:place]
    ]


def judgements_of(row: dict[str, Any], name: str) -> dict[str, list[float]]:
    """Return each annotator's mean place of every different candidate, ties in the middle of their places."""
    judgements = row.get("annotations", [{"annotator": "imported", **row}])
    return {
        judgement["annotator"]: [mean_place(row["completions"], judgement[name], text) for text in different(row)]
        for judgement in judgements
    }


def mean_place(texts: list[str], ranks: list[int], wanted: str) -> float:
    order = sorted(ranks)
    places = {rank: order.index(rank) + (order.count(rank) + 1) / 2 for rank in ranks}
    own = [places[rank] for text, rank in zip(texts, ranks, strict=True) if text == wanted]
    return sum(own) / len(own)


def orders(rank_of: Callable[[int], float], size: int) -> dict[tuple[int, int], int]:
    """Return for each couple of candidates: 1 where the first is better, 0 in a tie, -1 where the second is."""
    return {(i, j): (rank_of(i) < rank_of(j)) - (rank_of(i) > rank_of(j)) for i, j in combinations(range(size), 2)}
