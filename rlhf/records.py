"""The records that travel between stages: frozen, validated, one JSON object per line.

A prompt is either a plain string or a conversation (a tuple of messages whose last one is not the
assistant's). A response is always plain text: what the assistant writes next.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, cast, get_args

from rlhf.errors import DataError, report_all, shown
from rlhf.jsonl import read_rows

Split = Literal["sft", "label", "ppo", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
ROLES = ("system", "user", "assistant")
RankingKind = Literal["human", "scripted", "imported"]
MIN_CANDIDATES, MAX_CANDIDATES = 2, 16
MAX_SHOWN = 9
"""Most candidates that people are asked to rank: each has a digit key. Larger sets come ranked, from files."""
LARGEST_NUMBER = 1_000_000
"""Largest weight, margin and number of seconds: what is beyond is a slip, and would drown all other records."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"message role is {self.role!r}; use one of {', '.join(ROLES)}")
        if not self.content.strip():
            raise DataError(f"message of role {self.role!r} is empty")


PromptText = str | tuple[Message, ...]


def parse_prompt(value: Any) -> PromptText:
    """Turn the JSON form of a prompt (a string, or a list of role/content objects) into its typed form.

    Raises:
        DataError: The value is empty, of another type, or ends with the assistant's turn.
    """
    if isinstance(value, str):
        if not value.strip():
            raise DataError("prompt is empty")
        return value
    found = type(value).__name__
    turns: list[Any] = list(cast(list[Any], value)) if isinstance(value, (list, tuple)) else []
    if not turns:
        raise DataError(f"prompt is {found}; give a string or a list of messages")
    messages = tuple(turn if isinstance(turn, Message) else _parse_message(turn) for turn in turns)
    if messages[-1].role == "assistant":
        raise DataError("prompt ends with the assistant's turn; drop it or use it as the response")
    return messages


def prompt_to_json(prompt: PromptText) -> str | list[dict[str, str]]:
    """Return the JSON form of a prompt."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def prompt_to_text(prompt: PromptText) -> str:
    """Return a prompt as plain text, for people and for hashing (not for models: see `rlhf.text`)."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def _parse_message(value: Any) -> Message:
    turn = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(f"message is {value!r}; give an object with text fields role and content")
    return Message(role, content)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to the policy, assigned to exactly one split."""

    id: str
    prompt: PromptText
    split: Split
    source: str = ""

    def __post_init__(self) -> None:
        _require_text(self, "id")
        object.__setattr__(self, "prompt", parse_prompt(self.prompt))
        if self.split not in SPLITS:
            raise DataError(f"split is {self.split!r}; use one of {', '.join(SPLITS)}")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with the response that supervised fine-tuning imitates."""

    prompt_id: str
    prompt: PromptText
    response: str
    split: Split = "sft"

    def __post_init__(self) -> None:
        _require_text(self, "prompt_id", "response")
        object.__setattr__(self, "prompt", parse_prompt(self.prompt))


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """K distinct responses to one prompt; candidate i is `responses[i]`, and `sources[i]` made it."""

    prompt_id: str
    prompt: PromptText
    responses: tuple[str, ...]
    sources: tuple[str, ...] = ()
    split: Split = "label"

    def __post_init__(self) -> None:
        _require_text(self, "prompt_id")
        object.__setattr__(self, "prompt", parse_prompt(self.prompt))
        object.__setattr__(self, "responses", _text_tuple(self.responses, "responses"))
        object.__setattr__(self, "sources", tuple(self.sources))
        count = len(self.responses)
        if not MIN_CANDIDATES <= count <= MAX_CANDIDATES:
            raise DataError(f"{count} candidates; a set holds {MIN_CANDIDATES} to {MAX_CANDIDATES}")
        if len(set(self.responses)) != count:
            raise DataError("two candidates are the same text; merge them")
        if self.sources and len(self.sources) != count:
            raise DataError(f"{len(self.sources)} sources for {count} candidates")


