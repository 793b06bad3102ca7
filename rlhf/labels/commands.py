"""What the `rlhf label` commands do: plain functions that return the text to show."""

import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf.config.data import RankingsConfig
from rlhf.data.judgements import Columns
from rlhf.errors import LabelError
from rlhf.labels.accounts import current_guidelines, list_annotators, set_guidelines
from rlhf.labels.agreement import measure_agreement
from rlhf.labels.backup import back_up
from rlhf.labels.bias import measure_bias
from rlhf.labels.erasure import delete_answers, erase_person, find_annotator, select_answers
from rlhf.labels.events import verify
from rlhf.labels.exports import MANIFEST_FILE, RANKINGS_FILE, export_rankings, import_rankings, read_export
from rlhf.labels.for_people import publish_for_people, read_guidelines
from rlhf.labels.publishing import (
    RoundStatus,
    close_round,
    find_round,
    list_rounds,
    published_sets,
    round_row,
    round_status,
)
from rlhf.labels.store import Place, Store, open_store
from rlhf.records import CandidateSet, read_jsonl

DEFAULT_OVERLAP = 2


def init_command(
    place: Place,
    candidates: Path | None = None,
    *,
    settings: RankingsConfig | None = None,
    round: int | None = None,
    seed: int | None = None,
) -> str:
    """Make a label database, or open the one that is there, and publish a candidate file into it.

    Args:
        place: The database.
        candidates: A candidates.jsonl; without it only the database is made.
        settings: How the round is given out, and the files beside it; a `rankings` section.
        round: The round's number; without it the latest, or 1.
        seed: Seeds task order and display order; that of the round, or else drawn, where not given.

    Raises:
        RlhfError: A file is unusable, or answers would be lost.
    """
    settings = settings or RankingsConfig(overlap=DEFAULT_OVERLAP)
    sets = read_jsonl(candidates, CandidateSet, key=lambda item: item.prompt_id) if candidates else []
    with _new_or_open(place) as store:
        lines = [f"{store.place}: ready"]
        if sets:
            round = max(list_rounds(store), default=1) if round is None else round
            done = publish_for_people(store, sets, settings, round=round, seed=_seed(store, round, seed))
            lines.append(f"round {round}: {done.tasks} tasks ({done.new} new), {done.slots} slots")
        elif settings.guidelines:
            set_guidelines(store, read_guidelines(settings.guidelines))
        with store.reading() as connection:
            version, _ = current_guidelines(connection)
        if version:
            lines.append(f"guidelines: version {version}")
        lines.append(f"start the labeling page with `rlhf label serve {store.place}`")
    return "\n".join(lines)


@contextmanager
def _new_or_open(place: Place) -> Generator[Store, None, None]:
    """Open a store; one that was made for this leaves nothing behind where what follows fails."""
    new = isinstance(place, Path) and not place.exists()
    try:
        with open_store(place, create=True) as store:
            yield store
    except BaseException:
        if isinstance(place, Path) and new:
            for path in place.parent.glob(f"{place.name}*"):
                if path.name in (place.name, f"{place.name}-wal", f"{place.name}-shm", f"{place.name}-journal"):
                    path.unlink()
        raise


def _seed(store: Store, round: int, wanted: int | None) -> int:
    with store.reading() as connection:
        settings = round_row(connection, round)
    if wanted is not None:
        return wanted
    return secrets.randbelow(2**31) if settings is None else settings.seed


def import_command(place: Place, rankings: Path, *, round: int | None = None, columns: Columns | None = None) -> str:
    """Take the rankings of a file into a published round; without a number, the latest.

    Args:
        place: The database.
        rankings: The file: JSONL, JSON, CSV, Parquet.
        round: The round's number.
        columns: Other names of its columns.
    """
    with open_store(place) as store:
        round = find_round(store, round)
        done = import_rankings(store, rankings, round=round, columns=columns)
    left_out = "".join(f", {count} left out ({reason})" for reason, count in done.dropped.items())
    return f"round {round}: {done.rankings} rankings imported, {done.known} known already{left_out}"


def close_command(place: Place, *, round: int | None = None) -> str:
    """End a round before all slots are filled; without a number, the latest."""
    with open_store(place) as store:
        round = find_round(store, round)
        closed = close_round(store, round)
    return f"closed {closed} open tasks of round {round}; `rlhf run` goes on with the answers there are"


def export_command(place: Place, folder: Path, *, round: int | None = None, event: int | None = None) -> str:
    """Write a round's rankings and their manifest into a folder; without a number, of the latest round."""
    with open_store(place) as store:
        round = find_round(store, round)
        folder.mkdir(parents=True, exist_ok=True)
        done = export_rankings(store, folder, round=round, event=event)
    kinds = ", ".join(f"{count} {kind}" for kind, count in done.kinds.items()) or "none"
    return (
        f"{folder / RANKINGS_FILE}: {done.rankings} rankings ({kinds}) of {done.prompts} prompts of round {round} by "
        f"{done.annotators} annotators, as of event {done.event}\n"
        f"{folder / MANIFEST_FILE}: names them; keep it elsewhere, `rlhf label verify --against` compares with it"
    )


