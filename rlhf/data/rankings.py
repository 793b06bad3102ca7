"""Import of candidate sets and of their rankings, in our form and in others'.

A set is read as it can be ranked: texts that stand in it twice are one candidate, empty ones are none. Rankings that carry
their candidates follow: a text that an annotator ranked twice gets the mean of its two places, ties counted in the middle
(so that each is ordered by its mean share of the others beaten, as by Borda 1781), and the ranks close up.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rlhf.data.formats import UnusableRow, read_prompt, require_object
from rlhf.data.importers import TextCheck, accept_all, read_rows_once
from rlhf.data.judgements import (
    Columns,
    JudgementImport,
    check_texts,
    stated_id,
    stated_split,
    with_usual_names,
    with_values,
)
from rlhf.data.sources import Row, read_source
from rlhf.data.splits import prompt_id_of, prompt_key
from rlhf.errors import DataError, shown
from rlhf.records import LARGEST_NUMBER, MIN_CANDIDATES, CandidateSet, Ranking, from_json, is_number

CANDIDATE_FIELDS = ("responses", "completions", "candidates", "outputs")
SOURCE_FIELDS = ("sources", "systems", "models")
UNNAMED_ANNOTATOR = "imported"
TOO_FEW = "set of fewer than two different candidates"
_RANK_FIELDS = ("ranks", "order", "scores")
# Cells of a table hold these as JSON.
_SET_VALUES = (*CANDIDATE_FIELDS, *SOURCE_FIELDS)
_SHAPES = ("strengths", "flags", "display_order")
_RANKING_VALUES = (*_RANK_FIELDS, *_SHAPES, "annotations", "seconds", "confidence", "all_bad", "adjudicated")


def import_candidates(
    path: Path, check: TextCheck = accept_all, columns: Columns | None = None
) -> JudgementImport[CandidateSet]:
    """Read candidate sets: our own records, or a prompt with its `completions` (and `systems`) as others write it.

    Repeated candidates are merged and empty ones left out, and both are counted; so is a set that is left with fewer than
    two, and a set that stands in the file again, as it does where each row is another annotator's.

    Args:
        path: The file.
        check: Refuses texts that the base cannot take.
        columns: Names of the file for `prompt` and `responses`.

    Raises:
        DataError: The file is missing or empty; or lists every set that is malformed, fails the check, has more than 16
            candidates or the id of a different set; or no set is left.
    """
    found: JudgementImport[CandidateSet] = JudgementImport()
    known: dict[str, tuple[CandidateSet, str]] = {}

    def read(row: Row) -> None:
        given = with_values(with_usual_names(require_object(row.value), columns), _SET_VALUES)
        candidates, carried = _read_set(given)
        if candidates is None:
            found.drop(row.place, TOO_FEW)
            return
        responses = {f"responses[{index}]": response for index, response in enumerate(candidates.responses)}
        check_texts(check, candidates.prompt, responses)
        name = candidates.prompt_id
        if name in known:
            first, place = known[name]
            if first.prompt != candidates.prompt or set(first.responses) != set(candidates.responses):
                raise DataError(f"prompt id {name!r} was already used in {place}; give each set its own")
            found.drop(row.place, "repeated set")
            return
        known[name] = candidates, row.place
        found.records.append(candidates)
        for reason, count in _merges(carried).items():
            found.drop(row.place, reason, count)

    read_rows_once(read_source(str(path)), read, str(path))
    return found.close(path, "candidate set")


def import_rankings(
    path: Path, candidate_sets: Sequence[CandidateSet], columns: Columns | None = None
) -> JudgementImport[Ranking]:
    """Read rankings of known candidate sets.

    A row is our own record, with `ranks`, with `order` (candidates from best to worst) or with `scores` (higher is
    better); or the same beside a prompt, one consensus per row; or `annotations`, a list of objects with `annotator` and
    one of the three. It names its set by `prompt_id` or `id`, or carries the prompt. Where it carries the candidates too,
    in whatever order, the ranks are matched to them by text. Ranks that skip after ties (1, 1, 3) are closed up (1, 1, 2).

    Args:
        path: The file.
        candidate_sets: What was ranked.
        columns: Names of the file for `prompt` and `responses`; for `ranks`, `scores` and `annotator`, in the row or in
            each of its annotations.

    Raises:
        DataError: The file is missing or empty; or lists every ranking that is malformed, does not fit its candidates,
            or judges the same set by the same annotator twice; or no ranking is left.
    """
    columns = columns or {}
    of_set = {name: columns.get(name) for name in ("prompt", "responses")}
    of_ranking = {name: columns.get(name) for name in ("ranks", "scores", "annotator")}
    by_id = {candidates.prompt_id: candidates for candidates in candidate_sets}
    by_prompt: defaultdict[str, list[CandidateSet]] = defaultdict(list)
    for candidates in candidate_sets:
        by_prompt[prompt_key(candidates.prompt)].append(candidates)
    found: JudgementImport[Ranking] = JudgementImport()
    places: dict[tuple[str, str], str] = {}

    def read(row: Row) -> None:
        given = with_values(with_usual_names(require_object(row.value), of_set), (*_SET_VALUES, *_RANKING_VALUES))
        judgements = list(_judgements(given))
        carried = _read_responses(given)
        if carried is not None and _too_few(carried):
            found.drop(row.place, f"ranking of a {TOO_FEW}", len(judgements))
            return
        candidates = _find_set(given, carried, by_id, by_prompt)
        for judgement in judgements:
            ranking = _read_ranking(_named_ranks(judgement, of_ranking), carried, candidates)
            key = (ranking.prompt_id, ranking.annotator)
            if key in places:
                raise DataError(f"{ranking.annotator!r} ranked {ranking.prompt_id} already in {places[key]}; keep one")
            places[key] = row.place
            found.records.append(ranking)

    read_rows_once(read_source(str(path)), read, str(path))
    return found.close(path, "ranking")


def _read_set(given: Mapping[str, Any]) -> tuple[CandidateSet | None, Sequence[str]]:
    """Return the set, None where too few candidates are left, and the candidates as they stand in the row."""
    try:
        prompt = read_prompt(given)
    except UnusableRow as unusable:
        raise DataError(str(unusable)) from unusable
    carried = _read_responses(given)
    if carried is None:
        raise DataError(f"no candidates; give a list of texts in one of {', '.join(CANDIDATE_FIELDS)}")
    sources = next((given[name] for name in SOURCE_FIELDS if given.get(name)), ())
    if not isinstance(sources, (list, tuple)) or not all(isinstance(source, str) for source in sources):
        raise DataError(f"sources are {shown(sources)}; give a list of texts, one per candidate")
    if sources and len(sources) != len(carried):
        raise DataError(f"{len(sources)} sources for {len(carried)} candidates")
    responses = _usable(carried)
    if _too_few(carried):
        return None, carried
    return CandidateSet(
        prompt_id=stated_id(given, "prompt_id", "id") or prompt_id_of(prompt),
        prompt=prompt,
        responses=responses,
        sources=tuple(_source_of(response, carried, sources) for response in responses) if sources else (),
        split=stated_split(given),
    ), carried


def _read_responses(given: Mapping[str, Any]) -> tuple[str, ...] | None:
    name = next((name for name in CANDIDATE_FIELDS if given.get(name) is not None), None)
    if name is None:
        return None
    values = given[name]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{name} is no list of texts")
    return tuple(values)


def _usable(carried: Sequence[str]) -> tuple[str, ...]:
    """Return the candidates that can be told apart: no empty text, none twice."""
    return tuple(dict.fromkeys(text for text in carried if text.strip()))


def _too_few(carried: Sequence[str]) -> bool:
    """Tell whether a list of candidates long enough for a set leaves none: a shorter list is a mistake of the file."""
    return len(carried) >= MIN_CANDIDATES > len(_usable(carried))


def _merges(carried: Sequence[str]) -> dict[str, int]:
    empty = sum(not text.strip() for text in carried)
    counts = {"empty candidate": empty, "repeated candidate, merged": len(carried) - empty - len(_usable(carried))}
    return {reason: count for reason, count in counts.items() if count}


def _source_of(response: str, carried: Sequence[str], sources: Sequence[str]) -> str:
    """Return who wrote a candidate; of one that several wrote, all, joined by ` + `."""
    makers = (source for text, source in zip(carried, sources, strict=True) if text == response)
    return " + ".join(dict.fromkeys(makers))


def _find_set(
    given: Mapping[str, Any],
    carried: Sequence[str] | None,
    by_id: Mapping[str, CandidateSet],
    by_prompt: Mapping[str, Sequence[CandidateSet]],
) -> CandidateSet:
    name = stated_id(given, "prompt_id", "id")
    if name is not None and name in by_id:
        return by_id[name]
    try:
        known = by_prompt.get(prompt_key(read_prompt(given)), ())
    except (DataError, UnusableRow) as error:
        if name is None:
            raise DataError(
                f"the row names no prompt; it has {', '.join(given)}: give prompt_id, or say with prompt_field which column "
                "holds the prompt"
            ) from error
        known = ()
    if len(known) > 1 and carried is not None:
        known = [item for item in known if set(item.responses) == set(_usable(carried))] or known
    if len(known) > 1:
        raise DataError(f"the prompt has {len(known)} candidate sets; say with prompt_id which of them is ranked")
    if not known:
        raise DataError(
            f"ranking is for prompt {name!r}, which has no candidates; import its candidates too or drop the line"
        )
    return known[0]


def _judgements(given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    annotations = given.get("annotations")
    if annotations is None:
        yield given
        return
    if not isinstance(annotations, list) or not annotations:
        raise DataError("annotations is no list; give objects with annotator and ranks")
    for annotation in annotations:
        yield require_object(annotation)


def _named_ranks(judgement: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Return a judgement under our names; a named column of ranks or scores is the only one that counts."""
    renamed = with_usual_names(judgement, columns)
    chosen = [name for name in _RANK_FIELDS if columns.get(name)]
    if chosen:
        renamed = {name: value for name, value in renamed.items() if name not in _RANK_FIELDS or name in chosen}
    return with_values(renamed, _RANKING_VALUES)


