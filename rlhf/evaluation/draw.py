"""Let the policies answer the test prompts, and judge every answer: where an evaluation touches the models."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rlhf.config.reporting import EvaluateConfig
from rlhf.errors import TrainingError
from rlhf.evaluation.answers import Answer, PromptAnswers
from rlhf.evaluation.compare import CANDIDATES, Evaluation, summarise
from rlhf.evaluation.metrics import response_kl
from rlhf.models.logprobs import response_logprobs
from rlhf.models.roles import SharedBase
from rlhf.records import Prompt, PromptText
from rlhf.sampling import Samples, Sampling, sample
from rlhf.tensors import pad_right
from rlhf.text import TextFormat

log = logging.getLogger(__name__)
ScoreFn = Callable[[Sequence[tuple[list[int], list[int]]]], Sequence[float]]
"""(prompt ids, response ids) of many responses to their scores, those that PPO was rewarded with."""
Gather = Callable[[list[PromptAnswers]], list[PromptAnswers]]
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
    rank: int = 0,
    processes: int = 1,
    gather: Gather = list,
) -> Evaluation:
    """Compare SFT (role `reference`), best-of-n and PPO (role `policy`) on test prompts.

    Args:
        shared: The shared base with both roles.
        text: Prompt format and end tokens.
        prompts: The test prompts; all of them on every process.
        judges: Scores and golds.
        config: How many prompts, samples and tokens, at which temperature.
        seed: Seed of the run.
        rank: This process; it answers every `processes`-th prompt.
        processes: How many there are.
        gather: Collects the rows of all processes on every process.

    Raises:
        DataError: There are fewer than two test prompts.
        ConfigError: Prompt and response together could outgrow the context.
    """
    chosen = list(prompts if config.max_prompts is None else prompts[: config.max_prompts])
    own = list(range(rank, len(chosen), processes))
    rows = draw_answers(shared, text, chosen, own, judges, config, seed=seed) if own else []
    everything = sorted(gather(rows), key=lambda row: row.index)
    return summarise(everything, config.best_of)


def draw_answers(
    shared: SharedBase,
    text: TextFormat,
    prompts: Sequence[Prompt],
    indices: Sequence[int],
    judges: Judges,
    config: EvaluateConfig,
    *,
    seed: int,
) -> list[PromptAnswers]:
    """Answer the prompts of the given indices: N times as SFT, once as PPO, each draw with random numbers of its own.

    At temperature 0 the answers are greedy, and the KL, which needs samples of the policy, is estimated on one more
    answer drawn at temperature 1.
    """
    samples = max(config.best_of, CANDIDATES)
    sampling = Sampling(config.temperature, config.max_new_tokens)
    ids = [text.encode_prompt(prompts[index].prompt) for index in indices]

    def draw(role: str, sampling: Sampling, repeats: int, first: int) -> Samples:
        keys = [index * _DRAWS + first + copy for index in indices for copy in range(repeats)]
        repeated = [row for row in ids for _ in range(repeats)]
        return sample(shared, role, repeated, text, sampling, seed=seed, batch_size=config.batch_size, keys=keys)

    log.info("%d prompts: answering as SFT, %d times each", len(ids), samples)
    sft = draw(REFERENCE, sampling, samples, 0)
    log.info("answering as PPO")
    ppo = draw(POLICY, sampling, 1, _DRAWS - 1)
    for_kl = ppo if config.temperature > 0 else draw(POLICY, Sampling(1.0, config.max_new_tokens), 1, _DRAWS - 2)
    kls = measure_kl(shared, text, for_kl, config.temperature or 1.0, config.batch_size)
    own = [prompts[index].prompt for index in indices]
    log.info("judging %d answers", len(ids) * (samples + 1))
    sft_answers = judge(text, sft, [prompt for prompt in own for _ in range(samples)], judges)
    ppo_answers = judge(text, ppo, own, judges)
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
        for place, index in enumerate(indices)
    ]


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
