"""What a response is scored by: a weighted sum of sources, as the `score` section says.

    score = w_reward * reward role + sum_i w_i * classifier_i + sum_j w_j * function_j
            - w_length * max(0, response tokens - free_tokens)

The reward role's scores are normalised already (mean 0, standard deviation 1 on SFT samples). A classifier's are
(raw - mean) / std, with constants from the recipe, or measured on the same kind of samples, once, and kept beside the
policy in `score.json`. A function's scores are taken as they are: its author knows their scale.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.config.score import LengthConfig, ScoreConfig
from rlhf.errors import ArtifactError, ConfigError, TrainingError
from rlhf.hashing import hash_file, hash_value
from rlhf.models.roles import SharedBase
from rlhf.records import Prompt, PromptText
from rlhf.reward.calibration import normalisation
from rlhf.reward.external import load_classifier
from rlhf.reward.functions import call_function, load_function, source_file
from rlhf.reward.model import RewardInfo, score_ids
from rlhf.reward.own_base import load_own_reward
from rlhf.text import TextFormat

SCORE_FILE = "score.json"


@dataclass(frozen=True)
class Responses:
    """Responses to score, as token ids and, where a source reads text, as text."""

    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    prompts: list[PromptText] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scores:
    """Scores of a batch of responses.

    Attributes:
        total: The weighted sum.
        parts: What each source gave, before its weight; empty where a lone source of weight 1 is the sum.
    """

    total: Float[Tensor, " batch"]
    parts: dict[str, Float[Tensor, " batch"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """One source of scores.

    Attributes:
        name: Its name in numbers and files.
        weight: Its weight in the sum.
        raw: Scores of responses, before they are normalised.
        facts: What identifies it beside name, weight and scale.
        reads_text: Whether it needs texts, or token ids alone.
        mean: Subtracted from raw scores; None is not measured yet.
        std: Divides what is left.
    """

    name: str
    weight: float
    raw: Callable[[Responses], Sequence[float]]
    facts: dict[str, Any] = field(default_factory=dict)
    reads_text: bool = False
    mean: float | None = 0.0
    std: float | None = 1.0

    def score(self, responses: Responses) -> list[float]:
        """Return normalised scores."""
        assert self.mean is not None, f"{self.name}: no mean yet"
        assert self.std is not None, f"{self.name}: no standard deviation yet"
        return [(raw - self.mean) / self.std for raw in self.raw(responses)]

    def describe(self) -> dict[str, Any]:
        """Return everything that decides its share of a score."""
        return {"name": self.name, "weight": self.weight, "mean": self.mean, "std": self.std, **self.facts}


class ScoreSum:
    """Scores (prompt, response) token ids by the weighted sum of all sources."""

    def __init__(self, sources: Sequence[Source], text: TextFormat, prompts: Iterable[Prompt]) -> None:
        """Keep the texts of the prompts that will be asked, if a source reads text."""
        self.sources = tuple(sources)
        self._text, self._prompts = text, list(prompts)
        needed = any(source.reads_text for source in sources)
        self._by_ids = {tuple(text.encode_prompt(row.prompt)): row.prompt for row in self._prompts} if needed else {}

    @property
    def is_reward_alone(self) -> bool:
        """Whether the sum is nothing but the reward role's score."""
        return [(source.name, source.weight) for source in self.sources] == [("reward", 1.0)]

    @property
    def identity(self) -> str | None:
        """Hash of all that decides a score, the weights of the reward role apart; None for the reward role alone."""
        return None if self.is_reward_alone else hash_value(self.describe())

    @property
    def unmeasured(self) -> list[str]:
        """Names of the sources whose scale is not known yet."""
        return [source.name for source in self.sources if source.std is None]

    def describe(self) -> list[dict[str, Any]]:
        """Return everything that decides a score, source by source."""
        return [source.describe() for source in self.sources]

    def __call__(self, prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Scores:
        """Return the scores of whole responses, end token included.

        Raises:
            DataError: A function failed, or did not return one finite number for each response.
        """
        responses = self._responses(prompt_ids, response_ids)
        found = [source.score(responses) for source in self.sources]
        total = [
            sum(source.weight * value for source, value in zip(self.sources, values, strict=True))
            for values in zip(*found, strict=True)
        ]
        if len(self.sources) == 1 and self.sources[0].weight == 1.0:
            return Scores(_column(total))
        named = zip(self.sources, found, strict=True)
        return Scores(_column(total), {source.name: _column(values) for source, values in named})

    def measured_on(self, prompt_ids: list[list[int]], response_ids: list[list[int]]) -> "ScoreSum":
        """Return the sum with the scale of each source that has none yet: mean 0, deviation 1 on these responses.

        Raises:
            TrainingError: A classifier gives all of them the same score, or one that is not finite.
        """
        responses = self._responses(prompt_ids, response_ids)
        scales: dict[str, tuple[float, float]] = {}
        for source in self.sources:
            if source.std is None:
                try:
                    scales[source.name] = normalisation(source.raw(responses))
                except TrainingError as error:
                    raise TrainingError(
                        f"score.classifiers.{source.name}: its {len(response_ids)} scores of SFT responses are all the "
                        "same or not finite, so that they have no scale; use another classifier, or give mean and std"
                    ) from error
        return self._with_scales(scales)

    def write(self, folder: Path) -> None:
        """Write `score.json` into a policy's folder, unless the reward role alone is the sum."""
        if not self.is_reward_alone:
            content = json.dumps({"sources": self.describe()}, indent=2, ensure_ascii=False, allow_nan=False)
            (folder / SCORE_FILE).write_text(content + "\n", encoding="utf-8")

    def as_recorded(self, folder: Path) -> "ScoreSum":
        """Return the sum with the scales that `score.json` in a policy's folder holds, if there is one.

        Raises:
            ArtifactError: The file is damaged, or the policy was trained on another sum.
        """
        path = folder / SCORE_FILE
        if not path.is_file() and self.is_reward_alone:
            return self
        then = {row["name"]: row for row in (read_score_file(path) if path.is_file() else [])}
        scales = {name: (then[name]["mean"], then[name]["std"]) for name in self.unmeasured if name in then}
        found = self._with_scales(scales)
        now = {row["name"]: row for row in found.describe()}
        changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        if changed:
            raise ArtifactError(
                f"{folder}: this policy was trained on other score sources than the recipe names now "
                f"({', '.join(changed)} changed); put them back, or run ppo again"
            )
        return found

    def require_scales(self) -> None:
        """Refuse a sum whose classifiers have no scale.

        Raises:
            ConfigError: Names them.
        """
        if self.unmeasured:
            raise ConfigError(
                f"score.classifiers.{self.unmeasured[0]}: an imported policy brings no scale of its scores; give mean "
                "and std (the `score.json` of a trained policy has them)"
            )

    def _with_scales(self, scales: dict[str, tuple[float, float]]) -> "ScoreSum":
        kept = [
            dataclasses.replace(source, mean=scales[source.name][0], std=scales[source.name][1])
            if source.name in scales
            else source
            for source in self.sources
        ]
        return ScoreSum(kept, self._text, self._prompts)

    def _responses(self, prompt_ids: list[list[int]], response_ids: list[list[int]]) -> Responses:
        if not self._by_ids:
            return Responses(prompt_ids, response_ids)
        prompts = [self._by_ids[tuple(ids)] for ids in prompt_ids]
        return Responses(prompt_ids, response_ids, prompts, [self._text.decode_response(ids) for ids in response_ids])


def _column(values: Sequence[float]) -> Float[Tensor, " batch"]:
    return torch.tensor(values, dtype=torch.float64)


def read_score_file(path: Path) -> list[dict[str, Any]]:
    """Read the sources that a policy was trained on.

    Raises:
        ArtifactError: The file is damaged.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["sources"]
        if all({"name", "weight", "mean", "std"} <= row.keys() for row in rows):
            return rows
        problem = "a source lacks a field"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = str(error)
    raise ArtifactError(f"{path}: damaged ({problem}); run ppo again")


def build_score(
    config: ScoreConfig,
    shared: SharedBase,
    text: TextFormat,
    info: RewardInfo | None,
    prompts: Iterable[Prompt],
    batch_size: int,
    precision: Literal["fp32", "bf16"],
    reward_folder: Path | None = None,
) -> ScoreSum:
    """Load every source that the recipe names.

    Args:
        config: The `score` section.
        shared: The base; it carries the role `reward` where that has a weight and no base of its own.
        text: Prompt format and end tokens.
        info: Of the reward model; None where it has no weight.
        prompts: All prompts whose responses will be scored.
        batch_size: Responses per forward pass.
        precision: Number format of classifiers.
        reward_folder: The reward model's folder, read where it has a base of its own.

    Raises:
        ArtifactError: A classifier's weights are not usable.
        ConfigError: A classifier or a function cannot be found.
    """
    sources: list[Source] = []
    if info is not None and info.has_own_base:
        assert reward_folder is not None, "a reward model with a base of its own is loaded from its folder"
        sources.append(_own_reward_source(config.reward, reward_folder, info, batch_size, precision))
    elif info is not None:
        sources.append(_reward_source(config.reward, shared, text, info, batch_size))
    sources += [_classifier_source(name, config, batch_size, precision) for name in config.classifiers]
    sources += [_function_source(name, config) for name in config.functions]
    if config.length.weight:
        sources.append(_length_source(config.length))
    return ScoreSum(sources, text, prompts)


def _reward_source(weight: float, shared: SharedBase, text: TextFormat, info: RewardInfo, batch_size: int) -> Source:
    def raw(responses: Responses) -> list[float]:
        items = list(zip(responses.prompt_ids, responses.response_ids, strict=True))
        return score_ids(shared, text, info, items, batch_size)

    return Source("reward", weight, raw)


def _own_reward_source(
    weight: float, folder: Path, info: RewardInfo, batch_size: int, precision: Literal["fp32", "bf16"]
) -> Source:
    classifier = load_own_reward(folder, precision)

    def raw(responses: Responses) -> list[float]:
        return [info.normalise([one]) for one in classifier.score(responses.prompts, responses.texts, batch_size)]

    return Source("reward", weight, raw, reads_text=True)


def _classifier_source(name: str, config: ScoreConfig, batch_size: int, precision: Literal["fp32", "bf16"]) -> Source:
    own = config.classifiers[name]
    classifier = load_classifier(name, own, precision)
    return Source(
        name,
        own.weight,
        lambda responses: classifier.score(responses.prompts, responses.texts, batch_size),
        # The last part of a path: shared files name no one's folders.
        {"classifier": Path(own.model).name, "label": own.label, "weights_hash": classifier.weights_hash},
        reads_text=True,
        mean=own.mean,
        std=own.std,
    )


def _function_source(name: str, config: ScoreConfig) -> Source:
    own = config.functions[name]
    function = load_function(own.function)
    return Source(
        name,
        own.weight,
        lambda given: call_function(function, own.function, given.prompts, given.texts, given.response_ids),
        {"function": Path(own.function).name, "source_hash": hash_file(source_file(own.function))},
        reads_text=True,
    )


def _length_source(config: LengthConfig) -> Source:
    def raw(responses: Responses) -> list[float]:
        return [-float(max(0, len(ids) - config.free_tokens)) for ids in responses.response_ids]

    return Source("length", config.weight, raw, {"free_tokens": config.free_tokens})
