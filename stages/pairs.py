"""Stage pairs: all preference pairs of every ranking, with probability, weight and margin.

Reads candidates, rankings and the pairs of the rounds before, or a pair file in TRL's preference format, whose prompts must not be those of the ppo,
validation or test split. Writes pairs.jsonl, which `datasets.load_dataset("json", ...)` and TRL's trainers read as it
is, and holdout.json, the prompts kept apart to measure the reward model (pairs of one prompt are never divided between
the two), with held_out_candidates.jsonl and held_out_rankings.jsonl, what single annotators said of them. Annotators who
are kept apart, in holdout_annotators.json, are in the last of these files only.

    rlhf pairs CONFIG       python -m stages.pairs CONFIG
"""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf.config.recipe import Config
from rlhf.data.judgements import import_pairs
from rlhf.data.splits import FEWEST_ANNOTATORS, choose_annotators, choose_holdout, require_no_overlap
from rlhf.entry import Work, begin, stage_main
from rlhf.errors import DataError
from rlhf.labels.aggregate import aggregate
from rlhf.records import CandidateSet, PreferencePair, Prompt, Ranking, read_jsonl, write_jsonl

log = logging.getLogger(__name__)


def run(config: Config) -> Path:
    """Aggregate the rankings, or import the pairs."""
    with begin("pairs", config) as work:
        judged = _read_judged(config, work) if config.pairs.import_path is None else None
        pairs = _aggregate(config, judged) if judged else _import(config, work)
        pairs = [replace(pair, round=work.run.round) for pair in pairs]
        if "previous-pairs" in work.parents:
            pairs = [*read_jsonl(work.file("previous-pairs", "pairs.jsonl"), PreferencePair), *pairs]
        if not pairs:
            raise DataError(
                "no preference pair came out: every ranking is one single tie, or min_probability is too high"
            )
        held_out = choose_holdout(pairs, config.pairs.holdout, config.seed)
        write_jsonl(work.folder / "pairs.jsonl", pairs)
        (work.folder / "holdout.json").write_text(json.dumps(held_out, indent=0), encoding="utf-8")
        if judged:
            _write_judged(judged, frozenset(held_out), work.folder)
        log.info("%d pairs of %d prompts", len(pairs), len({pair.prompt_id for pair in pairs}))
        work.draft.splits = ("label",)
        work.draft.facts |= {
            "pairs": len(pairs),
            "prompts": len({pair.prompt_id for pair in pairs}),
            "held_out_prompts": len(held_out),
            "mean_probability": sum(pair.probability for pair in pairs) / len(pairs),
        }
        if "rankings" in work.parents:
            work.draft.facts["annotators"] = work.parents["rankings"].facts["annotators"]
        final = work.run.folder("pairs")
    return final


def _import(config: Config, work: Work) -> list[PreferencePair]:
    from rlhf.models.base import load_base_text  # loads torch, which aggregation does without

    text = load_base_text(work.parents["base"].path, config.base)
    path, settings = config.pairs.import_path, config.pairs
    assert path is not None
    columns = {
        "prompt": settings.prompt_field,
        "chosen": settings.chosen_field,
        "rejected": settings.rejected_field,
        "margin": settings.margin_field,
    }
    found = import_pairs(path, text.require_ordinary, columns)
    require_no_overlap(found.records, read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt), ("sft", "label"))
    work.draft.facts |= {"dropped": dict(found.dropped)}
    return found.records


@dataclass(frozen=True)
class _Judged:
    """What was ranked, the rankings, and the annotators whose rankings are kept out of training."""

    sets: list[CandidateSet]
    rankings: list[Ranking]
    apart: list[str]


def _read_judged(config: Config, work: Work) -> _Judged:
    sets = read_jsonl(work.file("candidates", "candidates.jsonl"), CandidateSet)
    rankings = read_jsonl(work.file("rankings", "rankings.jsonl"), Ranking)
    names = sorted({ranking.annotator for ranking in rankings})
    apart = choose_annotators(names, config.pairs.holdout_annotators, config.seed)
    if config.pairs.holdout_annotators and not apart:
        log.warning(
            "%d annotators ranked, none is kept apart (pairs.holdout_annotators needs %d)",
            len(names),
            FEWEST_ANNOTATORS,
        )
    return _Judged(sets, rankings, apart)


def _aggregate(config: Config, judged: _Judged) -> list[PreferencePair]:
    settings, apart = config.pairs, frozenset(judged.apart)
    rankings = [ranking for ranking in judged.rankings if ranking.annotator not in apart]
    return aggregate(
        judged.sets, rankings, settings.policy, belief=settings.belief, min_probability=settings.min_probability
    )


def _write_judged(judged: _Judged, held_out: frozenset[str], folder: Path) -> None:
    write_jsonl(folder / "held_out_candidates.jsonl", [item for item in judged.sets if item.prompt_id in held_out])
    write_jsonl(folder / "held_out_rankings.jsonl", [row for row in judged.rankings if row.prompt_id in held_out])
    (folder / "holdout_annotators.json").write_text(json.dumps(judged.apart), encoding="utf-8")


if __name__ == "__main__":
    stage_main("pairs", run)
