"""The reward model: the shared base under the role `reward`, a scalar head, and how raw scores are normalised.

    raw = head(hidden at the last response token)            pooling `last`: the end token, where there is one
    raw = mean over response tokens of head(hidden)          pooling `mean`
    score = sign * (raw - score_mean) / score_std            sign is -1 for the control `flipped`, else 1

Mean and deviation are those of raw scores of SFT responses. Raw scores are log-odds of preference (Bradley-Terry), so a
small deviation says that the model knows little; dividing by it would make guesses as loud as knowledge, and PPO would
follow them. `score_std` is therefore never below `reward.min_score_std`.

On disk a reward model is a folder: a PEFT adapter, `head.safetensors`, and `reward.json` with a `RewardInfo`.
"""

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlhf.config.training import RewardConfig
from rlhf.errors import ArtifactError, DataError
from rlhf.models.base import LoadedBase
from rlhf.models.roles import HEAD_WEIGHTS, RoleSource, SharedBase, build_shared_base
from rlhf.records import PromptText
from rlhf.reward.calibration import normalisation
from rlhf.runtime import Runtime
from rlhf.tensors import last_true_index, pad_right
from rlhf.text import TextFormat

log = logging.getLogger(__name__)
ROLE = "reward"
INFO_FILE = "reward.json"
CHECKPOINTS = ".checkpoints"
Pooling = Literal["last", "mean"]
Item = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class RewardInfo:
    """Content of `reward.json`: what a folder of weights does not say by itself."""

    pooling: Pooling
    score_mean: float = 0.0
    score_std: float = 1.0
    temperature: float = 1.0
    """The held-out calibration temperature, in units of raw scores."""
    control: Literal["none", "shuffled", "flipped"] = "none"
    base_weights_hash: str = ""
    prompt_format_hash: str = ""
    calibration: dict[str, Any] = field(default_factory=dict)

    @property
    def sign(self) -> float:
        """-1 for the flipped control, which then prefers what annotators reject."""
        return -1.0 if self.control == "flipped" else 1.0

    def normalise(self, raw: float) -> float:
        """Return the score of a raw output: mean 0 and standard deviation 1, or less, on SFT samples."""
        return self.sign * (raw - self.score_mean) / self.score_std


class RewardModel(nn.Module):
    """Right-padded rows to raw scores; the module that the training engine wraps."""

    def __init__(self, shared: SharedBase, pooling: Pooling) -> None:
        super().__init__()
        self.shared = shared
        self.pooling: Pooling = pooling

    def forward(
        self, input_ids: Int[Tensor, "batch sequence"], response_mask: Bool[Tensor, "batch sequence"]
    ) -> Float[Tensor, " batch"]:
        """Return raw scores."""
        return raw_scores(self.shared, input_ids, response_mask, self.pooling)


