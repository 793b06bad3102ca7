"""What the browser sends is anybody's guess: take the known fields, in the known types and sizes."""

from typing import Any

from rlhf.errors import RlhfError
from rlhf.labels.submissions import MAX_COMMENT, MAX_EDIT, Submission
from rlhf.records import MAX_SHOWN

MAX_SECONDS = 24 * 3600
LARGEST = 2**53
MAX_NAME = 80


class UnreadableError(RlhfError):
    """The payload has a field of the wrong type or size: not something our page sends."""

    def __str__(self) -> str:
        return "The page sent something unreadable; reload it."


def submission(payload: dict[str, Any]) -> Submission:
    """Read an answer; whether it fits the task is for the store to say."""
    return Submission(
        submission_id=text(payload, "submission_id"),
        verdict=text(payload, "verdict"),  # pyright: ignore[reportArgumentType]  (submit checks it)
        ranks=numbers(payload.get("ranks")),
        strengths=numbers(payload.get("strengths")),
        flags=flag_lists(payload.get("flags")),
        all_bad=payload.get("all_bad") is True,
        reason=text(payload, "reason"),
        comment=text(payload, "comment", MAX_COMMENT),
        active_seconds=seconds(payload),
        confidence=small(payload, "confidence"),
        edit_of=small(payload, "edit_of"),
        edit=text(payload, "edit", MAX_EDIT),
    )


def draft(value: Any) -> dict[str, Any]:
    """Read what a person has so far."""
    if not isinstance(value, dict):
        raise UnreadableError
    return {
        "levels": list(numbers(value.get("levels"))),
        "strengths": list(numbers(value.get("strengths"))),
        "flags": [list(entry) for entry in flag_lists(value.get("flags"))],
        "all_bad": value.get("all_bad") is True,
        "comment": text(value, "comment", MAX_COMMENT),
        "confidence": small(value, "confidence"),
        "edit_of": small(value, "edit_of"),
        "edit": text(value, "edit", MAX_EDIT),
    }


def text(payload: dict[str, Any], name: str, most: int = MAX_NAME) -> str:
    """Read a text, empty where there is none; NUL, which no database takes, is left out."""
    value = payload.get(name, "")
    # Half a surrogate pair is valid JSON and no text.
    if not isinstance(value, str) or len(value) > most or any("\ud800" <= char <= "\udfff" for char in value):
        raise UnreadableError
    return value.replace("\x00", "")


def whole(payload: dict[str, Any], name: str, most: int = LARGEST) -> int:
    """Read a whole number from 0 to `most`."""
    value = payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise UnreadableError
    return value


def small(payload: dict[str, Any], name: str) -> int | None:
    """Read a number from 0 to 9, or None."""
    return None if payload.get(name) is None else whole(payload, name, 9)


def seconds(payload: dict[str, Any]) -> float:
    """Read the seconds of work."""
    value = payload.get("active_seconds", 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_SECONDS:
        raise UnreadableError
    return float(value)


def numbers(value: Any) -> tuple[int, ...]:
    """Read a list of numbers from 0 to 9, one for each response at most."""
    if not isinstance(value, list) or len(value) > MAX_SHOWN:
        raise UnreadableError
    if not all(isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry <= 9 for entry in value):
        raise UnreadableError
    return tuple(value)


def flag_lists(value: Any) -> tuple[tuple[str, ...], ...]:
    """Read a list of flags for each response."""
    if not isinstance(value, list) or len(value) > MAX_SHOWN:
        raise UnreadableError
    if not all(isinstance(entry, list) and len(entry) <= 9 for entry in value):
        raise UnreadableError
    if not all(isinstance(flag, str) and len(flag) <= 40 for entry in value for flag in entry):
        raise UnreadableError
    return tuple(tuple(entry) for entry in value)
