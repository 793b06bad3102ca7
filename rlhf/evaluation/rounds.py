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
    """

    round: int
    gold: Estimate
    gain: Estimate | None


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
        number: {row["prompt_id"]: row["golds"]["ppo"] for row in rows if row["golds"]["ppo"] is not None}
        for number, rows in sorted(samples.items())
    }
    shared = sorted(set.intersection(*map(set, golds.values()))) if golds else []
    if len(golds) < 2 or len(shared) < 2:
        return []
    values = {number: [of_prompt[prompt] for prompt in shared] for number, of_prompt in golds.items()}
    found: list[RoundGold] = []
    for number, own in values.items():
        gain = paired_gain(own, values[found[-1].round]) if found else None
        found.append(RoundGold(number, mean_estimate(own), gain))
    return found
