"""The picture of the reward model beside single annotators and sources."""

from dataclasses import replace
from typing import Any

from rlhf.report.inputs import ReportInputs
from rlhf.report.judges import LONGEST_NAME, SHOWN, draw_reward_by_judge
from rlhf.report.picture import Missing, Picture


def share(value: float | None) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.05, value + 0.05)
    return {"value": value, "low": low, "high": high, "pairs": 10, "prompts": 5}


def drawn(people: dict[str, float], sources: dict[str, float], new: float | None) -> Picture | Missing:
    trust = {
        "accuracy_by_annotator": {name: share(value) for name, value in people.items()},
        "accuracy_by_source": {name: share(value) for name, value in sources.items()},
        "new_annotators": share(new),
    }
    return draw_reward_by_judge(replace(ReportInputs("run"), trust=trust))


def test_annotators_and_sources_are_named_with_their_shares() -> None:
    found = drawn({"ann": 0.8, "ben": 0.7}, {"old": 0.65, "new": 0.75}, 0.6)
    assert isinstance(found, Picture)
    for text in ("ann", "ben", "old", "new", "annotators kept apart", "80.0", "60.0"):
        assert text in found.svg, text
    assert "n = 20 votes" in found.caption


def test_one_source_alone_says_what_the_whole_says() -> None:
    found = drawn({"ann": 0.8, "ben": 0.7}, {"policy": 0.75}, None)
    assert isinstance(found, Picture)
    assert "policy" not in found.svg
    assert "kept apart" not in found.svg
    assert isinstance(drawn({"ann": 0.8}, {"policy": 0.75}, None), Missing)


def test_of_many_the_highest_and_the_lowest_are_shown() -> None:
    people = {f"person-{number:02d}-{'x' * 40}": 0.5 + number / 100 for number in range(2 * SHOWN + 3)}
    found = drawn(people, {}, None)
    assert isinstance(found, Picture)
    shown = [number for number in range(len(people)) if f"person-{number:02d}" in found.svg]
    assert shown == [*range(SHOWN), *range(SHOWN + 3, 2 * SHOWN + 3)]
    assert "x" * LONGEST_NAME not in found.svg