@dataclass(frozen=True, slots=True)
class Ranking:
    """One annotator's judgement of one candidate set.

    `ranks[i]` is the rank of candidate i: 1 is best, equal numbers are ties, and the ranks used are
    1..m without gaps. `strengths[j]` grades the step from rank j+1 to rank j+2 (1 slightly, 2 better,
    3 much better, 0 not graded). `flags[i]` lists what is wrong with candidate i. `all_bad` says that no candidate is
    acceptable; the order still counts. `confidence` is 1 (unsure) to 3 (sure) where the annotator said so. A ranking that
    `adjudicated` says is a manager's decision on a dispute stands in place of all others of its prompt. Skips and
    "cannot judge" are not rankings and do not leave the store.
    """

    prompt_id: str
    annotator: str
    ranks: tuple[int, ...]
    strengths: tuple[int, ...] = ()
    flags: tuple[tuple[str, ...], ...] = ()
    all_bad: bool = False
    kind: RankingKind = "human"
    display_order: tuple[int, ...] = ()
    seconds: float | None = None
    answer_id: str = ""
    confidence: int | None = None
    adjudicated: bool = False

    def __post_init__(self) -> None:
        _require_text(self, "prompt_id", "annotator")
        for name in ("ranks", "strengths", "display_order"):
            object.__setattr__(self, name, _whole_numbers(getattr(self, name), name))
        object.__setattr__(self, "flags", _flag_lists(self.flags))
        _require_circumstances(self)
        if not MIN_CANDIDATES <= len(self.ranks) <= MAX_CANDIDATES:
            raise DataError(
                f"{len(self.ranks)} ranks; a ranking orders {MIN_CANDIDATES} to {MAX_CANDIDATES} candidates"
            )
        levels = sorted(set(self.ranks))
        if levels != list(range(1, len(levels) + 1)):
            raise DataError(f"ranks are {list(self.ranks)}; use 1..m without gaps (ties share a rank)")
        if self.strengths and len(self.strengths) != len(levels) - 1:
            raise DataError(f"{len(self.strengths)} strengths for {len(levels) - 1} steps between ranks")
        if any(strength not in (0, 1, 2, 3) for strength in self.strengths):
            raise DataError(f"strengths are {list(self.strengths)}; use 0 (not graded), 1, 2 or 3")
        if self.flags and len(self.flags) != len(self.ranks):
            raise DataError(f"{len(self.flags)} flag lists for {len(self.ranks)} candidates")
        if self.display_order and sorted(self.display_order) != list(range(len(self.ranks))):
            raise DataError(f"display order {list(self.display_order)} is no permutation of the candidates")


def _require_circumstances(ranking: Any) -> None:
    """Check the types of what JSON may hold beside the ranks."""
    if ranking.kind not in get_args(RankingKind):
        raise DataError(f"kind is {shown(ranking.kind)}; use one of {', '.join(get_args(RankingKind))}")
    for name in ("all_bad", "adjudicated"):
        if not isinstance(getattr(ranking, name), bool):
            raise DataError(f"{name} is {shown(getattr(ranking, name))}; give true or false")
    if ranking.confidence is not None and (isinstance(ranking.confidence, bool) or ranking.confidence not in (1, 2, 3)):
        raise DataError(f"confidence is {shown(ranking.confidence)}; give 1, 2 or 3, or leave it out")
    if ranking.seconds is not None and not (is_number(ranking.seconds) and 0 <= ranking.seconds <= LARGEST_NUMBER):
        raise DataError(f"seconds is {shown(ranking.seconds)}; give a number from 0 to {LARGEST_NUMBER:,}")
    if not isinstance(ranking.answer_id, str):
        raise DataError(f"answer_id is {shown(ranking.answer_id)}; give text")


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """TRL's preference format, with what the rankings knew: probability, votes, share of ties, weight, margin.

    `probability` is the estimated chance that a careful annotator prefers `chosen`; `chosen_index` and
    `rejected_index` name the candidates, so that a trainer can forward each candidate once. `chosen_flags` and
    `rejected_flags` say what annotators found wrong with a response, joined by commas. Candidates of different rounds were
    never compared, whatever their prompt.
    """

    prompt_id: str
    prompt: PromptText
    chosen: str
    rejected: str
    weight: float = 1.0
    margin: float = 0.0
    probability: float = 1.0
    votes: int = 1
    ties: float = 0.0
    chosen_index: int = 0
    rejected_index: int = 1
    chosen_flags: str = ""
    rejected_flags: str = ""
    round: int = 1
    split: Split = "label"

    def __post_init__(self) -> None:
        _require_text(self, "prompt_id", "chosen", "rejected")
        object.__setattr__(self, "prompt", parse_prompt(self.prompt))
        if self.chosen == self.rejected:
            raise DataError("chosen and rejected are the same text")
        if not (is_number(self.weight) and 0.0 < self.weight <= LARGEST_NUMBER):
            raise DataError(f"weight is {shown(self.weight)}; give a positive number, at most {LARGEST_NUMBER:,}")
        if not (is_number(self.margin) and -LARGEST_NUMBER <= self.margin <= LARGEST_NUMBER):
            raise DataError(
                f"margin is {shown(self.margin)}; give a number from {-LARGEST_NUMBER:,} to {LARGEST_NUMBER:,}"
            )
        if not (is_number(self.probability) and 0.0 <= self.probability <= 1.0):
            raise DataError(f"probability is {shown(self.probability)}; give a number from 0 to 1")
        if not (is_number(self.ties) and 0.0 <= self.ties <= 1.0):
            raise DataError(f"ties is {shown(self.ties)}; give the share of votes that are ties, from 0 to 1")
        if not (is_number(self.votes) and 1 <= self.votes <= LARGEST_NUMBER and self.votes == int(self.votes)):
            raise DataError(f"votes is {shown(self.votes)}; give a whole number from 1 to {LARGEST_NUMBER:,}")
        object.__setattr__(self, "votes", int(self.votes))
        if not (is_number(self.round) and 1 <= self.round <= LARGEST_NUMBER and self.round == int(self.round)):
            raise DataError(f"round is {shown(self.round)}; give a whole number from 1")

    def swap(self) -> Self:
        """Return the same judgement with the two sides exchanged."""
        return type(self)(
            prompt_id=self.prompt_id,
            prompt=self.prompt,
            chosen=self.rejected,
            rejected=self.chosen,
            weight=self.weight,
            margin=-self.margin,
            probability=1.0 - self.probability,
            votes=self.votes,
            ties=self.ties,
            chosen_index=self.rejected_index,
            rejected_index=self.chosen_index,
            chosen_flags=self.rejected_flags,
            rejected_flags=self.chosen_flags,
            split=self.split,
        )


