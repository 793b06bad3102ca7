"""The reward model: the shared base under the role `reward`, one or several scalar heads, and how scores are normalised.

    raw = head(hidden at the last response token)            pooling `last`: the end token, where there is one
    raw = mean over response tokens of head(hidden)          pooling `mean`
    score = sign * (raw - score_mean) / score_std            sign is -1 for the control `flipped`, else 1

Mean and deviation are those of raw scores of SFT responses. Raw scores are log-odds of preference (Bradley-Terry), so a
small deviation says that the model knows little; dividing by it would make guesses as loud as knowledge, and PPO would
follow them. `score_std` is therefore never below `reward.min_score_std`.

Several heads k = 1 .. K on one adapter make an ensemble, whose raw score is their mean. Each head has its own mean m_k over
SFT responses, all share the deviation of the mean, and the score can be pessimistic (Coste et al. 2024, equation 4):

    z_k = (raw_k - m_k) / score_std          score = sign * mean_k(z_k) - uncertainty_penalty * variance_k(z_k)

On disk a reward model is a folder: a PEFT adapter, `head.safetensors`, and `reward.json` with a `RewardInfo`. One that has
a base of its own (`rlhf.reward.own_base`) is a sequence classifier beside a `reward.json` with pooling `own`.
"""

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlhf.config.training import RewardConfig
from rlhf.errors import ArtifactError, DataError
from rlhf.models.adapters import read_safetensors
from rlhf.models.base import LoadedBase, hash_weights
from rlhf.models.roles import HEAD_WEIGHTS, RoleSource, SharedBase, build_shared_base, count_heads
from rlhf.records import PromptText
from rlhf.reward.calibration import normalisation
from rlhf.runtime import Runtime
from rlhf.tensors import last_true_index, pad_right
from rlhf.text import TextFormat

log = logging.getLogger(__name__)
ROLE = "reward"
INFO_FILE = "reward.json"
CHECKPOINTS = ".checkpoints"
Pooling = Literal["last", "mean", "own"]
"""Where a score is read; `own` is wherever a sequence classifier reads it."""
Item = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class RewardInfo:
    """Content of `reward.json`: what a folder of weights does not say by itself."""

    pooling: Pooling
    score_mean: float = 0.0
    score_std: float = 1.0
    temperature: float = 1.0
    """The held-out calibration temperature, in units of raw scores."""
    heads: int = 1
    head_means: tuple[float, ...] = ()
    """Mean raw score of each of several heads on SFT samples; empty: `score_mean` is that of each."""
    uncertainty_penalty: float = 0.0
    """How many times the variance of the heads' normalised scores is subtracted."""
    control: Literal["none", "shuffled", "flipped"] = "none"
    base_weights_hash: str = ""
    prompt_format_hash: str = ""
    calibration: dict[str, Any] = field(default_factory=dict)

    @property
    def has_own_base(self) -> bool:
        """Whether the model is a sequence classifier with a tokenizer of its own, and no role on the shared base."""
        return self.pooling == "own"

    @property
    def sign(self) -> float:
        """-1 for the flipped control, which then prefers what annotators reject."""
        return -1.0 if self.control == "flipped" else 1.0

    def heads_normalised(self, raw: Sequence[float]) -> list[float]:
        """Return each head's score of a response, from its raw scores by each head: mean 0 on SFT samples."""
        means = self.head_means or (self.score_mean,) * self.heads
        return [self.sign * (value - mean) / self.score_std for value, mean in zip(raw, means, strict=True)]

    def normalise(self, raw: Sequence[float]) -> float:
        """Return the score of a response from its raw scores by each head.

        Without a penalty, SFT samples have mean 0 and standard deviation 1, or less; with one, their mean is below 0.
        """
        scores = self.heads_normalised(raw)
        mean = math.fsum(scores) / self.heads
        if not self.uncertainty_penalty:
            return mean
        variance = math.fsum((score - mean) ** 2 for score in scores) / self.heads
        return mean - self.uncertainty_penalty * variance

    def to_json(self) -> dict[str, Any]:
        """Return the content of `reward.json`; one head needs no word about heads."""
        content = dataclasses.asdict(self)
        if self.heads == 1:
            for name in ("heads", "head_means", "uncertainty_penalty"):
                del content[name]
        return content


