"""Agreement among people on three published sets, beside figures that other libraries give for the same files.

The figures come from the sets' SOURCE.md: scikit-learn, statsmodels, scipy and krippendorff computed them.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf.labels.agreement import kendalls_tau, kendalls_w, krippendorff_alpha, pairwise_agreement, tau_by_prompt
from rlhf.labels.ranktable import RankTable


def read(shared: Path, name: str) -> RankTable:
    """Return the rankings of a set, of however many candidates; ranks that skip after ties are closed up."""
    items = [json.loads(line) for line in (shared / "data" / name).read_text(encoding="utf-8").splitlines()]
    people = sorted({row["annotator"] for item in items for row in item["annotations"]})
    rows = [
        (number, people.index(row["annotator"]), np.unique(row["ranks"], return_inverse=True)[1] + 1)
        for number, item in enumerate(items)
        for row in item["annotations"]
    ]
    width = max(len(ranks) for _, _, ranks in rows)
    table = np.zeros((len(rows), width), dtype=np.int8)
    for place, (_, _, ranks) in enumerate(rows):
        table[place, : len(ranks)] = ranks
    prompt, annotator, size = (np.array(column) for column in zip(*((p, a, len(r)) for p, a, r in rows), strict=True))
    return RankTable(prompt, annotator, size, table, len(items), len(people))


def test_pandalm(shared: Path) -> None:
    table = read(shared, "pandalm_3annotators/annotations.jsonl")
    assert table.prompts == 717
    # Fleiss' kappa of the same three labels is .8626 too: with 717 x 3 labels the two differ in the fourth decimal.
    assert krippendorff_alpha(table).value == pytest.approx(0.8626, abs=5e-4)
    # Cohen's observed agreements of the three pairs of annotators are .9107, .9233 and .9233.
    same = pairwise_agreement(table, strict=False).value
    assert same is not None
    assert same >= (0.9107 + 0.9233 + 0.9233) / 3


def test_squality(shared: Path) -> None:
    table = read(shared, "squality_human_eval/rankings.jsonl")
    assert kendalls_w(table).value == pytest.approx(0.8984, abs=5e-4)
    assert kendalls_tau(table).value == pytest.approx(0.7968, abs=5e-4)


def test_wmt_with_ten_candidates_and_many_ties(shared: Path) -> None:
    table = read(shared, "wmt23_mqm_zhen_3raters/rankings.jsonl")
    assert table.ranks.shape == (249 * 3, 10)
    assert kendalls_w(table).value == pytest.approx(0.5435, abs=5e-4)
    # That tau is the mean over the 666 pairs of raters who both told some candidates apart; ours is by prompt.
    useful = np.bincount(table.prompt, table.ranks.max(axis=1) > 1, table.prompts)
    pairs = useful * (useful - 1) / 2
    assert pairs.sum() == 666
    tau = tau_by_prompt(table)
    assert np.isnan(tau).tolist() == (pairs == 0).tolist()
    assert float(np.nansum(tau * pairs) / 666) == pytest.approx(0.2998, abs=5e-4)