class _Record(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=_Record)


def to_json(record: _Record) -> dict[str, Any]:
    """Return a record as a JSON object, prompts in the ecosystem's form."""
    row: dict[str, Any] = {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        row[entry.name] = prompt_to_json(value) if entry.name == "prompt" else value
    return row


def from_json(kind: type[R], row: Any) -> R:
    """Build a record from a JSON object.

    Raises:
        DataError: A field is missing, unknown, of the wrong type, or fails the record's own checks.
    """
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, found {type(row).__name__}")
    known = {entry.name for entry in fields(kind)}
    values = cast(dict[str, Any], row)
    unknown = sorted(set(values) - known)
    if unknown:
        raise DataError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
    missing = [entry.name for entry in fields(kind) if entry.default is MISSING and entry.name not in values]
    missing = [name for name in missing if kind.__dataclass_fields__[name].default_factory is MISSING]
    if missing:
        raise DataError(f"field {missing[0]!r} is missing")
    try:
        return kind(**values)
    except TypeError as error:
        raise DataError(str(error).replace(f"{kind.__name__}.__init__() ", "")) from error


def write_jsonl(path: Path, records: Iterable[_Record]) -> int:
    """Write records, one per line; return how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(to_json(record), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path, kind: type[R], *, key: Callable[[R], str] | None = None) -> list[R]:
    """Read all records of a JSONL file; every bad line is reported, up to 20, in one error.

    Args:
        path: The file.
        kind: The record class of its lines.
        key: Where given, its value must be unique in the file.

    Raises:
        DataError: Lists each bad line with its number.
    """
    records: list[R] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, row in read_rows(path):
        try:
            record = from_json(kind, row)
        except DataError as error:
            problems.append(f"{path.name} line {number}: {error}")
            continue
        name = key(record) if key else None
        if name is not None and name in seen:
            problems.append(f"{path.name} line {number}: id {name!r} was already used in line {seen[name]}")
            continue
        if name is not None:
            seen[name] = number
        records.append(record)
    report_all(DataError, problems, f"{path}: {len(problems)} bad records")
    return records


def _require_text(record: Any, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if not isinstance(value, str):
            raise DataError(f"{name} is {type(value).__name__}; give text")
        if not value.strip():
            raise DataError(f"{name} is empty")


def is_number(value: Any) -> bool:
    """Tell a number from what else JSON may hold in its place; true and false are none. It may be infinite or NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _items(values: Any) -> list[Any] | None:
    return list(cast(list[Any], values)) if isinstance(values, (list, tuple)) else None


def _whole_numbers(values: Any, name: str) -> tuple[int, ...]:
    items = _items(values)
    if items is None or not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        best = ", 1 is best" if name == "ranks" else ""
        raise DataError(f"{name} are {shown(values)}; give a list of whole numbers{best}")
    return tuple(items)


def _flag_lists(values: Any) -> tuple[tuple[str, ...], ...]:
    entries = _items(values)
    lists = [_items(entry) for entry in entries or ()]
    if entries is None or not all(
        flags is not None and all(isinstance(flag, str) for flag in flags) for flags in lists
    ):
        raise DataError(f"flags are {shown(values)}; give a list of texts for each candidate")
    return tuple(tuple(flags or ()) for flags in lists)


def _text_tuple(values: Any, name: str) -> tuple[str, ...]:
    items = _items(values)
    if items is None or not all(isinstance(value, str) for value in items):
        raise DataError(f"{name} must be a list of texts")
    for index, value in enumerate(items):
        if not value.strip():
            raise DataError(f"{name}[{index}] is empty")
    return tuple(items)
