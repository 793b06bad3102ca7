"""Stage evaluate: SFT, best-of-n and PPO on the test prompts, with standard errors.

Reads base, prompts (test split), sft, reward and ppo. Writes evaluation.json and samples.jsonl: score (what PPO was
rewarded with), gold where there is one, win rate, KL, length, share that ends by itself, diversity, the gain by part and
at equal length.

    rlhf evaluate CONFIG    python -m stages.evaluate CONFIG
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from rlhf.artifacts import check_splits
from rlhf.config.recipe import Config
from rlhf.entry import Work, begin, stage_main
from rlhf.evaluation.compare import write_evaluation
from rlhf.evaluation.draw import Judges, evaluate_policies
from rlhf.gold import load_gold, load_gold_parts
from rlhf.hashing import derive_seed
from rlhf.models.base import LoadedBase, load_base
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.records import Prompt, read_jsonl
from rlhf.reward.model import RewardInfo, load_reward_info
from rlhf.reward.sources import ScoreSum, build_score
from rlhf.runtime import answering_runtime
from rlhf.world.grammar import is_well_formed

log = logging.getLogger(__name__)


def run(config: Config) -> Path:
    """Compare the policies."""
    runtime = answering_runtime(config.launch)
    with begin("evaluate", config, is_main=runtime.is_main, barrier=runtime.wait) as work:
        trained = {name: work.parents[name] for name in ("sft", "reward", "ppo") if name in work.parents}
        check_splits("evaluate", ("test",), trained)
        base = load_base(work.parents["base"].path, config.base, config.precision)
        runtime.require_same(config, base.weights_hash)
        info = load_reward_info(work.parents["reward"].path, base) if "reward" in work.parents else None
        shared = build_shared_base(base, _roles(work, info))
        runtime.hold(shared)
        prompts = [row for row in read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt) if row.split == "test"]
        evaluation = evaluate_policies(
            shared,
            base.text,
            prompts,
            _judges(config, _score(config, shared, base, work, prompts, info)),
            config.evaluate,
            seed=derive_seed(config.seed, "evaluate"),
            runtime=runtime,
        )
        if runtime.is_main:
            write_evaluation(evaluation, work.folder)
        work.draft.processes = runtime.process_count
        log.info(
            "%d test prompts: PPO wins %.3f against SFT by %s",
            evaluation.prompts,
            evaluation.win_rate.value,
            evaluation.judge,
        )
        work.draft.splits = ("test",)
        work.draft.facts |= {
            "prompts": evaluation.prompts,
            "win_rate": evaluation.win_rate.value,
            "judge": evaluation.judge,
        }
        final = work.run.folder("evaluate")
    return final


def _roles(work: Work, info: RewardInfo | None) -> dict[str, RoleSource]:
    roles = {
        "reference": RoleSource(folder=work.parents["sft"].path),
        "policy": RoleSource(folder=work.parents["ppo"].path),
    }
    if info is not None and not info.has_own_base:
        roles["reward"] = RoleSource(folder=work.parents["reward"].path, head=True)
    return roles


def _score(
    config: Config, shared: SharedBase, base: LoadedBase, work: Work, prompts: list[Prompt], info: RewardInfo | None
) -> ScoreSum:
    """Load the score that PPO was rewarded with, at the same scale."""
    folder, size = work.parents["reward"].path if info else None, config.evaluate.batch_size
    score = build_score(config.score, shared, base.text, info, prompts, size, config.precision, folder)
    if work.parents["ppo"].manifest.imported is None:
        return score.as_recorded(work.parents["ppo"].path)
    score.require_scales()
    return score


def _judges(config: Config, score: ScoreSum) -> Judges:
    def totals(items: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        return score([prompt for prompt, _ in items], [response for _, response in items]).total.tolist()

    return Judges(
        score=totals,
        gold=load_gold(config.gold),
        gold_parts=load_gold_parts(config.gold),
        well_formed=is_well_formed if config.gold.scorer == "world" else None,
    )


if __name__ == "__main__":
    stage_main("evaluate", run)