class RewardModel(nn.Module):
    """Right-padded rows to raw scores; the module that the training engine wraps."""

    def __init__(self, shared: SharedBase, pooling: Pooling) -> None:
        super().__init__()
        self.shared = shared
        self.pooling: Pooling = pooling

    def forward(
        self,
        input_ids: Int[Tensor, "batch sequence"],
        response_mask: Bool[Tensor, "responses sequence"],
        row_of: Int[Tensor, " responses"] | None = None,
    ) -> Float[Tensor, "heads responses"]:
        """Return raw scores."""
        return head_scores(self.shared, input_ids, response_mask, self.pooling, row_of=row_of)

    @property
    def can_branch(self) -> bool:
        """Whether several responses may share the prompt of one row."""
        return self.shared.can_branch

    @property
    def recomputes(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return self.shared.gradient_checkpointing

    def trainable(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return (name, parameter) of what learns, by its group of learning rates."""
        own = self.shared.trainable(ROLE)
        adapter = [(name, parameter) for name, parameter in own if ".head." not in name]
        return {"adapter": adapter, "head": [(name, parameter) for name, parameter in own if ".head." in name]}

    def hash_frozen(self) -> str:
        """Hash what training must not move."""
        return hash_weights(self.shared.peft_model)


def head_scores(
    shared: SharedBase,
    input_ids: Int[Tensor, "batch sequence"],
    response_mask: Bool[Tensor, "responses sequence"],
    pooling: Pooling,
    attention_mask: Bool[Tensor, "batch sequence"] | None = None,
    row_of: Int[Tensor, " responses"] | None = None,
) -> Float[Tensor, "heads responses"]:
    """Return each head's raw score of each response.

    Args:
        shared: The base with the role `reward` and its head.
        input_ids: Prompt, response and padding.
        response_mask: True on response tokens, end token included; at least one in every row.
        pooling: Where to read the score.
        attention_mask: True on real tokens; None where all padding is on the right.
        row_of: The row in which each response is, where several share the prompt of one (`stack_shared`); None is one each.
    """
    if row_of is None:
        hidden = shared.hidden(ROLE, input_ids, attention_mask)
    else:
        numbers = torch.arange(1, len(row_of) + 1, device=row_of.device)
        branches = torch.zeros_like(input_ids).index_add(0, row_of, response_mask.long() * numbers[:, None])
        hidden = shared.hidden(ROLE, input_ids, branches=branches).index_select(0, row_of)
    if pooling == "last":
        rows = torch.arange(len(hidden), device=hidden.device)
        return shared.read_heads(ROLE, hidden[rows, last_true_index(response_mask)])
    per_token = shared.read_heads(ROLE, hidden).masked_fill(~response_mask, 0.0)
    return per_token.sum(dim=-1) / response_mask.sum(dim=1)


def stack_rows(items: Sequence[Item], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return right-padded `input_ids` and `response_mask` of (prompt ids, response ids) pairs."""
    ids = pad_right([[*prompt, *response] for prompt, response in items], pad_token_id, torch.long)
    masks = [[0] * len(prompt) + [1] * len(response) for prompt, response in items]
    return ids, pad_right(masks, 0, torch.bool)


def stack_shared(
    prompts: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], pad_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay each prompt and all its responses end to end in one row, so that the trunk reads every token once.

    Returns:
        `input_ids`, one row per prompt, padded on the right; `response_mask`, one row per response; and the row of each
        response. `head_scores` hides the responses of a row from each other.
    """
    lines: list[list[int]] = []
    masks: list[list[int]] = []
    rows: list[int] = []
    for row, (prompt, responses) in enumerate(prompts):
        line = list(prompt)
        for response in responses:
            masks.append([0] * len(line) + [1] * len(response))
            rows.append(row)
            line += response
        lines.append(line)
    ids = pad_right(lines, pad_token_id, torch.long)
    return ids, pad_right(masks, 0, torch.bool, ids.shape[1]), torch.tensor(rows)


def score_ids(
    shared: SharedBase, text: TextFormat, info: RewardInfo, items: Sequence[Item], batch_size: int
) -> list[float]:
    """Return the normalised score of each (prompt ids, response ids) pair, in the given order.

    Raises:
        DataError: A response is empty, or longer than the context.
    """
    return [info.normalise(raw) for raw in score_heads(shared, text, info.pooling, items, batch_size)]


def score_heads(
    shared: SharedBase, text: TextFormat, pooling: Pooling, items: Sequence[Item], batch_size: int
) -> list[list[float]]:
    """Return the raw scores of each (prompt ids, response ids) pair by each head, in the given order.

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
    scores: list[list[float]] = [[] for _ in items]
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = stack_rows([items[index] for index in chosen], text.pad_token_id)
            raw = head_scores(shared, ids.to(shared.device), mask.to(shared.device), pooling)
            for index, row in zip(chosen, raw.T.tolist(), strict=True):
                scores[index] = row
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
    """Return `info` with the scale of SFT samples' raw scores; see `with_scale`."""
    return with_scale(info, score_heads(shared, text, info.pooling, samples, batch_size), min_std=min_std)


def with_scale(info: RewardInfo, raw: Sequence[Sequence[float]], *, min_std: float = 0.0) -> RewardInfo:
    """Return `info` with the mean (also of each of several heads) and standard deviation of SFT samples' raw scores.

    Calibrated scores are raw ones divided by the held-out temperature: log-odds of preference that hold on other
    prompts. Where these spread by less than `min_std` they are divided by `min_std` instead of their own deviation.

    Raises:
        TrainingError: The raw scores are not finite, or all the same.
    """
    mean, std = normalisation([math.fsum(row) / info.heads for row in raw])
    head_means = tuple(math.fsum(values) / len(raw) for values in zip(*raw, strict=True)) if info.heads > 1 else ()
    least = min_std * info.temperature
    if std < least:
        log.warning(
            "scores of SFT responses, calibrated on held-out pairs, spread by %.2g only: the reward model tells little "
            "apart; they are divided by %g (reward.min_score_std), so that PPO follows them less",
            std / info.temperature,
            min_std,
        )
    return dataclasses.replace(info, score_mean=mean, score_std=max(std, least), head_means=head_means)


def build_reward_base(base: LoadedBase, sft_folder: Path, config: RewardConfig, seed: int) -> SharedBase:
    """Attach what the reward stage needs: the SFT policy, frozen, and the reward role that learns."""
    start = RoleSource(copy_of="policy", head=True, heads=config.heads, trainable=True)
    if config.init == "fresh":
        start = RoleSource(fresh=config.lora, head=True, heads=config.heads, trainable=True)
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
        content = json.loads(path.read_text(encoding="utf-8"))
        info = RewardInfo(**{**content, "head_means": tuple(content.get("head_means", ()))})
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: no such file; a reward model is an adapter, {HEAD_WEIGHTS} and {INFO_FILE}"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: damaged ({error})") from error
    if not info.has_own_base and not (folder / HEAD_WEIGHTS).is_file():
        raise ArtifactError(f"{folder / HEAD_WEIGHTS}: no such file; without its head the adapter gives no scores")
    if info.pooling not in get_args(Pooling) or info.control not in ("none", "shuffled", "flipped"):
        raise ArtifactError(f"{path}: pooling is {info.pooling!r} and control is {info.control!r}; one is unknown")
    if not (math.isfinite(info.score_mean) and 0 < info.score_std < math.inf):
        raise ArtifactError(
            f"{path}: score_mean is {info.score_mean} and score_std is {info.score_std}; no usable scale"
        )
    if info.has_own_base:
        return info
    _check_heads(path, info)
    if base is not None:
        _check_family(path, "base", info.base_weights_hash, base.weights_hash)
        _check_family(path, "prompt format", info.prompt_format_hash, base.text.hash)
    return info


def publish_reward(shared: SharedBase, info: RewardInfo, folder: Path, runtime: Runtime) -> None:
    """Write the reward model's folder and remove the checkpoints of its training; all processes call this."""
    shared.save_role(ROLE, folder, write=runtime.is_main)
    finish_reward(info, folder, runtime)


def finish_reward(info: RewardInfo, folder: Path, runtime: Runtime) -> None:
    """Write `reward.json` beside the weights and remove the checkpoints of the training; all processes call this."""
    if runtime.is_main:
        content = json.dumps(info.to_json(), indent=2, allow_nan=False)
        (folder / INFO_FILE).write_text(content + "\n", encoding="utf-8")
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    runtime.wait()


def _check_heads(path: Path, info: RewardInfo) -> None:
    weights = path.with_name(HEAD_WEIGHTS)
    saved = count_heads(read_safetensors(weights)[0])
    if info.heads != saved:
        raise ArtifactError(
            f"{path}: heads is {info.heads}, and {weights.name} has {saved}; they are of two reward models"
        )
    if len(info.head_means) not in (0, info.heads) or not all(map(math.isfinite, info.head_means)):
        raise ArtifactError(f"{path}: head_means is {list(info.head_means)}; {info.heads} numbers are needed")
    if not 0 <= info.uncertainty_penalty < math.inf:
        raise ArtifactError(f"{path}: uncertainty_penalty is {info.uncertainty_penalty}; give a number from 0 up")


def _check_family(path: Path, what: str, recorded: str, present: str) -> None:
    if recorded and recorded != present:
        raise ArtifactError(
            f"{path}: made on another {what} ({recorded[:12]}, this one is {present[:12]}); train it again"
        )