def raw_scores(
    shared: SharedBase,
    input_ids: Int[Tensor, "batch sequence"],
    response_mask: Bool[Tensor, "batch sequence"],
    pooling: Pooling,
    attention_mask: Bool[Tensor, "batch sequence"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return one raw score per row.

    Args:
        shared: The base with the role `reward` and its head.
        input_ids: Prompt, response and padding.
        response_mask: True on response tokens, end token included; at least one in every row.
        pooling: Where to read the score.
        attention_mask: True on real tokens; None where all padding is on the right.
    """
    hidden = shared.hidden(ROLE, input_ids, attention_mask)
    if pooling == "last":
        rows = torch.arange(len(hidden), device=hidden.device)
        return shared.read_head(ROLE, hidden[rows, last_true_index(response_mask)])
    per_token = shared.read_head(ROLE, hidden).masked_fill(~response_mask, 0.0)
    return per_token.sum(dim=1) / response_mask.sum(dim=1)


def stack_rows(items: Sequence[Item], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return right-padded `input_ids` and `response_mask` of (prompt ids, response ids) pairs."""
    ids = pad_right([[*prompt, *response] for prompt, response in items], pad_token_id, torch.long)
    masks = [[0] * len(prompt) + [1] * len(response) for prompt, response in items]
    return ids, pad_right(masks, 0, torch.bool)


def score_ids(
    shared: SharedBase, text: TextFormat, info: RewardInfo, items: Sequence[Item], batch_size: int
) -> list[float]:
    """Return the normalised score of each (prompt ids, response ids) pair, in the given order.

    Rows of like length are scored together; a score does not depend on the batch it was in.

    Raises:
        DataError: A response is empty, or longer than the context.
    """
    order = sorted(range(len(items)), key=lambda index: sum(map(len, items[index])), reverse=True)
    for index in order:
        prompt, response = items[index]
        if not response or len(prompt) + len(response) > text.context_length:
            raise DataError(
                f"response {index} has {len(response)} tokens after a prompt of {len(prompt)}; a score needs at least "
                f"one, and {text.context_length} at most together"
            )
    scores = [0.0] * len(items)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = stack_rows([items[index] for index in chosen], text.pad_token_id)
            raw = raw_scores(shared, ids.to(shared.device), mask.to(shared.device), info.pooling)
            for index, value in zip(chosen, raw.tolist(), strict=True):
                scores[index] = info.normalise(value)
    return scores


def score_texts(
    shared: SharedBase,
    text: TextFormat,
    info: RewardInfo,
    items: Sequence[tuple[PromptText, str]],
    batch_size: int,
    *,
    end: bool = True,
) -> list[float]:
    """Return the normalised score of each (prompt, response text); `end` says that the responses ended by themselves."""
    encoded = [
        (text.encode_prompt(prompt), text.encode_response(prompt, response, end=end)) for prompt, response in items
    ]
    return score_ids(shared, text, info, encoded, batch_size)


def set_normalisation(
    info: RewardInfo,
    shared: SharedBase,
    text: TextFormat,
    samples: Sequence[Item],
    batch_size: int,
    *,
    min_std: float = 0.0,
) -> RewardInfo:
    """Return `info` with the mean and standard deviation of the raw scores of SFT samples.

    Calibrated scores are raw ones divided by the held-out temperature: log-odds of preference that hold on other
    prompts. Where these spread by less than `min_std` they are divided by `min_std` instead of their own deviation.

    Raises:
        TrainingError: The raw scores are not finite, or all the same.
    """
    plain = dataclasses.replace(info, score_mean=0.0, score_std=1.0, control="none")
    mean, std = normalisation(score_ids(shared, text, plain, samples, batch_size))
    least = min_std * info.temperature
    if std < least:
        log.warning(
            "scores of SFT responses, calibrated on held-out pairs, spread by %.2g only: the reward model tells little "
            "apart; they are divided by %g (reward.min_score_std), so that PPO follows them less",
            std / info.temperature,
            min_std,
        )
    return dataclasses.replace(info, score_mean=mean, score_std=max(std, least))


def build_reward_base(base: LoadedBase, sft_folder: Path, config: RewardConfig, seed: int) -> SharedBase:
    """Attach what the reward stage needs: the SFT policy, frozen, and the reward role that learns."""
    start = RoleSource(copy_of="policy", head=True, trainable=True)
    if config.init == "fresh":
        start = RoleSource(fresh=config.lora, head=True, trainable=True)
    return build_shared_base(base, {"policy": RoleSource(folder=sft_folder), ROLE: start}, seed=seed)


def import_reward(base: LoadedBase, sft_folder: Path, source: Path) -> tuple[SharedBase, RewardInfo]:
    """Attach the SFT policy and a reward model from outside, after checking that it fits.

    Raises:
        ArtifactError: A file is missing or damaged, or belongs to another base.
    """
    info = load_reward_info(source, base)
    roles = {"policy": RoleSource(folder=sft_folder), ROLE: RoleSource(folder=source, head=True)}
    return build_shared_base(base, roles), info


def load_reward_info(folder: Path, base: LoadedBase | None = None) -> RewardInfo:
    """Read and check `reward.json`.

    Args:
        folder: A reward model's folder.
        base: Where given, the base and prompt format must be those that the model was trained on.

    Raises:
        ArtifactError: A file is missing or damaged, a constant makes no sense, or the base is another one.
    """
    path = folder / INFO_FILE
    try:
        info = RewardInfo(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: no such file; a reward model is an adapter, {HEAD_WEIGHTS} and {INFO_FILE}"
        ) from error
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: damaged ({error})") from error
    if not (folder / HEAD_WEIGHTS).is_file():
        raise ArtifactError(f"{folder / HEAD_WEIGHTS}: no such file; without its head the adapter gives no scores")
    if info.pooling not in ("last", "mean") or info.control not in ("none", "shuffled", "flipped"):
        raise ArtifactError(f"{path}: pooling is {info.pooling!r} and control is {info.control!r}; one is unknown")
    if not (math.isfinite(info.score_mean) and 0 < info.score_std < math.inf):
        raise ArtifactError(
            f"{path}: score_mean is {info.score_mean} and score_std is {info.score_std}; no usable scale"
        )
    if base is not None:
        _check_family(path, "base", info.base_weights_hash, base.weights_hash)
        _check_family(path, "prompt format", info.prompt_format_hash, base.text.hash)
    return info


def publish_reward(shared: SharedBase, info: RewardInfo, folder: Path, runtime: Runtime) -> None:
    """Write the reward model's folder and remove the checkpoints of its training; all processes call this."""
    shared.save_role(ROLE, folder, write=runtime.is_main)
    if runtime.is_main:
        content = json.dumps(dataclasses.asdict(info), indent=2, allow_nan=False)
        (folder / INFO_FILE).write_text(content + "\n", encoding="utf-8")
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    runtime.wait()


def _check_family(path: Path, what: str, recorded: str, present: str) -> None:
    if recorded and recorded != present:
        raise ArtifactError(
            f"{path}: made on another {what} ({recorded[:12]}, this one is {present[:12]}); train it again"
        )
