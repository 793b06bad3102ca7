"""Stage rankings: publish the candidates as labeling tasks, and freeze a checked export of the answers.

Reads candidates. People rank in the browser (`rlhf label serve RUN`); until all slots are filled or a manager closes
the round the stage exits with code 75. Scripted annotators, where the recipe asks for them, answer through the same
calls and are marked as scripted in every record. A ranking file may be imported instead.
Writes rankings.jsonl, export.json (which answers, up to which event) and agreement.json.

    rlhf rankings CONFIG    python -m stages.rankings CONFIG
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import func, select

from rlhf.config.data import RankingsConfig
from rlhf.config.recipe import Config
from rlhf.data.judgements import Columns
from rlhf.entry import Work, begin, stage_main
from rlhf.errors import ConfigError, DataError, WaitingForPeople
from rlhf.gold import load_gold
from rlhf.labels.agreement import Agreement, measure_agreement
from rlhf.labels.bias import measure_bias
from rlhf.labels.exports import ExportManifest, export_rankings, import_rankings
from rlhf.labels.for_people import publish_for_people, require_rankable
from rlhf.labels.priorities import with_own_priorities
from rlhf.labels.publishing import publish, round_status
from rlhf.labels.rounds import store_place, use_server
from rlhf.labels.schema import annotators, answers
from rlhf.labels.scripted import run_scripted
from rlhf.labels.store import Place, Store, open_store
from rlhf.records import CandidateSet, Ranking, read_jsonl

log = logging.getLogger(__name__)


def run(config: Config) -> Path:
    """Publish, collect, check, freeze."""
    with begin("rankings", config) as work:
        sets = read_jsonl(work.file("candidates", "candidates.jsonl"), CandidateSet)
        manifest = _collect(config, work, sets)
        rankings = read_jsonl(work.folder / "rankings.jsonl", Ranking)
        agreement = measure_agreement(rankings, seed=config.seed)
        _require_agreement(config, agreement)
        figures = {"agreement": asdict(agreement), "bias": asdict(measure_bias(sets, rankings, seed=config.seed))}
        (work.folder / "agreement.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
        log.info("%d rankings; pairwise agreement %s", len(rankings), agreement.strict)
        work.draft.splits = ("label",)
        work.draft.facts |= {
            "rankings": manifest.rankings,
            "prompts": manifest.prompts,
            "people": manifest.annotators,
            "annotators": "scripted" if "scripted" in manifest.kinds else "human",
            "kinds": manifest.kinds,
            "event": manifest.event,
            "head_hash": manifest.head_hash,
            "agreement": agreement.strict.value,
        }
        final = work.run.folder("rankings")
    return final


def _collect(config: Config, work: Work, sets: list[CandidateSet]) -> ExportManifest:
    """Publish the candidates, see that they get ranked, and write the export of the answers."""
    imported, number = config.rankings.import_path, work.run.round
    scripted = config.rankings.source == "scripted" and imported is None
    place = _place(config, work)
    if scripted:
        require_rankable(sets)
        _forget_scripts(Path(place))
    with open_store(place, create=True) as store:
        if imported is None and not scripted:
            settings = with_own_priorities(config.rankings, work.run.labels, number)
            publish_for_people(store, sets, settings, round=number, seed=config.seed)
        else:
            publish(store, sets, overlap=config.rankings.overlap, round=number, seed=config.seed)
        if imported is not None:
            done = import_rankings(store, imported, round=number, columns=_columns(config.rankings))
            work.draft.facts |= {"dropped": done.dropped}
        elif scripted:
            _let_scripts_rank(config, store, number)
        else:
            _require_people(config, store, work)
        return export_rankings(store, work.folder, round=number)


def _columns(settings: RankingsConfig) -> Columns:
    return {
        "prompt": settings.prompt_field,
        "responses": settings.responses_field,
        "ranks": settings.ranks_field,
        "scores": settings.scores_field,
        "annotator": settings.annotator_field,
    }


def _place(config: Config, work: Work) -> Place:
    """What scripts or a file answer can be made again and depends on them: it stays out of the people's database."""
    key = work.draft.inputs.key[:12]
    if config.rankings.import_path is not None:
        return work.run.labels / f"imported-{key}.db"
    if config.rankings.source == "scripted":
        return work.run.labels / f"scripted-{key}.db"
    use_server(work.run.labels, config.rankings.database)
    return store_place(work.run.labels)


def _forget_scripts(place: Path) -> None:
    """Remove what scripts answered in an attempt that was cut short: they would take other turns in what is left of it."""
    if not place.exists():
        return
    # An attempt may have ended before the file had tables.
    with open_store(place, create=True) as store, store.reading() as connection:
        query = select(func.count()).select_from(answers.join(annotators)).where(annotators.c.kind != "scripted")
        by_people = connection.execute(query).scalar_one()
    if not by_people:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{place}{suffix}").unlink(missing_ok=True)


def _let_scripts_rank(config: Config, store: Store, number: int) -> None:
    gold = load_gold(config.gold)
    if gold is None:
        raise ConfigError(
            "rankings.source is 'scripted' but gold.scorer is 'none': scripted annotators need a scorer to rank by"
        )
    scripted = config.rankings.scripted
    if scripted.annotators < config.rankings.overlap:
        raise ConfigError(
            f"rankings.scripted.annotators is {scripted.annotators} and rankings.overlap is {config.rankings.overlap}: "
            "one annotator ranks a prompt once, so there must be at least as many as the overlap"
        )
    run_scripted(
        store,
        gold,
        annotators=scripted.annotators,
        agreement=scripted.agreement,
        adversarial=scripted.adversarial / scripted.annotators,
        flip_rate=scripted.flips,
        round=number,
        seed=config.seed,
    )


def _require_people(config: Config, store: Store, work: Work) -> None:
    status = round_status(store, work.run.round)
    if not status.complete:
        raise WaitingForPeople(
            f"{status.tasks} labeling tasks of round {work.run.round} are published, {status.filled} of {status.slots} "
            f"answers are in. Start the labeling app with `rlhf label serve {work.run.root}`, let people rank, then run "
            f"the same command again (or end the round early with `rlhf label close {work.run.root}`)"
        )


def _require_agreement(config: Config, agreement: Agreement) -> None:
    wanted = config.rankings.min_agreement
    if wanted is None:
        return
    found = agreement.strict
    if found.value is None or found.value < wanted:
        raise DataError(
            f"rankings.min_agreement is {wanted}, but the annotators' pairwise agreement is {found}; look at the "
            "disagreements, improve the guidelines and collect more, or lower the threshold"
        )


if __name__ == "__main__":
    stage_main("rankings", run)
