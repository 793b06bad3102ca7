"""What a report is made from: plain files and dictionaries that the stages left behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlhf.records import read_rows
from rlhf.tracking import read_metrics

Annotators = Literal["human", "scripted"]


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Everything the page shows; what is None or empty is left out of the page, with a sentence.

    Attributes:
        name: Title of the page.
        round: Labeling round.
        annotators: Who ranked the candidates.
        evaluation: Content of `evaluation.json`.
        summary: Content of `summary.json` (see `rlhf.report.summary`).
        samples: Path of `samples.jsonl`.
        metrics: Path of `metrics.jsonl` by stage (`base`, `sft`, `reward`, `ppo`).
        calibration: What the reward stage measured on held-out pairs.
        agreement: What the pairs stage measured about the annotators.
        verification: Content of `verification.json`.
        manifests: Content of every `manifest.json`, in stage order.
        config_text: The resolved configuration.
    """

    name: str
    round: int = 1
    annotators: Annotators = "human"
    evaluation: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] | None = None
    samples: Path | None = None
    metrics: Mapping[str, Path] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    agreement: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    manifests: Sequence[Mapping[str, Any]] = ()
    config_text: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a figure: values over steps."""

    steps: tuple[float, ...]
    values: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)


def read_series(inputs: ReportInputs, stage: str, name: str) -> Series | None:
    """Return a metric that a stage logged at least twice; None where there is none."""
    path = inputs.metrics.get(stage)
    rows = read_metrics(path) if path is not None else []
    found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    if len(found) < 2:
        return None
    steps, values = zip(*found, strict=True)
    return Series(steps, values)


def read_samples(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Return the rows of `samples.jsonl`; none where the file is absent."""
    if inputs.samples is None or not inputs.samples.is_file():
        return []
    return [row for _, row in read_rows(inputs.samples)]


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file, None where it is absent."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
