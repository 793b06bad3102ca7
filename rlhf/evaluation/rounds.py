"""One round after another: the gold of each round's policy on the test prompts that all rounds answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.evaluation.metrics import Estimate, mean_estimate, paired_gain


@dataclass(frozen=True, slots=True)
class RoundGold:
    """What a round's policy is worth.

    Attributes:
        round: Its number.
        gold: Mean gold of its answers.
        gain: Gain over the round before, paired by prompt; None for the first.
        start: Mean gold of the SFT policy on the same prompts, in the evaluation of this round.
    """

    round: int
    gold: Estimate
    gain: Estimate | None
    start: Estimate


def compare_rounds(samples: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[RoundGold]:
    """Compare the policies of several rounds by gold.

    Scores cannot tell: every round has a reward model of its own.

    Args:
        samples: The rows of `samples.jsonl` of each round.

    Returns:
        One entry per round; none where a round has no gold, where there is but one round, or where fewer than two
        prompts are shared.
    """
    golds = {
        number: {row["prompt_id"]: row["golds"] for row in rows if row["golds"]["ppo"] is not None}
        for number, rows in sorted(samples.items())
    }
    shared = sorted(set.intersection(*map(set, golds.values()))) if golds else []
    if len(golds) < 2 or len(shared) < 2:
        return []
    values = {
        name: {number: [of_prompt[prompt][name] for prompt in shared] for number, of_prompt in golds.items()}
        for name in ("sft", "ppo")
    }
    found: list[RoundGold] = []
    for number, own in values["ppo"].items():
        gain = paired_gain(own, values["ppo"][found[-1].round]) if found else None
        found.append(RoundGold(number, mean_estimate(own), gain, mean_estimate(values["sft"][number])))
    return found
