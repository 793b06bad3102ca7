"""Several rounds, and several sources of the score: in the summary, in the terminal, on the page."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rlhf.evaluation.rounds import compare_rounds
from rlhf.report.page import build_report
from rlhf.report.summary import build_summary, summary_table
from tests.unit.report.synthetic import full_inputs


def rows(golds: dict[str, float | None]) -> list[dict[str, object]]:
    return [{"prompt_id": name, "golds": {"sft": 0.25, "ppo": gold}} for name, gold in golds.items()]


FIRST = rows({"a": 0.1, "b": 0.5, "c": 0.3})
SECOND = rows({"c": 0.5, "b": 0.5, "a": 0.2, "new": 9.0})


def test_rounds_are_compared_prompt_by_prompt() -> None:
    first, second = compare_rounds({2: SECOND, 1: FIRST})
    assert (first.round, second.round) == (1, 2)
    assert first.gain is None
    assert (first.start.value, first.start.count) == (0.25, 3)
    assert first.gold.value == pytest.approx(0.3)
    assert second.gold.value == pytest.approx(0.4)
    assert second.gain is not None
    # Gains of .1, 0 and .2: a deviation of .1 over three prompts.
    assert second.gain.value == pytest.approx(0.1)
    assert second.gain.error == pytest.approx(0.1 / 3**0.5)
    assert second.gain.count == 3


@pytest.mark.parametrize(
    "samples",
    [{1: FIRST}, {1: FIRST, 2: rows({"a": None, "b": None})}, {1: FIRST, 2: rows({"a": 0.1})}, {}],
    ids=["one round", "no gold", "one shared prompt", "none"],
)
def test_what_cannot_be_compared_is_left_out(samples: dict[int, list[dict[str, object]]]) -> None:
    assert compare_rounds(samples) == []


def test_page_summary_and_terminal_show_the_gain_of_a_round(tmp_path: Path) -> None:
    inputs = full_inputs(tmp_path)
    rounds = compare_rounds({1: FIRST, 2: SECOND})
    page = build_report(replace(inputs, round=2, rounds=rounds), tmp_path / "report.html").read_text("utf-8")
    assert "Round by round" in page
    assert "round 2 +0.100 ± 0.058" in page
    assert inputs.evaluation is not None
    summary = build_summary(
        inputs.evaluation,
        step0_kl=None,
        base_hash_unchanged=True,
        export_verified=None,
        annotators="human",
        seconds=1.0,
        peak_memory_mb=1.0,
        rounds=rounds,
    )
    assert summary["rounds"][1]["gain"] == pytest.approx(0.1)
    assert summary["rounds"][0]["gain"] is None
    out = io.StringIO()
    Console(width=120, file=out).print(summary_table(summary))
    assert "round 2 over round 1 +0.100 ± 0.058 gold" in out.getvalue()


def test_a_round_without_gold_says_why_there_is_no_picture(tmp_path: Path) -> None:
    page = build_report(replace(full_inputs(tmp_path, gold=False), round=2), tmp_path / "report.html").read_text(
        "utf-8"
    )
    assert "Not shown" in page
    assert "no two rounds with a gold scorer" in page
    first = build_report(full_inputs(tmp_path), tmp_path / "first.html").read_text("utf-8")
    assert "Round by round" not in first


def test_several_sources_have_a_picture_and_one_has_none(tmp_path: Path) -> None:
    names = ["score_reward", *(f"score_extra_{number}" for number in range(6))]
    page = build_report(full_inputs(tmp_path, sources=names), tmp_path / "report.html").read_text("utf-8")
    assert "What the score is made of" in page
    for label in ("extra_0", "extra_5"):
        assert f">{label}<" in page, label
    alone = build_report(full_inputs(tmp_path), tmp_path / "report.html").read_text("utf-8")
    assert "What the score is made of" not in alone
