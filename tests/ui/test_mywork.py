"""What annotators read about themselves: every figure with its meaning, or with the reason why there is none."""

from dataclasses import replace

from labeling_ui.mywork import explain
from rlhf.labels.figures import Figure
from rlhf.labels.personal import no_figures


def by_name(**values):
    return {row.name: row for row in explain(replace(no_figures("a"), **values))}


def test_without_answers_each_figure_says_why():
    for row in by_name().values():
        assert (row.value, row.range, row.scale) == ("", "", None)
        assert row.basis.startswith("undefined, because ")
        assert row.meaning


def test_a_share_is_told_with_its_range_and_basis():
    row = by_name(agreement=Figure(0.715, 0.64, 0.79, 42, "tasks"))["agreement"]
    assert (row.value, row.range, row.basis) == ("72 %", "64 % to 79 %", "from 42 tasks")
    assert row.scale == (0.715, 0.64, 0.79)


def test_one_task_is_singular_and_has_no_range():
    row = by_name(gold=Figure(1.0, n=1, unit="gold items"))["gold"]
    assert (row.value, row.range, row.basis) == ("100 %", "", "from 1 gold item")
    assert row.scale == (1.0, 1.0, 1.0)


def test_effects_are_named_only_beyond_chance():
    meaning = {
        name: by_name(first_wins=figure)["first_wins"].meaning
        for name, figure in {
            "first": Figure(0.64, 0.58, 0.70, 90),
            "last": Figure(0.36, 0.30, 0.42, 90),
            "none": Figure(0.52, 0.46, 0.58, 90),
        }.items()
    }
    assert "what stands first seems to gain" in meaning["first"]
    assert "what stands last seems to gain" in meaning["last"]
    assert "does not differ from that by more than chance" in meaning["none"]


def test_too_fast_is_counted_among_what_was_timed():
    row = by_name(too_fast=2, timed=30)["too_fast"]
    assert (row.value, row.basis) == ("2", "of 30 answers with a known time")


def test_time_and_chance_are_told_with_units():
    rows = by_name(seconds_per_1000=Figure(41.26, 38.0, 45.0, 30, "answers"), unchanged_by_chance=1 / 24)
    assert rows["seconds_per_1000"].value == "41.3 s per 1000 characters"
    assert "By chance alone it would be 4 %." in rows["unchanged"].meaning
