"""SFT, best-of-n and the aligned policy side by side on test prompts, with errors that mean something.

Nothing is chosen here: the checkpoint was chosen on validation prompts, and every number below comes from
the same test prompts. "Best of n" takes, of n SFT samples, the one with the highest *proxy* score; it is what the
reward model buys without any training of the policy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlhf.errors import DataError
from rlhf.evaluation.answers import Answer, PromptAnswers
from rlhf.evaluation.metrics import (
    Estimate,
    LengthControl,
    PartGain,
    best_of_n_expectation,
    best_of_n_kl,
    distinct_n,
    gains_by_part,
    length_controlled_gain,
    longer_is_better,
    mean_estimate,
    paired_gain,
    win_rate,
    within_prompt_std,
)

EVALUATION_FILE = "evaluation.json"
SAMPLES_FILE = "samples.jsonl"
CANDIDATES = 4
"""K of the diversity facts: what an annotator would be shown of the SFT policy."""
POLICIES = ("sft", "best_of_n", "ppo")


@dataclass(frozen=True, slots=True)
class PolicyNumbers:
    """Means of one policy over the test prompts.

    `kl_nats` is an estimate for `ppo`, exactly 0 for `sft`, and an upper bound for `best_of_n`.
    """

    score: Estimate
    gold: Estimate | None
    kl_nats: Estimate
    length_tokens: Estimate
    eos_rate: Estimate
    distinct_2: float


@dataclass(frozen=True, slots=True)
class BestOfPoint:
    """Best-of-n for one n: KL bound in nats, expected score and gold (unbiased, from all SFT samples)."""

    n: int
    kl_bound_nats: float
    score: float
    gold: float | None


@dataclass(frozen=True, slots=True)
class CandidateFacts:
    """How much there is to choose from among `samples` SFT answers to one prompt."""

    samples: int
    distinct_texts: float
    three_distinct: float
    well_formed: float | None
    score_std: float | None
    gold_std: float | None
    part_std: dict[str, float | None]
    longer_is_better: Estimate | None
    length_baseline: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one evaluation; `answers` is what they were computed from."""

    prompts: int
    best_of: int
    policies: dict[str, PolicyNumbers]
    score_gain: Estimate
    gold_gain: Estimate | None
    win_rate: Estimate
    win_rate_over_best_of_n: Estimate
    judge: Literal["gold", "score"]
    """What decides a win: the gold where there is one, otherwise the score that PPO was rewarded with."""
    kl_k3: Estimate
    length_controlled: LengthControl | None
    gold_parts: dict[str, PartGain]
    best_of_n_curve: tuple[BestOfPoint, ...]
    candidates: CandidateFacts
    answers: tuple[PromptAnswers, ...] = field(repr=False, default=())

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain JSON, without the answers."""
        return {name: value for name, value in asdict(self).items() if name != "answers"}


def summarise(answers: Sequence[PromptAnswers], best_of: int) -> Evaluation:
    """Compute every figure from the answers; pure.

    Raises:
        DataError: There are fewer than two test prompts, so that no standard error exists.
    """
    if len(answers) < 2:
        raise DataError(
            f"evaluation has {len(answers)} test prompts; it needs at least 2: "
            "raise prompts.count or prompts.shares.test"
        )
    shown = {
        "sft": [row.sft for row in answers],
        "best_of_n": [row.best_of(best_of) for row in answers],
        "ppo": [row.ppo for row in answers],
    }
    kl = mean_estimate([row.kl_k1 for row in answers])
    kls = {
        "sft": Estimate(0.0, 0.0, len(answers)),
        "best_of_n": Estimate(best_of_n_kl(best_of), None, len(answers)),
        "ppo": kl,
    }
    sft, best, ppo = (shown[name] for name in POLICIES)
    judge: Literal["gold", "score"] = "gold" if _golds(sft) is not None else "score"
    gold_before, gold_after = _golds(sft), _golds(ppo)
    gold_gain = paired_gain(gold_after, gold_before) if gold_before is not None and gold_after is not None else None
    return Evaluation(
        prompts=len(answers),
        best_of=best_of,
        policies={name: _policy_numbers(shown[name], kls[name]) for name in POLICIES},
        score_gain=paired_gain(_scores(ppo), _scores(sft)),
        gold_gain=gold_gain,
        win_rate=win_rate(_judged(ppo, judge), _judged(sft, judge)),
        win_rate_over_best_of_n=win_rate(_judged(ppo, judge), _judged(best, judge)),
        judge=judge,
        kl_k3=mean_estimate([row.kl_k3 for row in answers]),
        length_controlled=_length_controlled(sft, ppo, judge),
        gold_parts=gains_by_part([answer.parts for answer in ppo], [answer.parts for answer in sft]),
        best_of_n_curve=best_of_n_curve(answers),
        candidates=candidate_facts(answers),
        answers=tuple(answers),
    )


def best_of_n_curve(answers: Sequence[PromptAnswers]) -> tuple[BestOfPoint, ...]:
    """Return best-of-n for n = 1, 2, 4, ... up to all SFT samples, averaged over prompts."""
    available = min(len(row.sft_samples) for row in answers)
    sizes = sorted({2**power for power in range(available.bit_length())} | {available})
    points = []
    for n in sizes:
        scores = [best_of_n_expectation(_scores(row.sft_samples), _scores(row.sft_samples), n) for row in answers]
        golds = [
            best_of_n_expectation(_scores(row.sft_samples), values, n)
            for row in answers
            if (values := _golds(row.sft_samples)) is not None
        ]
        gold = sum(golds) / len(golds) if golds else None
        points.append(BestOfPoint(n, best_of_n_kl(n), sum(scores) / len(scores), gold))
    return tuple(points)


def candidate_facts(answers: Sequence[PromptAnswers], samples: int = CANDIDATES) -> CandidateFacts:
    """Describe the diversity of the first `samples` SFT answers per prompt."""
    groups = [row.sft_samples[:samples] for row in answers]
    distinct = [len({answer.text for answer in group}) for group in groups]
    formed = [answer.well_formed for group in groups for answer in group if answer.well_formed is not None]
    golds = [values for group in groups if (values := _golds(group)) is not None]
    lengths = [[answer.tokens for answer in group] for group in groups]
    longer = longer_is_better(lengths, golds) if golds else None
    return CandidateFacts(
        samples=samples,
        distinct_texts=sum(distinct) / len(distinct),
        three_distinct=sum(count >= 3 for count in distinct) / len(distinct),
        well_formed=sum(formed) / len(formed) if formed else None,
        score_std=within_prompt_std([_scores(group) for group in groups]),
        gold_std=within_prompt_std(golds),
        part_std={
            name: within_prompt_std([[answer.parts[name] for answer in group] for group in groups])
            for name in groups[0][0].parts
        },
        longer_is_better=longer,
        length_baseline=max(longer.value, 1 - longer.value) if longer else None,
    )


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write `evaluation.json` (figures) and `samples.jsonl` (texts of every test prompt)."""
    figures = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / EVALUATION_FILE).write_text(figures + "\n", encoding="utf-8")
    with (folder / SAMPLES_FILE).open("w", encoding="utf-8") as file:
        for row in evaluation.answers:
            file.write(json.dumps(row.to_row(evaluation.best_of), ensure_ascii=False) + "\n")


