"""From answers to the figures of an evaluation, without a model."""

import json

import pytest

from rlhf.errors import DataError
from rlhf.evaluation.answers import Answer, PromptAnswers
from rlhf.evaluation.compare import show_estimate, summarise, table_rows, write_evaluation


def answer(
    score: float, gold: float | None = None, *, text: str = "a b", tokens: int = 3, ended: bool = True
) -> Answer:
    parts = {} if gold is None else {"truth": gold}
    return Answer(text, score, tokens, ended, gold, parts)


def row(index: int, sft: list[Answer], ppo: Answer, kl: float = 1.0) -> PromptAnswers:
    return PromptAnswers(index, f"p-{index}", f"prompt {index}", tuple(sft), ppo, kl, kl)


def two_rows() -> list[PromptAnswers]:
    return [
        row(
            0,
            [answer(0.0, 0.2), answer(2.0, 0.1, text="best"), answer(1.0, 0.3), answer(-1.0, 0.0)],
            answer(3.0, 0.6),
            2.0,
        ),
        row(
            1, [answer(1.0, 0.5), answer(0.0, 0.9), answer(0.5, 0.4), answer(0.2, 0.2)], answer(0.5, 0.5, tokens=5), 4.0
        ),
    ]


def test_best_of_n_follows_the_score_and_never_gold():
    found = summarise(two_rows(), best_of=2)
    # Prompt 0 picks score 2 (gold .1 though .3 was there); prompt 1 keeps its first, score 1, gold .5.
    assert found.policies["best_of_n"].score.value == 1.5
    assert found.policies["best_of_n"].gold is not None
    assert found.policies["best_of_n"].gold.value == pytest.approx(0.3)


def test_gains_are_paired_and_ties_are_half():
    found = summarise(two_rows(), best_of=2)
    assert found.gold_gain is not None
    assert found.gold_gain.value == pytest.approx((0.4 + 0.0) / 2)
    assert found.win_rate.value == 0.75
    assert found.judge == "gold"
    assert found.policies["ppo"].kl_nats.value == 3.0
    assert found.policies["sft"].kl_nats.value == 0.0
    assert found.gold_parts["truth"].gain.value == pytest.approx(0.2)


def test_without_gold_the_score_judges_and_says_so():
    rows = [row(index, [answer(0.0)] * 4, answer(1.0)) for index in range(3)]
    found = summarise(rows, best_of=4)
    assert (found.judge, found.gold_gain, found.policies["sft"].gold) == ("score", None, None)
    assert found.win_rate.value == 1.0
    assert found.gold_parts == {}
    assert found.candidates.gold_std is None


def test_the_best_of_n_curve_starts_at_the_mean_and_ends_at_the_best():
    curve = summarise(two_rows(), best_of=2).best_of_n_curve
    assert [point.n for point in curve] == [1, 2, 4]
    assert curve[0].score == pytest.approx(((0 + 2 + 1 - 1) / 4 + (1 + 0 + 0.5 + 0.2) / 4) / 2)
    assert curve[-1].score == pytest.approx((2 + 1) / 2)
    assert curve[-1].gold == pytest.approx((0.1 + 0.5) / 2)


def test_candidate_facts_count_different_texts():
    facts = summarise(two_rows(), best_of=2).candidates
    # Prompt 0 has texts "a b" and "best", prompt 1 only "a b".
    assert facts.distinct_texts == 1.5
    assert facts.three_distinct == 0.0


def test_one_prompt_is_too_few():
    with pytest.raises(DataError, match="1 test prompts"):
        summarise(two_rows()[:1], best_of=2)


def test_files_hold_the_figures_and_every_text(tmp_path):
    found = summarise(two_rows(), best_of=2)
    write_evaluation(found, tmp_path)
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert figures["prompts"] == 2
    assert "answers" not in figures
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert lines[0]["best_of_n"] == "best"
    assert lines[1]["golds"] == {"sft": 0.5, "best_of_n": 0.5, "ppo": 0.5}
    titles = [cells["policy"] for cells in table_rows(figures)]
    assert titles == ["SFT", "best of 2", "PPO"]


def test_estimates_are_written_with_their_error_and_bounds_as_bounds():
    assert show_estimate({"value": 1.234, "error": 0.056, "count": 9}) == "1.23 ± 0.06"
    assert show_estimate({"value": 0.636, "error": None, "count": 9}, bound=True) == "≤ 0.64"
    assert show_estimate(None) == "–"
