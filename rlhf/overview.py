"""What a run looks like from outside: its status, its summary and report, and what may be thrown away."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from rlhf.artifacts import Artifact, RunFolder
from rlhf.config.load import dump_config
from rlhf.config.recipe import Config
from rlhf.errors import ArtifactError
from rlhf.labels.rounds import human_answers
from rlhf.stage_graph import needed_stages, stage_states
from rlhf.surroundings import changed_versions

log = logging.getLogger(__name__)
SUMMARY, REPORT = "summary.json", "report.html"


def tell_status(config: Config) -> None:
    """Print one line per stage: its state, why, and what was recorded."""
    from rich.console import Console
    from rich.table import Table

    run = RunFolder.open(config.run)
    table = Table(title=f"{run.root}, round {run.round}", title_justify="left")
    for heading in ("stage", "state", "seconds", "identity", "why, or what changed around it"):
        table.add_column(heading)
    for state in stage_states(config, run):
        recorded = state.artifact.manifest.recorded if state.artifact else {}
        versions = changed_versions(recorded.get("versions", {}))
        notes = [*state.reasons, *(f"{name} was {old}, is {now}" for name, (old, now) in versions.items())]
        identity = state.artifact.identity[:12] if state.artifact else ""
        table.add_row(state.stage, state.state, str(recorded.get("seconds", "")), identity, "; ".join(notes))
    console = Console()
    console.print(table)
    if (holder := run.holder()) is not None:
        console.print(f"process {holder} is working in this folder")
    answers, people = human_answers(run.labels, run.round)
    if answers:
        console.print(f"{answers} answers by {people} people in {run.labels}")


def write_overview(config: Config) -> Path:
    """Write summary.json and report.html of the latest round into the run folder; return the report's path.

    Raises:
        ArtifactError: The run is not finished.
    """
    from rlhf.report.page import build_report

    run = RunFolder.open(config.run)
    artifacts = _finished(config, run)
    summary = _summary(artifacts)
    (run.root / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return build_report(_report_inputs(config, run, artifacts, summary), run.root / REPORT)


def tell_result(config: Config) -> None:
    """Print the summary table, and what one can do next."""
    from rich.console import Console

    from rlhf.report.summary import summary_table

    root = config.run
    console = Console()
    console.print()
    console.print(summary_table(json.loads((root / SUMMARY).read_text(encoding="utf-8"))))
    console.print(f"\nreport            {root / REPORT}", highlight=False)
    console.print(f"talk with both    rlhf chat {root}", highlight=False)
    console.print(f"label by hand     rlhf label serve {root}", highlight=False)
    console.print(f"where from        rlhf trace {root}/round-{RunFolder.open(root).round}/export", highlight=False)


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


def _summary(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    from rlhf.report.summary import build_summary

    evaluation = json.loads(artifacts["evaluate"].file("evaluation.json").read_text(encoding="utf-8"))
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
    )


def _report_inputs(config: Config, run: RunFolder, artifacts: dict[str, Artifact], summary: dict[str, Any]) -> Any:
    from rlhf.report.inputs import ReportInputs, read_json

    def read(stage: str, name: str) -> dict[str, Any] | None:
        return read_json(artifacts[stage].path / name) if stage in artifacts else None

    figures = read("rankings", "agreement.json")
    return ReportInputs(
        name=config.export.name,
        round=run.round,
        annotators="scripted" if summary["annotators"] == "scripted" else "human",
        evaluation=read("evaluate", "evaluation.json"),
        summary=summary,
        samples=artifacts["evaluate"].path / "samples.jsonl",
        metrics={stage: artifacts[stage].path / "metrics.jsonl" for stage in artifacts},
        calibration=read("reward", "calibration.json"),
        agreement=figures["agreement"] if figures else None,
        verification=read("export", "verification.json"),
        manifests=[json.loads((artifact.path / "manifest.json").read_text()) for artifact in artifacts.values()],
        config_text=dump_config(config),
    )
