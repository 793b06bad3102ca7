"""Import of what others have judged: what all such files have in common, and preference pairs.

A malformed row refuses the file, with all malformed rows named; a row that is of no use (an empty side, say) is left out
and counted under its reason. Candidate sets and rankings are read in `rlhf.data.rankings`.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlhf.data.formats import CONVERSATION_FIELDS, PROMPT_FIELDS, UnusableRow, read_pair, require_object
from rlhf.data.importers import TextCheck, accept_all, read_rows_once
from rlhf.data.sources import Row, read_source
from rlhf.data.splits import prompt_id_of
from rlhf.errors import SHOWN_AT_ONCE, DataError, shown
from rlhf.jsonl import parse_json
from rlhf.records import LARGEST_NUMBER, SPLITS, PreferencePair, PromptText, is_number, prompt_to_text

Columns = Mapping[str, str | None]
"""What a file calls a column, by what we call it: `{"chosen": "better"}`; None or nothing where it has a usual name."""
SCORE_FIELDS = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
_PAIR_NUMBERS = ("weight", "margin", "probability", "votes", "ties", *(name for pair in SCORE_FIELDS for name in pair))
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class JudgementImport(Generic[R]):
    """What the import of a file gave.

    Attributes:
        records: What was read.
        dropped: What was left out, or merged, counted by reason.
        problems: Up to 20 of them, with their places.
    """

    records: list[R] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def drop(self, place: str, reason: str, count: int = 1) -> None:
        """Count something that is left out."""
        self.dropped[reason] += count
        if len(self.problems) < SHOWN_AT_ONCE:
            self.problems.append(f"{place}: {reason}")

    def close(self, path: Path, what: str) -> "JudgementImport[R]":
        """Log what was left out; refuse a file of which nothing is left.

        Raises:
            DataError: There is no record.
        """
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        if not self.records:
            raise DataError(f"{path}: no {what} is left: {reasons}\n  first: {self.problems[0]}")
        if self.dropped:
            log.warning("%s: %d %ss; left out or merged: %s", path, len(self.records), what, reasons)
            for problem in self.problems:
                log.info("%s", problem)
        return self


def import_pairs(
    path: Path, check: TextCheck = accept_all, columns: Columns | None = None
) -> JudgementImport[PreferencePair]:
    """Read preference pairs in any of TRL's forms, with `margin`, `weight`, `probability`, `votes` where given.

    Without a margin, the difference of the two sides' scores (`chosen_score`, `rejected_score`) is the margin. Pairs with
    an empty side or two equal ones are left out. `chosen_index` and `rejected_index` number the different responses to a
    prompt in the order of the file.

    Args:
        path: The file.
        check: Refuses texts that the base cannot take.
        columns: Names of the file for `prompt`, `chosen`, `rejected`, `margin`.

    Raises:
        DataError: The file is missing or empty, rows are malformed or fail the check, or no pair is left.
        ResourceError: A library that reads this kind of file is not installed.
    """
    found: JudgementImport[PreferencePair] = JudgementImport()
    index_of: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def read(row: Row) -> None:
        given = with_usual_names(require_object(row.value), columns)
        try:
            prompt, chosen, rejected = read_pair(given)
        except UnusableRow as unusable:
            found.drop(row.place, str(unusable))
            return
        check_texts(check, prompt, {"chosen": chosen, "rejected": rejected})
        name = stated_id(given, "prompt_id") or prompt_id_of(prompt)
        known = index_of[name]
        indices = [known.setdefault(response, len(known)) for response in (chosen, rejected)]
        found.records.append(
            PreferencePair(
                prompt_id=name,
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                chosen_index=indices[0],
                rejected_index=indices[1],
                split=stated_split(given),
                **_pair_facts(given),
            )
        )

    read_rows_once(read_source(str(path)), read, str(path))
    return found.close(path, "pair")


def with_usual_names(row: Mapping[str, Any], columns: Columns | None) -> dict[str, Any]:
    """Return a row under our names; a named column stands in place of whatever usually means the same.

    Raises:
        DataError: The row lacks a named column.
    """
    renamed = dict(row)
    for name, column in (columns or {}).items():
        if column is None:
            continue
        if column not in row:
            raise DataError(f"no field {column!r} ({name}_field); the row has {', '.join(row)}")
        for usual in (*CONVERSATION_FIELDS, *PROMPT_FIELDS) if name == "prompt" else (name,):
            renamed.pop(usual, None)
        renamed[name] = row[column]
    return renamed


def with_values(row: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a row whose fields of these names, where they are text (cells of a table), hold what the text spells.

    Empty cells are left out. A text that is not JSON stays, for the check of the field to refuse.
    """
    typed: dict[str, Any] = {}
    for name, value in row.items():
        if name in names and isinstance(value, str):
            if not value.strip():
                continue
            with suppress(DataError):
                typed[name] = parse_json(value)
                continue
        typed[name] = value
    return typed


def check_texts(check: TextCheck, prompt: PromptText, responses: Mapping[str, str]) -> None:
    """Apply a check to a prompt and its responses.

    Raises:
        DataError: The check refuses one.
    """
    check("prompt", prompt_to_text(prompt))
    for name, response in responses.items():
        check(name, response)


def stated_id(row: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of these fields that a row has, as text.

    Raises:
        DataError: It is neither text nor a whole number, or empty.
    """
    for name in names:
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            raise DataError(f"{name} is {shown(value)}; give text")
        return str(value)
    return None


def stated_split(row: Mapping[str, Any]) -> Any:
    """Return the split that a row names in our words; other people's files say `train` here."""
    split = row.get("split")
    return split if split in SPLITS else "label"


def _pair_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    given = with_values(row, _PAIR_NUMBERS)
    facts = {name: given.get(name) for name in ("weight", "margin", "probability", "votes", "ties")}
    if facts["margin"] is None:
        facts["margin"] = _score_difference(given)
    for name in ("chosen_flags", "rejected_flags"):
        if isinstance(given.get(name), str):
            facts[name] = given[name]
    return {name: value for name, value in facts.items() if value is not None}


def _score_difference(row: Mapping[str, Any]) -> float | None:
    """Return how much better the chosen response was scored; negative where the scores say the opposite."""
    for chosen, rejected in SCORE_FIELDS:
        if row.get(chosen) is not None or row.get(rejected) is not None:
            return _score(row, chosen) - _score(row, rejected)
    return None


def _score(row: Mapping[str, Any], name: str) -> float:
    score: Any = row.get(name)
    if not is_number(score) or not abs(score) <= LARGEST_NUMBER:
        limits = f"{-LARGEST_NUMBER:,} to {LARGEST_NUMBER:,}"
        raise DataError(f"{name} is {shown(score)}; give both scores, numbers from {limits}, or neither")
    return score
