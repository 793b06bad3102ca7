"""Errors that a user can cause: each says what is wrong, the value, where it came from, and the remedy.

The command line prints these without a traceback and exits with `exit_code`.
"""

from collections.abc import Iterable

SHOWN_AT_ONCE = 20
SHOWN_CHARACTERS = 60


class RlhfError(Exception):
    """Base of every error that is the user's to mend."""

    exit_code = 1


class ConfigError(RlhfError, ValueError):
    """A configuration file or an override is wrong."""

    exit_code = 2


class DataError(RlhfError, ValueError):
    """An input file or record is wrong."""


class ArtifactError(RlhfError):
    """An artifact is missing, unfinished, damaged, or does not fit its parents."""


class LabelError(RlhfError):
    """A request to the ranking store was refused."""


class LabelsAtRiskError(LabelError):
    """A change would orphan answers that people gave."""

    exit_code = 3


class StoreUnavailableError(LabelError):
    """The ranking store's disk or server refuses work just now."""


class RunLockedError(RlhfError):
    """Another process works in the same run folder."""


class ResourceError(RlhfError, OSError):
    """The disk is full, a folder cannot be written, or the device lacks something."""


class TrainingError(RlhfError):
    """Training cannot go on: a loss or gradient is not finite, or a guard tripped."""


class WaitingForPeople(RlhfError):
    """The run has published its labeling tasks and waits for answers (EX_TEMPFAIL)."""

    exit_code = 75


def shown(value: object) -> str:
    """Return a value as a message quotes it: its representation, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply to show"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def printable(text: str) -> str:
    """Return the text without control characters (line breaks and tabs stay): data must not steer the terminal."""
    return "".join(character for character in text if character in "\n\t" or character.isprintable())


def report_all(error: type[RlhfError], problems: Iterable[str], heading: str) -> None:
    """Raise one `error` that lists up to 20 problems under a heading; do nothing where there are none.

    Raises:
        RlhfError: of the given type, when `problems` is not empty.
    """
    found = list(problems)
    if not found:
        return
    shown = [f"  {problem}" for problem in found[:SHOWN_AT_ONCE]]
    if len(found) > SHOWN_AT_ONCE:
        shown.append(f"  ... and {len(found) - SHOWN_AT_ONCE} more")
    raise error("\n".join([heading, *shown]))
