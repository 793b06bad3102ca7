"""What a report is made from: plain files and dictionaries that the stages left behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from rlhf.errors import ArtifactError, DataError
from rlhf.evaluation.rounds import RoundGold
from rlhf.jsonl import read_rows
from rlhf.records import parse_prompt
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
        trust: Its accuracy by annotator and source, on held-out prompts that were ranked.
        agreement: What the pairs stage measured about the annotators.
        verification: Content of `verification.json`.
        manifests: Content of every `manifest.json`, in stage order.
        rounds: Gold of all rounds, where there are several.
        starts_at_reference: Whether PPO began with the policy that its KL is measured against.
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
    trust: Mapping[str, Any] | None = None
    agreement: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    manifests: Sequence[Mapping[str, Any]] = ()
    rounds: Sequence[RoundGold] = ()
    starts_at_reference: bool = True
    config_text: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a figure: values over steps."""

    steps: tuple[float, ...]
    values: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)


def read_series(inputs: ReportInputs, stage: str, name: str) -> Series | None:
    """Return a metric that a stage logged at least twice; None where there is none.

    Raises:
        ArtifactError: The metrics file is damaged.
    """
    path = inputs.metrics.get(stage)
    rows = _metric_rows(path, stage) if path is not None else []
    found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    if len(found) < 2:
        return None
    steps, values = zip(*found, strict=True)
    return Series(steps, values)


def metric_names(inputs: ReportInputs, stage: str, prefix: str) -> list[str]:
    """Return the names that a stage logged and that start so, in the order of the file.

    Raises:
        ArtifactError: The metrics file is damaged.
    """
    path = inputs.metrics.get(stage)
    rows = _metric_rows(path, stage) if path is not None else []
    return list(dict.fromkeys(name for row in rows for name in row if name.startswith(prefix)))


def _metric_rows(path: Path, stage: str) -> list[dict[str, float]]:
    try:
        rows = read_metrics(path)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, stage, str(error)) from error
    for number, row in enumerate(cast(list[Any], rows), start=1):
        if not isinstance(row, dict) or not isinstance(cast(dict[str, Any], row).get("step"), (int, float)):
            raise _damaged(path, stage, f"line {number} is no record with a step")
    return rows


def read_samples(path: Path | None) -> list[dict[str, Any]]:
    """Return the rows of a `samples.jsonl`; none where the file is absent.

    Raises:
        ArtifactError: The file is damaged.
    """
    if path is None or not path.is_file():
        return []
    try:
        rows = list(read_rows(path))
    except DataError as error:
        raise _damaged(path, "evaluate", str(error)) from error
    for number, row in rows:
        if not _is_sample(row):
            raise _damaged(path, "evaluate", f"line {number} is no prompt with the texts and scores of three policies")
    return [row for _, row in rows]


def _is_sample(row: Any) -> bool:
    policies = ("sft", "best_of_n", "ppo")
    try:
        texts = (row["prompt_id"], *(row[name] for name in policies))
        scores = [row["scores"][name] for name in policies]
        golds = [row["golds"][name] for name in policies]
        parse_prompt(row["prompt"])
    except (LookupError, TypeError, DataError):
        return False
    judged = scores + [gold for gold in golds if gold is not None]
    return all(isinstance(text, str) for text in texts) and all(isinstance(value, (int, float)) for value in judged)


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Return the content of a JSON file that a stage wrote.

    Raises:
        ArtifactError: It is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, stage, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, stage, f"expected a JSON object, found {type(content).__name__}")
    return cast(dict[str, Any], content)


def read_verification(path: Path) -> dict[str, Any]:
    """Return the content of `verification.json`, which whoever checks the export again writes anew.

    Raises:
        ArtifactError: It is damaged.
    """
    content = read_json(path, "export")
    figures = ("max_logit_difference", "greedy_identical", "prompts")
    try:
        whole = isinstance(content["passed"], bool) and all(
            isinstance(content[part][name], (int, float))
            for part in ("adapter", "merged")
            if content[part] is not None
            for name in figures
        )
    except (LookupError, TypeError):
        whole = False
    if not whole:
        raise _damaged(path, "export", "it is not what verify.py writes")
    return content


def _damaged(path: Path, stage: str, problem: str) -> ArtifactError:
    return ArtifactError(f"{path}: damaged ({problem}); run the stage again: `rlhf {stage} RECIPE`")
