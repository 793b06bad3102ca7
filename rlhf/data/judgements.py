"""Import of what others have judged: preference pairs, candidate sets, rankings."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rlhf.data.formats import UnusableRow, read_pair, read_prompt, require_object
from rlhf.data.importers import TextCheck, accept_all, read_rows_once
from rlhf.data.sources import Row, read_source
from rlhf.data.splits import prompt_id_of, prompt_key
from rlhf.errors import DataError, shown
from rlhf.records import SPLITS, CandidateSet, PreferencePair, PromptText, Ranking, from_json, prompt_to_text

CANDIDATE_FIELDS = ("responses", "completions", "candidates", "outputs")
SOURCE_FIELDS = ("sources", "systems", "models")
UNNAMED_ANNOTATOR = "imported"

log = logging.getLogger(__name__)


def import_pairs(path: Path, check: TextCheck = accept_all) -> list[PreferencePair]:
    """Read preference pairs in any of TRL's forms, with `margin`, `weight`, `probability`, `votes` where given.

    Pairs with an empty side or two equal ones are dropped, and the log says how many. `chosen_index` and
    `rejected_index` number the different responses to a prompt in the order of the file.

    Raises:
        DataError: The file is missing or empty, rows are malformed or fail the check, or no pair is left.
        ResourceError: A library that reads this kind of file is not installed.
    """
    pairs: list[PreferencePair] = []
    dropped: Counter[str] = Counter()
    index_of: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def read(row: Row) -> None:
        try:
            prompt, chosen, rejected = read_pair(row.value)
        except UnusableRow as unusable:
            dropped[str(unusable)] += 1
            return
        _check_texts(check, prompt, {"chosen": chosen, "rejected": rejected})
        name = _stated_id(row.value, "prompt_id") or prompt_id_of(prompt)
        known = index_of[name]
        indices = [known.setdefault(response, len(known)) for response in (chosen, rejected)]
        stated = {key: row.value.get(key) for key in ("weight", "margin", "probability", "votes", "ties")}
        pairs.append(
            PreferencePair(
                prompt_id=name,
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                chosen_index=indices[0],
                rejected_index=indices[1],
                split=_stated_split(row.value),
                **{key: value for key, value in stated.items() if value is not None},
            )
        )

    read_rows_once(read_source(str(path)), read, str(path))
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    if not pairs:
        raise DataError(f"{path}: no pair is left: {reasons}")
    if dropped:
        log.warning("%s: %d pairs dropped: %s", path, dropped.total(), reasons)
    return pairs


def import_candidates(path: Path, check: TextCheck = accept_all) -> list[CandidateSet]:
    """Read candidate sets: our own records, or a prompt with its `completions` (and `systems`) as others write it.

    Raises:
        DataError: The file is missing or empty; or lists every set that is malformed, fails the check, has fewer than
            2 or more than 9 candidates, an empty or a repeated one, or the id of another set.
    """
    sets: dict[str, CandidateSet] = {}
    places: dict[str, str] = {}

    def read(row: Row) -> None:
        candidates = _read_candidates(row.value)
        responses = {f"responses[{index}]": response for index, response in enumerate(candidates.responses)}
        _check_texts(check, candidates.prompt, responses)
        name = candidates.prompt_id
        if name in sets:
            raise DataError(f"prompt id {name!r} was already used in {places[name]}; give each set its own")
        sets[name], places[name] = candidates, row.place

    read_rows_once(read_source(str(path)), read, str(path))
    return list(sets.values())


def import_rankings(path: Path, candidate_sets: Sequence[CandidateSet]) -> list[Ranking]:
    """Read rankings of known candidate sets.

    A row is our own record, with `ranks` or with `order` (candidates from best to worst); or `ranks` beside a prompt, one consensus per row; or `annotations`, a list of objects with
    `annotator` and `ranks`. It names its set by `prompt_id` or `id`, or carries the prompt. Where it carries the
    candidates too, in whatever order, the ranks are matched to them by text. Ranks that skip after ties (1, 1, 3) are
    closed up (1, 1, 2).

    Raises:
        DataError: The file is missing or empty; or lists every ranking that is malformed, does not fit its candidates,
            or judges the same set by the same annotator twice.
    """
    by_id = {candidates.prompt_id: candidates for candidates in candidate_sets}
    by_prompt = {prompt_key(candidates.prompt): candidates for candidates in candidate_sets}
    rankings: list[Ranking] = []
    places: dict[tuple[str, str], str] = {}

    def read(row: Row) -> None:
        given = require_object(row.value)
        candidates = _find_set(given, by_id, by_prompt)
        for judgement in _judgements(given):
            ranking = _read_ranking(judgement, given, candidates)
            key = (ranking.prompt_id, ranking.annotator)
            if key in places:
                raise DataError(f"{ranking.annotator!r} ranked {ranking.prompt_id} already in {places[key]}; keep one")
            places[key] = row.place
            rankings.append(ranking)

    read_rows_once(read_source(str(path)), read, str(path))
    return rankings


def _check_texts(check: TextCheck, prompt: PromptText, responses: Mapping[str, str]) -> None:
    check("prompt", prompt_to_text(prompt))
    for name, response in responses.items():
        check(name, response)


def _read_candidates(value: Any) -> CandidateSet:
    given = require_object(value)
    try:
        prompt = read_prompt(given)
    except UnusableRow as unusable:
        raise DataError(str(unusable)) from unusable
    responses = _read_responses(given)
    if responses is None:
        raise DataError(f"no candidates; give a list of texts in one of {', '.join(CANDIDATE_FIELDS)}")
    sources = next((given[name] for name in SOURCE_FIELDS if given.get(name)), ())
    if not isinstance(sources, (list, tuple)) or not all(isinstance(source, str) for source in sources):
        raise DataError(f"sources are {shown(sources)}; give a list of texts, one per candidate")
    return CandidateSet(
        prompt_id=_stated_id(given, "prompt_id", "id") or prompt_id_of(prompt),
        prompt=prompt,
        responses=responses,
        sources=tuple(sources),
        split=_stated_split(given),
    )


def _read_responses(given: Mapping[str, Any]) -> tuple[str, ...] | None:
    name = next((name for name in CANDIDATE_FIELDS if given.get(name) is not None), None)
    if name is None:
        return None
    values = given[name]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{name} is no list of texts")
    return tuple(values)


def _find_set(
    given: Mapping[str, Any], by_id: Mapping[str, CandidateSet], by_prompt: Mapping[str, CandidateSet]
) -> CandidateSet:
    name = _stated_id(given, "prompt_id", "id")
    if name is not None and name in by_id:
        return by_id[name]
    try:
        key = prompt_key(read_prompt(given))
    except (DataError, UnusableRow):
        key = None
    if key is not None and key in by_prompt:
        return by_prompt[key]
    raise DataError(
        f"ranking is for prompt {name!r}, which has no candidates; import its candidates too or drop the line"
    )


def _judgements(given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    annotations = given.get("annotations")
    if annotations is None:
        yield given
        return
    if not isinstance(annotations, list) or not annotations:
        raise DataError("annotations is no list; give objects with annotator and ranks")
    for annotation in annotations:
        yield require_object(annotation)


def _read_ranking(judgement: Mapping[str, Any], row: Mapping[str, Any], candidates: CandidateSet) -> Ranking:
    ranks = judgement.get("ranks") if "order" not in judgement else _ranks_from_order(judgement["order"], candidates)
    if not isinstance(ranks, list) or not all(type(rank) is int for rank in ranks):
        raise DataError(f"ranks are {shown(ranks)}; give a list of whole numbers, 1 is best")
    count = len(candidates.responses)
    if len(ranks) != count:
        raise DataError(
            f"ranking has {len(ranks)} ranks, prompt {candidates.prompt_id} has candidates 0-{count - 1}; "
            f"fix the label or drop the line"
        )
    own = {entry.name for entry in fields(Ranking)}
    given = {name: judgement[name] for name in own if judgement.get(name) is not None}
    given |= {
        "prompt_id": candidates.prompt_id,
        "annotator": _stated_id(judgement, "annotator") or UNNAMED_ANNOTATOR,
        "ranks": _close_up(ranks),
    }
    stated = from_json(Ranking, {"kind": "imported", **given})
    return _reorder(stated, _positions(row, candidates))


def _reorder(ranking: Ranking, positions: Sequence[int]) -> Ranking:
    """Return a ranking of candidates in the order of their set; `positions` says where the row had each."""
    if list(positions) == list(range(len(positions))):
        return ranking
    if ranking.display_order:
        raise DataError("display_order with candidates in another order than the imported ones; drop one of the two")
    return replace(
        ranking,
        ranks=tuple(ranking.ranks[position] for position in positions),
        flags=tuple(ranking.flags[position] for position in positions) if ranking.flags else (),
    )


def _ranks_from_order(order: Any, candidates: CandidateSet) -> list[int]:
    """Turn candidates listed from best to worst (a list inside is a tie) into ranks."""
    count = len(candidates.responses)
    if not isinstance(order, list):
        raise DataError(f"order is {shown(order)}; give a list of candidates, best first")
    tiers = [tier if isinstance(tier, list) else [tier] for tier in order]
    named = [candidate for tier in tiers for candidate in tier]
    unknown = [candidate for candidate in named if candidate not in range(count)]
    if unknown:
        raise DataError(
            f"ranking names candidate {unknown[0]}, prompt {candidates.prompt_id} has candidates 0-{count - 1}; "
            "fix the label or drop the line"
        )
    if sorted(named) != list(range(count)):
        raise DataError(f"order is {order!r}; name each of the candidates 0-{count - 1} of {candidates.prompt_id} once")
    ranks = {candidate: rank for rank, tier in enumerate(tiers, start=1) for candidate in tier}
    return [ranks[candidate] for candidate in range(count)]


def _positions(row: Mapping[str, Any], candidates: CandidateSet) -> list[int]:
    """Return for each candidate where the row has it."""
    carried = _read_responses(row)
    if carried is None:
        return list(range(len(candidates.responses)))
    if sorted(carried) != sorted(candidates.responses):
        raise DataError(f"the candidates beside the ranks are not those of prompt {candidates.prompt_id}")
    return [carried.index(response) for response in candidates.responses]


def _close_up(ranks: Sequence[int]) -> list[int]:
    """Turn competition ranks (1, 1, 3) into dense ones (1, 1, 2); leave everything else as it is."""
    if any(rank != 1 + sum(other < rank for other in ranks) for rank in ranks):
        return list(ranks)
    levels = sorted(set(ranks))
    return [levels.index(rank) + 1 for rank in ranks]


def _stated_id(row: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        value = row.get(name)
        if value is None:
            continue
        if not isinstance(value, (str, int)) or not str(value).strip():
            raise DataError(f"{name} is {shown(value)}; give text")
        return str(value)
    return None


def _stated_split(row: Mapping[str, Any]) -> Any:
    # Other people's files say "train" here; only our own words count.
    split = row.get("split")
    return split if split in SPLITS else "label"
