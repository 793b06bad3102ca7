"""Import of prompts and demonstrations: read, drop what cannot serve, de-duplicate, split.

A malformed row refuses the import, with all malformed rows named; a row that is of no use (too long, a duplicate,
an empty response) is dropped and counted under its reason.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rlhf.config.data import PromptsConfig
from rlhf.data.formats import UnusableRow, read_example
from rlhf.data.sources import Row, read_source
from rlhf.data.splits import assign_splits, prompt_id_of, prompt_key, require_filled
from rlhf.errors import SHOWN_AT_ONCE, DataError, report_all
from rlhf.records import Demonstration, Prompt, PromptText, Split, prompt_to_text

EMBEDDED = "embedded"
DEFAULT_EMBEDDED_PROMPTS = 4000
TextCheck = Callable[[str, str], None]
"""(what it is, a text): raises a DataError where the base cannot take the text as text."""
# What a demonstration of these splits would teach or measure; other splits keep prompts only.
DEMONSTRATED_SPLITS: tuple[Split, ...] = ("sft", "validation")


@dataclass(frozen=True, slots=True)
class PromptImport:
    """What an import gave.

    Attributes:
        prompts: All prompts of the run, each in one split.
        demonstrations: Responses to prompts of the splits sft and validation, unless the split sft has no share; and
            the rows of the sources that only demonstrate (their prompts are in no other split, nor among `prompts`).
        dropped: Rows that were left out, counted by reason.
        problems: Up to 20 of them, with their places.
    """

    prompts: list[Prompt]
    demonstrations: list[Demonstration]
    dropped: dict[str, int]
    problems: list[str]


@dataclass(frozen=True, slots=True)
class _Example:
    prompt: PromptText
    response: str | None
    key: str
    source: str
    place: str
    pinned: bool


@dataclass(slots=True)
class _Drops:
    """Rows left out, counted by reason, the first of them with their places."""

    counts: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str, detail: str = "") -> None:
        self.counts[reason] += 1
        if len(self.places) < SHOWN_AT_ONCE:
            self.places.append(f"{place}: {reason}{detail and f' ({detail})'}")


def accept_all(name: str, text: str) -> None:
    """Take every text, where no base is at hand to ask."""


def import_prompts(
    config: PromptsConfig,
    seed: int,
    token_count: Callable[[PromptText], int],
    context: int,
    check: TextCheck = accept_all,
) -> PromptImport:
    """Read all sources and give every prompt its split.

    The same files give the same prompts, ids and splits in every run. The seed decides what the embedded world asks,
    and which prompts stay where `count` is smaller than what was found.

    Args:
        config: The section `prompts`.
        seed: The run's seed.
        token_count: Tokens of a formatted prompt.
        context: The longest sequence of the base, in tokens; a prompt must leave room for a response.
        check: Refuses texts that the base cannot take; their rows are dropped and counted.

    Raises:
        DataError: A source is missing, empty or malformed; nothing is left; or a split got no prompt.
        ResourceError: A library that a source needs is not installed.
    """
    drops = _Drops()
    examples = _read_all(config, config.sources, seed, drops, pinned=False)
    examples += _read_all(config, config.demonstrations, seed, drops, pinned=True)
    examples = _drop_refused(examples, check, drops)
    examples = _drop_repeated(examples, drops)
    examples = _drop_by_length(examples, config, token_count, context, drops)
    examples = _keep_count(examples, config.count, seed, drops)
    if not any(not example.pinned for example in examples):
        reasons = ", ".join(f"{count} {reason}" for reason, count in drops.counts.most_common()) or "no rows"
        first = f"\n  first: {drops.places[0]}" if drops.places else ""
        raise DataError(
            f"no prompt is left of {', '.join(config.sources)}: {reasons}; change the file, or the limits in prompts{first}"
        )
    splits = assign_splits(
        [example.key for example in examples],
        [example.pinned for example in examples],
        config.shares,
        config.near_duplicate,
    )
    imported = _to_records(examples, splits, drops, sources_demonstrate=config.shares.sft > 0)
    require_filled(Counter(prompt.split for prompt in imported.prompts), config.shares)
    return imported


def read_rows_once(rows: Iterable[Row], read: Callable[[Row], None], heading: str) -> None:
    """Apply `read` to every row, and report all malformed rows together.

    Raises:
        DataError: Lists up to 20 malformed rows with their places.
    """
    problems: list[str] = []
    for row in rows:
        if row.problem:
            problems.append(f"{row.place}: {row.problem}")
            continue
        try:
            read(row)
        except DataError as error:
            problems.append(f"{row.place}: {error}")
    report_all(DataError, problems, f"{heading}: {len(problems)} bad {'row' if len(problems) == 1 else 'rows'}")


def _read_all(
    config: PromptsConfig, sources: Sequence[str], seed: int, drops: _Drops, *, pinned: bool
) -> list[_Example]:
    examples: list[_Example] = []
    for source in sources:
        if source == EMBEDDED:
            examples.extend(_embedded_examples(config, seed, pinned=pinned))
            continue

        def read(row: Row, source: str = source) -> None:
            example = _read_row(row, source, config, drops, pinned=pinned)
            if example is not None:
                examples.append(example)

        rows = read_source(source, paragraphs=config.prompt_words is not None)
        read_rows_once(rows, read, source)
    return examples


def _embedded_examples(config: PromptsConfig, seed: int, *, pinned: bool) -> Iterator[_Example]:
    from rlhf.world.corpus import world_demonstration, world_prompts

    for asked in world_prompts(config.count or DEFAULT_EMBEDDED_PROMPTS, seed):
        response = world_demonstration(asked.text, seed)
        yield _Example(asked.text, response, prompt_key(asked.text), EMBEDDED, asked.id, pinned)


def _read_row(row: Row, source: str, config: PromptsConfig, drops: _Drops, *, pinned: bool) -> _Example | None:
    try:
        prompt, response = read_example(
            row.value,
            prompt_field=config.prompt_field,
            response_field=config.response_field,
            prompt_words=config.prompt_words,
        )
    except UnusableRow as unusable:
        drops.add(row.place, str(unusable))
        return None
    if pinned and response is None:
        drops.add(row.place, "demonstration without a response")
        return None
    return _Example(prompt, response, prompt_key(prompt), source, row.place, pinned)


def _drop_refused(examples: Iterable[_Example], check: TextCheck, drops: _Drops) -> list[_Example]:
    kept: list[_Example] = []
    for example in examples:
        try:
            check("prompt", prompt_to_text(example.prompt))
            check("response", example.response or "")
        except DataError as error:
            drops.add(example.place, "text with a special token of the base", str(error))
        else:
            kept.append(example)
    return kept


def _drop_repeated(examples: Iterable[_Example], drops: _Drops) -> list[_Example]:
    """Keep the first of equal prompts; demonstrations may answer one prompt in several ways."""
    first: dict[tuple[str, str | None], str] = {}
    kept: list[_Example] = []
    for example in examples:
        identity = (example.key, example.response if example.pinned else None)
        if identity in first:
            reason = "repeated demonstration" if example.pinned else "repeated prompt"
            drops.add(example.place, reason, f"first in {first[identity]}")
        else:
            first[identity] = example.place
            kept.append(example)
    return kept


def _drop_by_length(
    examples: Iterable[_Example],
    config: PromptsConfig,
    token_count: Callable[[PromptText], int],
    context: int,
    drops: _Drops,
) -> list[_Example]:
    kept: list[_Example] = []
    for example in examples:
        tokens = token_count(example.prompt)
        if tokens >= context:
            drops.add(example.place, f"no room for a response in the base's context of {context} tokens", f"{tokens}")
        elif tokens > config.max_tokens:
            drops.add(example.place, f"more than {config.max_tokens} tokens (max_tokens)", f"{tokens}")
        elif tokens < config.min_tokens:
            drops.add(example.place, f"fewer than {config.min_tokens} tokens (min_tokens)", f"{tokens}")
        else:
            kept.append(example)
    return kept


def _keep_count(examples: list[_Example], count: int | None, seed: int, drops: _Drops) -> list[_Example]:
    """Keep `count` prompts, drawn by a hash of seed and text, in their order; demonstrations are not counted."""
    prompts = [example for example in examples if not example.pinned]
    if count is None or len(prompts) <= count:
        return examples
    by_draw = sorted(prompts, key=lambda example: hashlib.sha256(f"{seed} {example.key}".encode()).digest())
    left_out = {example.key for example in by_draw[count:]}
    drops.counts[f"more than {count} prompts (count)"] += len(left_out)
    return [example for example in examples if example.pinned or example.key not in left_out]


def _to_records(
    examples: Sequence[_Example], splits: Sequence[Split], drops: _Drops, *, sources_demonstrate: bool
) -> PromptImport:
    prompts: list[Prompt] = []
    demonstrations: list[Demonstration] = []
    for example, split in zip(examples, splits, strict=True):
        name = prompt_id_of(example.prompt)
        if not example.pinned:
            prompts.append(Prompt(name, example.prompt, split, example.source))
        demonstrates = example.pinned or (sources_demonstrate and split in DEMONSTRATED_SPLITS)
        if example.response is not None and demonstrates:
            demonstrations.append(Demonstration(name, example.prompt, example.response, split))
    return PromptImport(prompts, demonstrations, dict(sorted(drops.counts.items())), drops.places)