def table_rows(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the table of the policies as text cells, from the content of `evaluation.json`."""
    titles = {"sft": "SFT", "best_of_n": f"best of {figures['best_of']}", "ppo": "PPO"}
    return [_table_row(titles[name], figures["policies"][name], bound=name == "best_of_n") for name in POLICIES]


def show_estimate(estimate: Mapping[str, Any] | None, digits: int = 2, *, bound: bool = False) -> str:
    """Return `value ± standard error`, `≤ value` for a bound, or a dash where there is nothing."""
    if estimate is None:
        return "–"
    value = f"{estimate['value']:.{digits}f}"
    if bound:
        return f"≤ {value}"
    return f"{value} ± {estimate['error']:.{digits}f}" if estimate["error"] else value


def _table_row(title: str, numbers: Mapping[str, Any], *, bound: bool) -> dict[str, str]:
    return {
        "policy": title,
        "score": show_estimate(numbers["score"]),
        "gold": show_estimate(numbers["gold"], 3),
        "KL (nats)": show_estimate(numbers["kl_nats"], bound=bound),
        "length (tokens)": show_estimate(numbers["length_tokens"], 1),
        "ended": f"{numbers['eos_rate']['value']:.0%}",
        "distinct-2": f"{numbers['distinct_2']:.3f}",
    }


def _policy_numbers(answers: Sequence[Answer], kl: Estimate) -> PolicyNumbers:
    golds = _golds(answers)
    return PolicyNumbers(
        score=mean_estimate(_scores(answers)),
        gold=mean_estimate(golds) if golds is not None else None,
        kl_nats=kl,
        length_tokens=mean_estimate([answer.tokens for answer in answers]),
        eos_rate=mean_estimate([float(answer.ended) for answer in answers]),
        distinct_2=distinct_n([answer.text for answer in answers], 2),
    )


def _length_controlled(before: Sequence[Answer], after: Sequence[Answer], judge: str) -> LengthControl | None:
    gains = [new - old for new, old in zip(_judged(after, judge), _judged(before, judge), strict=True)]
    return length_controlled_gain(gains, [new.tokens - old.tokens for new, old in zip(after, before, strict=True)])


def _scores(answers: Sequence[Answer]) -> list[float]:
    return [answer.score for answer in answers]


def _golds(answers: Sequence[Answer]) -> list[float] | None:
    golds = [answer.gold for answer in answers if answer.gold is not None]
    assert len(golds) in (0, len(answers)), f"{len(golds)} of {len(answers)} answers have a gold"
    return golds or None


def _judged(answers: Sequence[Answer], judge: str) -> list[float]:
    golds = _golds(answers) if judge == "gold" else None
    return golds if golds is not None else _scores(answers)