def _read_ranking(judgement: Mapping[str, Any], carried: Sequence[str] | None, candidates: CandidateSet) -> Ranking:
    count = len(candidates.responses if carried is None else carried)
    if "order" in judgement:
        ranks = _ranks_from_order(judgement["order"], count, candidates.prompt_id)
    elif judgement.get("ranks") is None and "scores" in judgement:
        ranks = _ranks_from_scores(judgement["scores"])
    else:
        ranks = judgement.get("ranks")
    if not isinstance(ranks, list) or not all(type(rank) is int for rank in ranks):
        raise DataError(f"ranks are {shown(ranks)}; give a list of whole numbers, 1 is best")
    if len(ranks) != count:
        raise DataError(
            f"ranking has {len(ranks)} ranks, prompt {candidates.prompt_id} has candidates 0-{count - 1}; "
            f"fix the label or drop the line"
        )
    own = {entry.name for entry in fields(Ranking)}
    given = {name: judgement[name] for name in own if judgement.get(name) is not None}
    given |= {
        "prompt_id": candidates.prompt_id,
        "annotator": stated_id(judgement, "annotator") or UNNAMED_ANNOTATOR,
        "ranks": _close_up(ranks),
    }
    stated = from_json(Ranking, {"kind": "imported", **given})
    return stated if carried is None else _of_set(stated, carried, candidates)


