"""What the policies answered on test prompts, with every judgement of it: the raw material of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.records import PromptText, prompt_to_json


@dataclass(frozen=True, slots=True)
class Answer:
    """One response with its score, gold (None without a gold scorer) and length.

    `tokens` counts the end token where the response has one; `ended` says whether it does.
    """

    text: str
    score: float
    tokens: int
    ended: bool
    gold: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    well_formed: bool | None = None


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """All answers to one test prompt: N of the SFT policy, one of the aligned policy.

    `kl_k1` and `kl_k3` are the two estimates of the policy's KL to the reference on this prompt, in nats.
    """

    index: int
    prompt_id: str
    prompt: PromptText
    sft_samples: tuple[Answer, ...]
    ppo: Answer
    kl_k1: float
    kl_k3: float

    @property
    def sft(self) -> Answer:
        """The SFT policy's answer: its first sample."""
        return self.sft_samples[0]

    def best_of(self, n: int) -> Answer:
        """Return the first of the highest-scoring among the first n SFT samples."""
        return max(self.sft_samples[:n], key=lambda answer: answer.score)

    def to_row(self, n: int) -> dict[str, Any]:
        """Return the JSON row of `samples.jsonl`: the three texts side by side with scores and golds."""
        shown = {"sft": self.sft, "best_of_n": self.best_of(n), "ppo": self.ppo}
        return {
            "prompt_id": self.prompt_id,
            "prompt": prompt_to_json(self.prompt),
            **{name: answer.text for name, answer in shown.items()},
            "scores": {name: answer.score for name, answer in shown.items()},
            "golds": {name: answer.gold for name, answer in shown.items()},
            "kl_nats": self.kl_k1,
        }
