"""Word differences: what they say, and that no pair of texts makes them slow."""

import contextlib
import time

import pytest

from labeling_ui.diff import MAX_CHARACTERS, TooDifferentError, compare


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a b c", "a x c", [("same", "a "), ("first", "b "), ("second", "x "), ("same", "c")]),
        ("a b", "a b c", [("same", "a b "), ("second", "c")]),
        ("same text", "same text", [("same", "same text")]),
        ("one  two", "one two", [("same", "one two")]),
        ("空気が少ない", "空気が多い", [("same", "空気が"), ("first", "少な"), ("second", "多"), ("same", "い")]),
        ("", "x", [("second", "x")]),
        ("", "", []),
    ],
)
def test_what_differs(first, second, expected):
    assert compare(first, second) == expected


def test_the_parts_make_up_both_texts():
    first = "Less air presses on it, so it boils\nat a lower temperature.\n\n1. Less air\n2. Less heat"
    second = "It boils sooner: less air presses on it.\n\n1. Less air\n2. Lower pressure"
    parts = compare(first, second)
    assert "".join(text for kind, text in parts if kind != "second").split() == first.split()
    assert "".join(text for kind, text in parts if kind != "first") == second


def test_markup_stays_text():
    assert compare("<b>x</b>", "<b>y</b>") == [("first", "<b>x</b>"), ("second", "<b>y</b>")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a " * 40_000, "b a " * 20_000),
        ("a b " * 20_000, "b a " * 20_000),
        ("a\n" * 40_000, "b\na\n" * 20_000),
        (" " * 99_000, " " * 98_000 + "x"),
        ("字" * 50_000, "字" * 49_000 + "学"),
        ("".join(f"{number} " for number in range(15_000)), "".join(f"{number} " for number in range(15_000, 0, -1))),
    ],
)
def test_no_pair_takes_long(first, second):
    started = time.process_time()
    with contextlib.suppress(TooDifferentError):
        compare(first, second)
    assert time.process_time() - started < 4


def test_giants_are_not_compared():
    with pytest.raises(TooDifferentError):
        compare("a" * (MAX_CHARACTERS + 1), "b")
