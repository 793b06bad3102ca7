"""Inputs of a report that never ran: plausible numbers, hostile texts."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.evaluation.answers import Answer, PromptAnswers
from rlhf.evaluation.compare import summarise, write_evaluation
from rlhf.report.inputs import ReportInputs
from rlhf.report.summary import build_summary

HOSTILE = '</p><script>alert("x")</script><img src="https://example.org/x.png" onerror=alert(1)>'


def full_inputs(folder: Path, *, gold: bool = True, gain: float = 1.5, sources: Sequence[str] = ()) -> ReportInputs:
    """Write a small set of every input and return it."""
    draw = random.Random(3)
    rows = [_prompt_answers(index, draw, gold=gold, gain=gain) for index in range(40)]
    write_evaluation(summarise(rows, 4), folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    summary = build_summary(
        evaluation,
        step0_kl=1e-9,
        base_hash_unchanged=True,
        export_verified=True,
        annotators="scripted",
        seconds=100.0,
        peak_memory_mb=900.0,
    )
    part = {"max_logit_difference": 1e-6, "greedy_identical": 50, "prompts": 50}
    return ReportInputs(
        name=f"run {HOSTILE}",
        annotators="scripted",
        evaluation=evaluation,
        summary=summary,
        samples=folder / "samples.jsonl",
        metrics=_metrics(folder, sources),
        calibration=_calibration(),
        trust=_trust(),
        agreement=_agreement(),
        verification={"passed": True, "adapter": part, "merged": None},
        manifests=[_manifest("base", {}), _manifest("sft", {"base": "b" * 64}, imported="/home/ann/adapter")],
        config_text="seed: 1",
    )


def _prompt_answers(index: int, draw: random.Random, *, gold: bool, gain: float) -> PromptAnswers:
    def answer(score: float, text: str) -> Answer:
        value = 0.5 + 0.1 * score
        return Answer(
            text,
            score,
            draw.randint(5, 20),
            draw.random() < 0.9,
            value if gold else None,
            {"truth": value} if gold else {},
        )

    sft = tuple(answer(draw.gauss(0, 1), f"answer {copy} {HOSTILE}") for copy in range(4))
    ppo = answer(draw.gauss(gain, 1), f"better {HOSTILE}")
    return PromptAnswers(index, f"p-{index:03d}", f"prompt {index} {HOSTILE}", sft, ppo, abs(draw.gauss(4, 1)), 4.0)


def _metrics(folder: Path, sources: Sequence[str]) -> dict[str, Path]:
    curves = {
        "base": ["base/loss_nats"],
        "sft": ["sft/loss", "sft/held_out_loss"],
        "reward": ["reward/loss_nats", "reward/held_out_loss_nats", "reward/held_out_accuracy"],
        "ppo": [
            f"{group}/{name}"
            for group in ("ppo", "validation")
            for name in ("score_mean", "score_std", "kl_nats", "length_tokens", "eos_rate", *sources)
        ],
    }
    for stage, names in curves.items():
        lines = [
            json.dumps({"step": step} | {name: 1 - math.exp(-step / 9) for name in names}) for step in range(1, 31)
        ]
        (folder / f"{stage}.jsonl").write_text("\n".join(lines) + "\n")
    return {stage: folder / f"{stage}.jsonl" for stage in curves}


def _calibration() -> dict[str, Any]:
    share = {"value": 0.7, "low": 0.66, "high": 0.74, "pairs": 300, "prompts": 50}
    bins = [{"low": 0.5, "high": 0.55, "pairs": 100, "confidence": 0.53, "accuracy": 0.55}]
    return {
        "accuracy": share,
        "longer_wins": share,
        "length_controlled": share,
        "length_matched": {"value": None, "low": None, "high": None, "pairs": 0, "prompts": 0},
        "ece": 0.03,
        "ece_after_temperature": None,
        "temperature": 1.1,
        "bins": bins,
    }


def _trust() -> dict[str, Any]:
    share = {"value": 0.7, "low": 0.66, "high": 0.74, "pairs": 300, "prompts": 50}
    undefined = {"value": None, "low": None, "high": None, "pairs": 0, "prompts": 0}
    people = {f"annotator-{number:02d} {HOSTILE}": share for number in range(14)}
    return {"accuracy_by_annotator": people, "accuracy_by_source": {"policy": share}, "new_annotators": undefined}


def _agreement() -> dict[str, Any]:
    figure = {"value": 0.74, "low": 0.7, "high": 0.78, "n": 60, "unit": "prompts", "reason": ""}
    undefined = {"value": None, "low": None, "high": None, "n": 0, "unit": "prompts", "reason": "nobody ranked twice"}
    return {"strict": figure, "tie_aware": figure, "alpha": figure, "kendalls_w": undefined, "by_annotator": {}}


def _manifest(stage: str, parents: dict[str, str], imported: str | None = None) -> dict[str, Any]:
    recorded = {
        "finished_at": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "peak_memory_mb": 10.0,
        "versions": {"torch": "2"},
    }
    return {
        "stage": stage,
        "round": 1,
        "identity": stage[0] * 64,
        "inputs": {"parents": parents},
        "splits": ["sft"],
        "imported": imported,
        "facts": {"parameters": 5, "folder": "/home/ann/base"},
        "recorded": recorded,
    }
