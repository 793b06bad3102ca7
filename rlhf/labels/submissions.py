"""Submissions: what a person's click sends, checked before it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from rlhf.errors import LabelError
from rlhf.labels.accounts import Annotator
from rlhf.labels.schema import canonical_json
from rlhf.records import Ranking

Verdict = Literal["ranked", "cannot_judge", "skipped"]
FLAGS = ("harmful", "false", "off_task", "refusal", "personal_data")
SKIP_REASONS = ("upsetting", "unfamiliar", "language", "broken", "other")
MAX_COMMENT = 4000
MAX_EDIT = 20_000
CONFIDENCE = {1: "unsure", 2: "fairly sure", 3: "sure"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Submission:
    """What a person's click sends. `ranks`, `flags` and `edit_of` go by the order in which the responses were shown.

    `confidence` is 1 to 3 (`CONFIDENCE`) where given. `edit` is a better answer in the person's words, which began as
    the response at place `edit_of`.
    """

    submission_id: str
    verdict: Verdict = "ranked"
    ranks: tuple[int, ...] = ()
    strengths: tuple[int, ...] = ()
    flags: tuple[tuple[str, ...], ...] = ()
    all_bad: bool = False
    reason: str = ""
    comment: str = ""
    active_seconds: float | None = None
    confidence: int | None = None
    edit_of: int | None = None
    edit: str = ""


def submission_columns(submission: Submission, order: list[int], annotator: Annotator) -> dict[str, Any]:
    """Check a submission; return its columns, in candidate order."""
    if submission.verdict not in get_args(Verdict):
        raise LabelError(f"verdict is {submission.verdict!r}; use one of {', '.join(get_args(Verdict))}")
    if submission.verdict == "skipped" and submission.reason not in SKIP_REASONS:
        raise LabelError(f"reason is {submission.reason!r}; a skip needs one of {', '.join(SKIP_REASONS)}")
    if submission.verdict != "skipped" and submission.reason:
        raise LabelError(f"reason is {submission.reason!r}; only a skip has a reason")
    if len(submission.comment) > MAX_COMMENT:
        raise LabelError(f"the comment has {len(submission.comment)} characters; use at most {MAX_COMMENT}")
    _require_extras(submission, order)
    ranks, flags, strengths = [], [], []
    if submission.verdict == "ranked":
        ranks, flags, strengths = _ranking_content(submission, order, annotator)
    return {
        "submission_id": submission.submission_id,
        "verdict": submission.verdict,
        "ranks": canonical_json(ranks),
        "strengths": canonical_json(strengths),
        "flags": canonical_json(flags),
        "all_bad": submission.all_bad and submission.verdict == "ranked",
        "reason": submission.reason,
        "confidence": submission.confidence,
        "edit_of": order[submission.edit_of] if submission.edit_of is not None and submission.edit.strip() else None,
    }


def _require_extras(submission: Submission, order: list[int]) -> None:
    if submission.confidence is not None and submission.confidence not in CONFIDENCE:
        raise LabelError(f"confidence is {submission.confidence}; use one of {', '.join(map(str, CONFIDENCE))}")
    if len(submission.edit) > MAX_EDIT:
        raise LabelError(f"the better answer has {len(submission.edit)} characters; use at most {MAX_EDIT}")
    if submission.edit.strip() and submission.edit_of is None:
        raise LabelError("the better answer does not say which response it began from")
    if submission.edit_of is not None and not 0 <= submission.edit_of < len(order):
        raise LabelError(f"edit_of is {submission.edit_of}; there are {len(order)} responses")


def _ranking_content(submission: Submission, order: list[int], annotator: Annotator) -> tuple[list[int], Any, Any]:
    if len(submission.ranks) != len(order):
        raise LabelError(f"{len(submission.ranks)} ranks for {len(order)} responses; rank every response")
    if submission.flags and len(submission.flags) != len(order):
        raise LabelError(f"{len(submission.flags)} flag lists for {len(order)} responses")
    unknown = sorted({flag for entry in submission.flags for flag in entry} - set(FLAGS))
    if unknown:
        raise LabelError(f"flag is {unknown[0]!r}; use some of {', '.join(FLAGS)}")
    ranks = to_candidates(order, submission.ranks)
    # Flags are stored once each, in one order; [] for everything says that nothing was flagged.
    shown_flags = submission.flags or [()] * len(order)
    flags = [[flag for flag in FLAGS if flag in entry] for entry in to_candidates(order, shown_flags)]
    # The record's own checks hold for the store as well: ranks 1..m without gaps, one strength per step.
    Ranking("task", annotator.pseudonym, tuple(ranks), tuple(submission.strengths))
    return ranks, flags if any(flags) else [], list(submission.strengths)


def to_candidates(order: Sequence[int], shown: Sequence[T]) -> list[T]:
    """Bring values from the order in which responses were shown into candidate order."""
    values = dict(zip(order, shown, strict=True))
    return [values[candidate] for candidate in range(len(order))]
