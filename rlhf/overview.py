"""What a run looks like from outside: its status, its summary and report, and what may be thrown away."""

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.artifacts import MANIFEST, Artifact, RunFolder
from rlhf.config.load import dump_config
from rlhf.config.recipe import Config
from rlhf.errors import ArtifactError
from rlhf.labels.rounds import human_answers
from rlhf.stage_graph import needed_stages, stage_states
from rlhf.surroundings import changed_versions

if TYPE_CHECKING:
    from rlhf.evaluation.rounds import RoundGold

log = logging.getLogger(__name__)
SUMMARY, REPORT, SAMPLES = "summary.json", "report.html", "samples.jsonl"


def tell_status(config: Config) -> None:
    """Print one line per stage: its state, why, and what was recorded."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    run = RunFolder.open(config.run)
    table = Table(title=Text(f"{run.root}, round {run.round}"), title_justify="left")
    for heading in ("stage", "state", "seconds", "identity", "why, or what changed around it"):
        table.add_column(heading)
    for state in stage_states(config, run):
        recorded = state.artifact.manifest.recorded if state.artifact else {}
        versions = changed_versions(recorded.get("versions", {}))
        notes = [*state.reasons, *(f"{name} was {old}, is {now}" for name, (old, now) in versions.items())]
        identity = state.artifact.identity[:12] if state.artifact else ""
        cells = (state.stage, state.state, str(recorded.get("seconds", "")), identity, "; ".join(notes))
        table.add_row(*map(Text, cells))
    console = Console(markup=False, emoji=False)
    console.print(table)
    if (holder := run.holder()) is not None:
        console.print(f"process {holder} is working in this folder")
    answers, people = human_answers(run.labels, run.round)
    if answers:
        console.print(f"{answers} answers by {people} people in {run.labels}")


def write_overview(config: Config) -> Path:
    """Write summary.json and report.html of the latest round into the run folder; return the report's path.

    Raises:
        ArtifactError: The run is not finished, or a file that the report shows is damaged; nothing is written then.
    """
    from rlhf.report.page import build_report

    run = RunFolder.open(config.run)
    artifacts = _finished(config, run)
    evaluation = _recorded(artifacts, "evaluate", "evaluation.json")
    assert evaluation is not None, "every run is evaluated"
    rounds = _compare_rounds(run)
    summary = _summary(artifacts, evaluation, rounds)
    report = build_report(_report_inputs(config, run, artifacts, evaluation, summary, rounds), run.root / REPORT)
    (run.root / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return report


def tell_result(config: Config) -> None:
    """Print the summary table, and what one can do next."""
    from rich.console import Console

    from rlhf.report.summary import summary_table

    root = config.run
    console = Console(markup=False, highlight=False, emoji=False)
    console.print()
    console.print(summary_table(json.loads((root / SUMMARY).read_text(encoding="utf-8"))))
    console.print(f"\nreport            {root / REPORT}")
    console.print(f"talk with both    rlhf chat {root}")
    console.print(f"label by hand     rlhf label serve {root}")
    console.print(f"where from        rlhf trace {root}/round-{RunFolder.open(root).round}/export")


def clean(root: Path) -> None:
    """Remove replaced artifacts and interrupted work of a run; answers and finished artifacts stay.

    Raises:
        ArtifactError: The folder is no run.
    """
    if not root.is_dir() or not list(root.glob("round-*")):
        raise ArtifactError(f"{root}: no run folder (it has no round-1)")
    with RunFolder.open(root).lock():
        removed = [*root.glob("round-*/.replaced"), *root.glob("round-*/*.partial")]
        for folder in removed:
            shutil.rmtree(folder)
    log.info("removed %d folders", len(removed))


def _finished(config: Config, run: RunFolder) -> dict[str, Artifact]:
    found = {stage: run.find(stage) for stage in needed_stages(config)}
    missing = [stage for stage, artifact in found.items() if artifact is None]
    if missing:
        raise ArtifactError(f"{run.root}: {', '.join(missing)} not finished yet; `rlhf run` finishes the run")
    return {stage: artifact for stage, artifact in found.items() if artifact is not None}


def _summary(artifacts: dict[str, Artifact], evaluation: dict[str, Any], rounds: "list[RoundGold]") -> dict[str, Any]:
    from rlhf.report.summary import build_summary

    recorded = [artifact.manifest.recorded for artifact in artifacts.values()]
    ppo = artifacts["ppo"].facts
    return build_summary(
        evaluation,
        step0_kl=ppo.get("step0_kl"),
        base_hash_unchanged=bool(ppo.get("base_hash_unchanged")),
        export_verified=artifacts["export"].facts["verified"],
        annotators=artifacts["rankings"].facts["annotators"] if "rankings" in artifacts else "human",
        seconds=round(sum(row["seconds"] for row in recorded), 1),
        peak_memory_mb=max(row["peak_memory_mb"] for row in recorded),
        rounds=rounds,
    )


def _compare_rounds(run: RunFolder) -> "list[RoundGold]":
    """Compare the rounds that are evaluated; a round that was never finished is passed over."""
    from rlhf.evaluation.rounds import compare_rounds
    from rlhf.report.inputs import read_samples

    found = {number: RunFolder(run.root, number).find("evaluate") for number in range(1, run.round + 1)}
    return compare_rounds(
        {number: read_samples(artifact.path / SAMPLES) for number, artifact in found.items() if artifact is not None}
    )


def _recorded(artifacts: dict[str, Artifact], stage: str, name: str) -> dict[str, Any] | None:
    """Return the content of a JSON file if the stage made one, after comparing it with the manifest."""
    from rlhf.report.inputs import read_json

    artifact = artifacts.get(stage)
    return read_json(artifact.checked(name), stage) if artifact and name in artifact.manifest.content else None


def _report_inputs(
    config: Config,
    run: RunFolder,
    artifacts: dict[str, Artifact],
    evaluation: dict[str, Any],
    summary: dict[str, Any],
    rounds: "list[RoundGold]",
) -> Any:
    from rlhf.report.inputs import ReportInputs, read_verification

    figures = _recorded(artifacts, "rankings", "agreement.json")
    verification = artifacts["export"].path / "verification.json"
    return ReportInputs(
        name=config.export.name,
        round=run.round,
        annotators="scripted" if summary["annotators"] == "scripted" else "human",
        evaluation=evaluation,
        summary=summary,
        samples=artifacts["evaluate"].path / SAMPLES,
        metrics={stage: artifacts[stage].path / "metrics.jsonl" for stage in artifacts},
        calibration=_recorded(artifacts, "reward", "calibration.json"),
        trust=_recorded(artifacts, "reward", "trust.json"),
        agreement=figures["agreement"] if figures else None,
        verification=read_verification(verification) if verification.is_file() else None,
        manifests=[json.loads((artifact.path / MANIFEST).read_text("utf-8")) for artifact in artifacts.values()],
        rounds=rounds,
        starts_at_reference=config.ppo.start == config.ppo.reference,
        config_text=dump_config(config),
    )
