"""What the `rlhf label` commands do: plain functions that return the text to show."""

import secrets
from pathlib import Path

from rlhf.errors import LabelError
from rlhf.labels.accounts import current_guidelines, list_annotators, set_guidelines
from rlhf.labels.agreement import measure_agreement
from rlhf.labels.bias import measure_bias
from rlhf.labels.events import verify
from rlhf.labels.exports import MANIFEST_FILE, RANKINGS_FILE, export_rankings, import_rankings, read_export
from rlhf.labels.publishing import RoundStatus, list_rounds, publish, published_sets, round_status
from rlhf.labels.store import Store, open_store
from rlhf.records import CandidateSet, read_jsonl

DEFAULT_OVERLAP = 2


def init_command(
    database: Path,
    candidates: Path | None = None,
    *,
    overlap: int = DEFAULT_OVERLAP,
    round: int = 0,
    seed: int | None = None,
    guidelines: Path | None = None,
) -> str:
    """Make a label database, or open the one that is there, and publish a candidate file into it.

    Args:
        database: The database file.
        candidates: A candidates.jsonl; without it only the database is made.
        overlap: How many annotators rank each task.
        round: The round's number.
        seed: Seeds task order and display order; drawn where not given.
        guidelines: A Markdown file with what annotators are to look for.

    Raises:
        RlhfError: A file is unusable, or answers would be lost.
    """
    sets = read_jsonl(candidates, CandidateSet, key=lambda item: item.prompt_id) if candidates else []
    text = _read_guidelines(guidelines) if guidelines else None
    lines = [f"{database}: ready"]
    with open_store(database, create=True) as store:
        if text is not None:
            lines.append(f"guidelines: version {set_guidelines(store, text)}")
        if sets:
            seed = secrets.randbelow(2**31) if seed is None else seed
            done = publish(store, sets, overlap=overlap, round=round, seed=seed)
            lines.append(f"round {round}: {done.tasks} tasks ({done.new} new), {done.slots} slots")
    lines.append(f"start the labeling page with `rlhf label serve {database}`")
    return "\n".join(lines)


def import_command(database: Path, rankings: Path, *, round: int = 0) -> str:
    """Take the rankings of a file into a published round."""
    with open_store(database) as store:
        done = import_rankings(store, rankings, round=round)
    return f"{done.rankings} rankings imported, {done.known} known already"


def export_command(database: Path, folder: Path, *, round: int = 0, event: int | None = None) -> str:
    """Write a round's rankings and their manifest into a folder."""
    with open_store(database) as store:
        folder.mkdir(parents=True, exist_ok=True)
        done = export_rankings(store, folder, round=round, event=event)
    kinds = ", ".join(f"{count} {kind}" for kind, count in done.kinds.items()) or "none"
    return (
        f"{folder / RANKINGS_FILE}: {done.rankings} rankings ({kinds}) of {done.prompts} prompts by "
        f"{done.annotators} annotators, as of event {done.event}\n"
        f"{folder / MANIFEST_FILE}: names them; keep it elsewhere, `rlhf label verify --against` compares with it"
    )


def status_command(database: Path) -> str:
    """Return how far each round is, who answered, and whether they agree."""
    lines = [str(database)]
    with open_store(database) as store:
        for round in list_rounds(store):
            lines += _round_lines(round_status(store, round))
            lines += _quality_lines(store, round)
        with store.reading() as connection:
            version, _ = current_guidelines(connection)
        people = list_annotators(store)
    lines.append(f"{len(people)} annotators; guidelines: " + (f"version {version}" if version else "none set"))
    return "\n".join(lines)


def verify_command(database: Path, *, against: Path | None = None) -> str:
    """Walk the hash chain, where given against the manifest of an earlier export.

    Raises:
        LabelError: Something was changed; the message lists what.
    """
    with open_store(database) as store:
        found = verify(store, against)
    if not found.ok:
        shown = "\n".join(f"  {problem}" for problem in found.problems[:20])
        raise LabelError(f"{database}: {len(found.problems)} problems in its history\n{shown}")
    return (
        f"{database}: {found.head.event} events and {found.answers} answers are as they were written\n"
        f"head: event {found.head.event}, {found.head.hash}"
    )


def _round_lines(status: RoundStatus) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(status.answers.items())) or "no"
    state = "complete" if status.complete else f"{status.slots - status.filled} slots to fill"
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


def _read_guidelines(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read as guidelines ({error})") from error
    if not text:
        raise LabelError(f"{path}: the guidelines are empty; write what annotators are to look for")
    return text
