"""Let the policies answer the test prompts, and judge every answer: where an evaluation touches the models."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rlhf.config.reporting import EvaluateConfig
from rlhf.decoding import InStep
from rlhf.errors import TrainingError
from rlhf.evaluation.answers import Answer, PromptAnswers
from rlhf.evaluation.compare import CANDIDATES, Evaluation, summarise
from rlhf.evaluation.metrics import response_kl
from rlhf.models.logprobs import response_logprobs
from rlhf.models.roles import SharedBase
from rlhf.records import Prompt, PromptText
from rlhf.runtime import Runtime
from rlhf.sampling import Samples, Sampling, sample
from rlhf.tensors import pad_right
from rlhf.text import TextFormat

log = logging.getLogger(__name__)
ScoreFn = Callable[[Sequence[tuple[list[int], list[int]]]], Sequence[float]]
"""(prompt ids, response ids) of many responses to their scores, those that PPO was rewarded with."""
POLICY, REFERENCE = "policy", "reference"
_DRAWS = 1 << 16
"""Random keys per prompt: SFT samples take them from the front, the policy from the back."""


@dataclass(frozen=True)
class Judges:
    """Who judges a response: the score always, the rest where it exists (simulations only)."""

    score: ScoreFn
    gold: Callable[[PromptText, str], float] | None = None
    gold_parts: Callable[[PromptText, str], dict[str, float]] | None = None
    well_formed: Callable[[str], bool] | None = None


def evaluate_policies(
    shared: SharedBase,
    text: TextFormat,
    prompts: Sequence[Prompt],
    judges: Judges,
    config: EvaluateConfig,
    *,
    seed: int,
    runtime: Runtime,
) -> Evaluation:
    """Compare SFT (role `reference`), best-of-n and PPO (role `policy`) on test prompts.

    The prompts are cut into pieces by their number alone, and the processes share the pieces: the figures are the same on any
    number of them. Sharded weights are gathered by all processes at once, so all of them then judge every piece.

    Args:
        shared: The shared base with both roles.
        text: Prompt format and end tokens.
        prompts: The test prompts; all of them on every process.
        judges: Scores and golds.
        config: How many prompts, samples and tokens, at which temperature.
        seed: Seed of the run.
        runtime: Processes.

    Raises:
        DataError: There are fewer than two test prompts.
        ConfigError: Prompt and response together could outgrow the context.
    """
    chosen = list(prompts if config.max_prompts is None else prompts[: config.max_prompts])
    pieces = runtime.own_chunks(len(chosen), piece_size(len(chosen)))
    log.info("%d prompts: answering as SFT, %d times each, and as PPO", len(chosen), _sft_samples(config))
    drawn = [draw_answers(shared, text, chosen, piece, config, seed=seed, in_step=runtime.in_step) for piece in pieces]
    sharded = runtime.zero == 3
    drawn = sorted(runtime.gather(drawn) if sharded else drawn, key=lambda piece: piece.indices[:1])
    log.info("judging %d answers", len(chosen) * (_sft_samples(config) + 1))
    rows = [row for piece in drawn for row in judge_answers(shared, text, chosen, piece, judges, config)]
    everything = rows if sharded else runtime.gather(rows)
    return summarise(sorted(everything, key=lambda row: row.index), config.best_of)


def piece_size(prompts: int) -> int:
    """Return how many prompts are answered together: a sixteenth, for up to 16 processes, but no tiny pieces."""
    return max(32, -(-prompts // 16))


@dataclass(frozen=True)
class Drawn:
    """What was sampled for the prompts of some indices: as SFT, several times each, as PPO, and for the KL."""

    indices: list[int]
    sft: Samples
    ppo: Samples
    for_kl: Samples


def draw_answers(
    shared: SharedBase,
    text: TextFormat,
    prompts: Sequence[Prompt],
    indices: Sequence[int],
    config: EvaluateConfig,
    *,
    seed: int,
    in_step: InStep | None = None,
) -> Drawn:
    """Answer the prompts of the given indices: N times as SFT, once as PPO, each draw with random numbers of its own.

    At temperature 0 the answers are greedy, and the KL, which needs samples of the policy, is estimated on one more
    answer drawn at temperature 1.
    """
    sampling = Sampling(config.temperature, config.max_new_tokens)
    ids = [text.encode_prompt(prompts[index].prompt) for index in indices]

    def draw(role: str, sampling: Sampling, repeats: int, first: int) -> Samples:
        keys = [index * _DRAWS + first + copy for index in indices for copy in range(repeats)]
        repeated = [row for row in ids for _ in range(repeats)]
        size = config.batch_size
        return sample(shared, role, repeated, text, sampling, seed=seed, batch_size=size, keys=keys, in_step=in_step)

    sft = draw(REFERENCE, sampling, _sft_samples(config), 0)
    ppo = draw(POLICY, sampling, 1, _DRAWS - 1)
    for_kl = ppo if config.temperature > 0 else draw(POLICY, Sampling(1.0, config.max_new_tokens), 1, _DRAWS - 2)
    return Drawn(list(indices), sft, ppo, for_kl)


def judge_answers(
    shared: SharedBase,
    text: TextFormat,
    prompts: Sequence[Prompt],
    drawn: Drawn,
    judges: Judges,
    config: EvaluateConfig,
) -> list[PromptAnswers]:
    """Return the answers of a piece with everything that is measured of them."""
    if not drawn.indices:
        return []
    samples = _sft_samples(config)
    kls = measure_kl(shared, text, drawn.for_kl, config.temperature or 1.0, config.batch_size)
    own = [prompts[index].prompt for index in drawn.indices]
    sft_answers = judge(text, drawn.sft, [prompt for prompt in own for _ in range(samples)], judges)
    ppo_answers = judge(text, drawn.ppo, own, judges)
    return [
        PromptAnswers(
            index=index,
            prompt_id=prompts[index].id,
            prompt=prompts[index].prompt,
            sft_samples=tuple(sft_answers[place * samples : (place + 1) * samples]),
            ppo=ppo_answers[place],
            kl_k1=kls[place][0],
            kl_k3=kls[place][1],
        )
        for place, index in enumerate(drawn.indices)
    ]


def _sft_samples(config: EvaluateConfig) -> int:
    return max(config.best_of, CANDIDATES)


def judge(text: TextFormat, samples: Samples, prompts: Sequence[PromptText], judges: Judges) -> list[Answer]:
    """Return the answers with their scores and golds, in order.

    Raises:
        TrainingError: A score is not finite.
    """
    scores = [float(score) for score in judges.score(list(zip(samples.prompt_ids, samples.response_ids, strict=True)))]
    unusable = sum(not math.isfinite(score) for score in scores)
    if unusable:
        raise TrainingError(f"{unusable} of {len(scores)} scores of test responses are not finite")
    answers = []
    for prompt, ids, ended, score in zip(prompts, samples.response_ids, samples.ended, scores, strict=True):
        response = text.decode_response(ids)
        answers.append(
            Answer(
                text=response,
                score=score,
                tokens=len(ids),
                ended=ended,
                gold=float(judges.gold(prompt, response)) if judges.gold else None,
                parts=dict(judges.gold_parts(prompt, response)) if judges.gold_parts else {},
                well_formed=judges.well_formed(response) if judges.well_formed else None,
            )
        )
    return answers


@torch.no_grad()
def measure_kl(
    shared: SharedBase, text: TextFormat, samples: Samples, temperature: float, batch_size: int
) -> list[tuple[float, float]]:
    """Return (k1, k3) of policy against reference for each response that the policy sampled, in nats.

    Both sides are computed by the same forward pass, unmerged: what differs is the adapter and nothing else.
    """
    order = sorted(range(len(samples.response_ids)), key=lambda row: -_length(samples, row))
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(order)
    shared.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ours, theirs = (_logprobs(shared, role, text, samples, rows, temperature) for role in (POLICY, REFERENCE))
        for row, policy, reference in zip(rows, ours, theirs, strict=True):
            found[row] = response_kl(policy, reference)
    return found


def _logprobs(
    shared: SharedBase, role: str, text: TextFormat, samples: Samples, rows: Sequence[int], temperature: float
) -> list[list[float]]:
    """Return the response logprobs of some rows; padding is on the right, so no attention mask is needed."""
    whole = [samples.prompt_ids[row] + samples.response_ids[row] for row in rows]
    marks = [[0] * len(samples.prompt_ids[row]) + [1] * len(samples.response_ids[row]) for row in rows]
    ids = pad_right(whole, text.pad_token_id, torch.long).to(shared.device)
    mask = pad_right(marks, 0, torch.bool).to(shared.device)
    flat, _ = response_logprobs(shared, role, ids, None, mask, temperature)
    return [part.tolist() for part in flat.split([len(samples.response_ids[row]) for row in rows])]


def _length(samples: Samples, row: int) -> int:
    return len(samples.prompt_ids[row]) + len(samples.response_ids[row])