def _of_set(ranking: Ranking, carried: Sequence[str], candidates: CandidateSet) -> Ranking:
    """Return a ranking of the candidates that its row carries as one of those of the set, in their order."""
    responses = candidates.responses
    if tuple(carried) == responses:
        return ranking
    if set(_usable(carried)) != set(responses):
        raise DataError(f"the candidates beside the ranks are not those of prompt {candidates.prompt_id}")
    if ranking.display_order:
        raise DataError("display_order with candidates in another order than the imported ones; drop one of the two")
    if len(carried) != len(responses) and ranking.strengths:
        raise DataError("strengths with empty or repeated candidates, whose ranks are merged; drop one of the two")
    own = {response: [place for place, text in enumerate(carried) if text == response] for response in responses}
    filled = [rank for rank, text in zip(ranking.ranks, carried, strict=True) if text.strip()]
    means = [
        sum(_middle_place(ranking.ranks[place], filled) for place in own[text]) / len(own[text]) for text in responses
    ]
    flags = (
        [tuple(dict.fromkeys(flag for place in own[text] for flag in ranking.flags[place])) for text in responses]
        if ranking.flags
        else []
    )
    return replace(ranking, ranks=tuple(_dense(means)), flags=tuple(flags))


def _ranks_from_order(order: Any, count: int, prompt_id: str) -> list[int]:
    """Turn candidates listed from best to worst (a list inside is a tie) into ranks."""
    if not isinstance(order, list):
        raise DataError(f"order is {shown(order)}; give a list of candidates, best first")
    tiers = [tier if isinstance(tier, list) else [tier] for tier in order]
    named = [candidate for tier in tiers for candidate in tier]
    unknown = [candidate for candidate in named if candidate not in range(count)]
    if unknown:
        raise DataError(
            f"ranking names candidate {unknown[0]}, prompt {prompt_id} has candidates 0-{count - 1}; "
            "fix the label or drop the line"
        )
    if sorted(named) != list(range(count)):
        raise DataError(f"order is {order!r}; name each of the candidates 0-{count - 1} of {prompt_id} once")
    ranks = {candidate: rank for rank, tier in enumerate(tiers, start=1) for candidate in tier}
    return [ranks[candidate] for candidate in range(count)]


def _ranks_from_scores(scores: Any) -> list[int]:
    """Turn one score per candidate, higher is better, into ranks; equal scores tie."""
    if not isinstance(scores, list) or not all(is_number(score) and abs(score) <= LARGEST_NUMBER for score in scores):
        raise DataError(f"scores are {shown(scores)}; give a list of numbers, one per candidate, higher is better")
    return _dense([-score for score in scores])


def _middle_place(rank: int, ranks: Sequence[int]) -> float:
    """Return the place of a rank among others, 1 is best; tied ones share the middle of their places."""
    return sum(other < rank for other in ranks) + (ranks.count(rank) + 1) / 2


def _dense(values: Sequence[float]) -> list[int]:
    """Return the ranks of values, the smallest 1, equal ones tied, without gaps."""
    levels = sorted(set(values))
    return [levels.index(value) + 1 for value in values]


def _close_up(ranks: Sequence[int]) -> list[int]:
    """Turn competition ranks (1, 1, 3) into dense ones (1, 1, 2); leave everything else as it is."""
    if any(rank != 1 + sum(other < rank for other in ranks) for rank in ranks):
        return list(ranks)
    return _dense(ranks)
