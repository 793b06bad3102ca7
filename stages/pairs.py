"""Stage pairs: all preference pairs of every ranking, with probability, weight and margin.

Reads candidates and rankings, or a pair file in TRL's preference format, whose prompts must not be those of the ppo,
validation or test split. Writes pairs.jsonl, which `datasets.load_dataset("json", ...)` and TRL's trainers read as it
is, and holdout.json, the prompts kept apart to measure the reward model. Pairs of one prompt are never divided between
the two.

    rlhf pairs CONFIG       python -m stages.pairs CONFIG
"""

import json
import logging
from pathlib import Path

from rlhf.config.recipe import Config
from rlhf.data.judgements import import_pairs
from rlhf.data.splits import choose_holdout, require_no_overlap
from rlhf.entry import Work, begin, stage_main
from rlhf.errors import DataError
from rlhf.labels.aggregate import aggregate
from rlhf.records import CandidateSet, PreferencePair, Prompt, Ranking, read_jsonl, write_jsonl

log = logging.getLogger(__name__)


def run(config: Config) -> Path:
    """Aggregate the rankings, or import the pairs."""
    with begin("pairs", config) as work:
        path = config.pairs.import_path
        pairs = _aggregate(config, work) if path is None else _import(path, config, work)
        if not pairs:
            raise DataError(
                "no preference pair came out: every ranking is one single tie, or min_probability is too high"
            )
        held_out = choose_holdout(sorted({pair.prompt_id for pair in pairs}), config.pairs.holdout, config.seed)
        write_jsonl(work.folder / "pairs.jsonl", pairs)
        (work.folder / "holdout.json").write_text(json.dumps(held_out, indent=0), encoding="utf-8")
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


def _import(path: Path, config: Config, work: Work) -> list[PreferencePair]:
    from rlhf.models.base import load_base_text  # loads torch, which aggregation does without

    text = load_base_text(work.parents["base"].path, config.base)
    pairs = import_pairs(path, text.require_ordinary)
    require_no_overlap(pairs, read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt), ("sft", "label"))
    return pairs


def _aggregate(config: Config, work: Work) -> list[PreferencePair]:
    sets = read_jsonl(work.file("candidates", "candidates.jsonl"), CandidateSet)
    rankings = read_jsonl(work.file("rankings", "rankings.jsonl"), Ranking)
    settings = config.pairs
    return aggregate(sets, rankings, settings.policy, belief=settings.belief, min_probability=settings.min_probability)


if __name__ == "__main__":
    stage_main("pairs", run)
