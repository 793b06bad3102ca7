"""Which split a prompt belongs to: decided by a hash of its normalised text, so that it is the same in every run."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Protocol

from rlhf.config.data import SplitShares
from rlhf.data.duplicates import group_near_duplicates, normalise
from rlhf.errors import DataError, report_all
from rlhf.records import SPLITS, Prompt, PromptText, Split, prompt_to_json, prompt_to_text

DEMONSTRATION_VALIDATION_SHARE = 0.05
FEWEST_ANNOTATORS = 5
ID_DIGITS = 12


class HasPrompt(Protocol):
    """A record that belongs to a prompt."""

    @property
    def prompt_id(self) -> str:
        """The prompt's id."""
        ...

    @property
    def prompt(self) -> PromptText:
        """The prompt."""
        ...


def prompt_id_of(prompt: PromptText) -> str:
    """Return the id of a prompt: `p-` and 12 hexadecimal digits of its content's SHA-256."""
    text = json.dumps(prompt_to_json(prompt), ensure_ascii=False)
    return f"p-{hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]}"


def prompt_key(prompt: PromptText) -> str:
    """Return the normalised text by which two prompts count as the same; a lone user turn equals its bare text."""
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].role == "user":
        prompt = prompt[0].content
    return normalise(prompt_to_text(prompt))


def fraction_of(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone and is uniform over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def choose_split(key: str, shares: SplitShares) -> Split:
    """Return the split of a normalised prompt.

    Raises:
        DataError: All shares are zero.
    """
    weights = {entry.name: getattr(shares, entry.name) for entry in fields(shares)}
    total = sum(weights.values())
    if total <= 0:
        raise DataError("all prompts.shares are 0; give at least one split a share")
    point = fraction_of(key) * total
    chosen: Split | None = None
    for split in SPLITS:
        if weights[split] <= 0:
            continue
        chosen = split
        point -= weights[split]
        if point < 0:
            break
    assert chosen is not None, weights
    return chosen


def assign_splits(
    keys: Sequence[str], pinned: Sequence[bool], shares: SplitShares, near_duplicate: float
) -> list[Split]:
    """Return the split of each normalised prompt; near-duplicates get the same one.

    A group goes where the hash of its alphabetically first text points, whatever the order of the sources. A group
    that holds a pinned prompt (one that demonstrates) goes to sft, or, one in twenty, to validation.
    """
    groups = group_near_duplicates(keys, near_duplicate)
    leader: dict[int, str] = {}
    has_pinned: dict[int, bool] = {}
    for key, is_pinned, group in zip(keys, pinned, groups, strict=True):
        leader[group] = min(key, leader.get(group, key))
        has_pinned[group] = is_pinned or has_pinned.get(group, False)
    splits: dict[int, Split] = {}
    for group, key in leader.items():
        if has_pinned[group]:
            splits[group] = "validation" if fraction_of(key) < DEMONSTRATION_VALIDATION_SHARE else "sft"
        else:
            splits[group] = choose_split(key, shares)
    return [splits[group] for group in groups]


def require_filled(counts: Mapping[Split, int], shares: SplitShares) -> None:
    """Refuse splits that should hold prompts and hold none.

    Raises:
        DataError: Names the empty splits.
    """
    empty = [split for split in SPLITS if getattr(shares, split) > 0 and not counts.get(split)]
    if empty:
        total = sum(counts.values())
        raise DataError(
            f"{total} prompts leave {', '.join(empty)} empty; import more prompts, "
            f"or change prompts.shares (0 for a split that you do not need)"
        )


def require_no_overlap(records: Iterable[HasPrompt], prompts: Iterable[Prompt], allowed: Iterable[Split]) -> None:
    """Refuse outside records whose prompt already serves another split.

    Args:
        records: Records from outside, such as imported candidate sets or pairs.
        prompts: The run's prompts.
        allowed: Splits that the records may share prompts with.

    Raises:
        DataError: Lists the records that would leak.
    """
    permitted = frozenset(allowed)
    taken = {prompt_key(prompt.prompt): prompt for prompt in prompts if prompt.split not in permitted}
    problems = [
        f"prompt {record.prompt_id}: the same text is prompt {taken[key].id} of split {taken[key].split}"
        for record in records
        if (key := prompt_key(record.prompt)) in taken
    ]
    report_all(DataError, problems, f"{len(problems)} records overlap with other splits; drop them from one side:")


def choose_holdout(records: Iterable[HasPrompt], share: float, seed: int) -> list[str]:
    """Return the ids of about `share` of the prompts, at least one, chosen by a seeded hash: kept apart to measure on.

    Ids of the same prompt stay together: published sets give every comparison an id of its own.

    Raises:
        DataError: There are fewer than two prompts, so that nothing would be left to train on.
    """
    names_of: defaultdict[str, set[str]] = defaultdict(set)
    for record in {record.prompt_id: record for record in records}.values():
        names_of[prompt_key(record.prompt)].add(record.prompt_id)
    if len(names_of) < 2:
        raise DataError(f"{len(names_of)} prompt with pairs; at least 2 are needed, one of them to measure on")
    count = min(max(1, round(share * len(names_of))), len(names_of) - 1)
    drawn = sorted(names_of.values(), key=lambda names: fraction_of(f"{seed} {min(names)}"))[:count]
    return sorted(name for names in drawn for name in names)


def choose_annotators(names: Sequence[str], share: float, seed: int) -> list[str]:
    """Return about `share` of the annotators, at least one where it is above 0; nobody of fewer than `FEWEST_ANNOTATORS`."""
    if share == 0 or len(names) < FEWEST_ANNOTATORS:
        return []
    count = max(1, round(share * len(names)))
    return sorted(sorted(names, key=lambda name: fraction_of(f"{seed} annotator {name}"))[:count])