def status_command(place: Place) -> str:
    """Return how far each round is, who answered, and whether they agree."""
    lines = [str(place)]
    with open_store(place) as store:
        for round in list_rounds(store):
            lines += _round_lines(round_status(store, round))
            lines += _quality_lines(store, round)
        with store.reading() as connection:
            version, _ = current_guidelines(connection)
        people = list_annotators(store)
    lines.append(f"{len(people)} annotators; guidelines: " + (f"version {version}" if version else "none set"))
    return "\n".join(lines)


def verify_command(place: Place, *, against: Path | None = None) -> str:
    """Walk the hash chain, where given against the manifest of an earlier export.

    Raises:
        LabelError: Something was changed; the message lists what.
    """
    with open_store(place) as store:
        found = verify(store, against)
    if not found.ok:
        shown = "\n".join(f"  {problem}" for problem in found.problems[:20])
        raise LabelError(f"{place}: {len(found.problems)} problems in its history\n{shown}")
    return (
        f"{place}: {found.head.event} events and {found.answers} answers are as they were written\n"
        f"head: event {found.head.event}, {found.head.hash}"
    )


def backup_command(place: Place, target: Place) -> str:
    """Copy the whole store while people work."""
    with open_store(place) as store:
        done = back_up(store, target)
    shown = target if isinstance(target, Path) else target.split("@")[-1]
    return f"{shown}: {done.answers} answers, checked; head: event {done.head.event}, {done.head.hash}"


def erase_command(place: Place, name: str, *, confirmed: bool) -> str:
    """Remove a person's name and words; without confirmation, say what that would be."""
    with open_store(place) as store:
        person = find_annotator(store, name)
        if not confirmed:
            raise LabelError(
                f"this removes the name, sessions, drafts, comments and better answers of {person.pseudonym} for good; the "
                "rankings stay, under the pseudonym. Add --yes to do it"
            )
        admins = [one.id for one in list_annotators(store, "human") if one.role == "admin" and one.active]
        if admins == [person.id]:
            raise LabelError(f"{person.pseudonym} is the only admin; give somebody else that role first")
        done = erase_person(store, person)
    old = sorted(place.parent.glob(f"{place.name}.version-*")) if isinstance(place, Path) else []
    lines = [f"{done.pseudonym}: {done.texts} texts and {done.drafts} drafts erased, {done.answers} answers stay"]
    lines += [f"{path}: this earlier copy is as it was; delete it yourself" for path in old]
    return "\n".join(lines)


def delete_command(
    place: Place,
    *,
    answer_ids: Sequence[int] = (),
    annotator: str | None = None,
    round: int | None = None,
    why: str = "",
    confirmed: bool = False,
) -> str:
    """Let answers count no more; without confirmation, say which those would be.

    Raises:
        LabelError: Nothing is selected, or it is not confirmed.
    """
    if not answer_ids and annotator is None and round is None:
        raise LabelError("say which answers: --answer, --annotator or --round, or several of them")
    with open_store(place) as store:
        if round is not None:
            find_round(store, round)
        owner = find_annotator(store, annotator).id if annotator else None
        with store.transaction() as connection:
            rows = select_answers(connection, annotator_id=owner, answer_ids=answer_ids, round=round)
            missing = set(answer_ids) - {row.id for row in rows}
            if missing:
                names = ", ".join(f"a-{number}" for number in sorted(missing))
                raise LabelError(f"{store.place}: {names}: no answer that counts now and fits; nothing was deleted")
            if not confirmed:
                raise LabelError(
                    f"this deletes {len(rows)} answers of {len({row.annotator_id for row in rows})} annotators; their tasks "
                    "are given out again. Add --yes to do it"
                )
            count = delete_answers(store, rows, why)
    return f"{count} answers count no more"


def _round_lines(status: RoundStatus) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(status.answers.items())) or "no"
    state = (
        "complete"
        if status.filled == status.slots
        else "closed"
        if status.complete
        else f"{status.slots - status.filled} slots to fill"
    )
    return [
        f"round {status.round}: {status.tasks} tasks, {status.filled} of {status.slots} slots filled, {state}",
        f"  {kinds} rankings, {status.skipped} skips, {status.surplus} surplus, {status.leased} being worked on",
    ]


def _quality_lines(store: Store, round: int) -> list[str]:
    rankings, _ = read_export(store, round=round)
    figures = measure_agreement(rankings)
    bias = measure_bias(published_sets(store, round), rankings)
    return [
        f"  agreement, strict pairs   {figures.strict}",
        f"  agreement, with ties      {figures.tie_aware}",
        f"  Krippendorff's alpha      {figures.alpha}",
        f"  Kendall's W               {figures.kendalls_w}",
        f"  first shown wins          {bias.first_wins}",
        f"  longer wins               {bias.longer_wins}",
    ]
