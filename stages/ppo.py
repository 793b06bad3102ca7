"""Stage ppo: optimise the policy's LoRA weights against the score, held to the reference by a KL term.

Reads base, prompts (ppo and validation splits), sft and reward. Policy, reference, reward model and critic are adapters
on one frozen base. Writes the aligned adapter as a PEFT folder, the critic, metrics.jsonl and samples.jsonl, and
score.json where the score has other sources than the reward model.
Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022; Huang et al. 2024.

    rlhf ppo CONFIG         python -m stages.ppo CONFIG
"""

import logging
from pathlib import Path

from rlhf.artifacts import check_splits
from rlhf.config.recipe import Config
from rlhf.entry import Work, begin, stage_main
from rlhf.errors import ConfigError, DataError
from rlhf.hashing import derive_seed
from rlhf.models.base import LoadedBase, load_base
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.ppo.loop import train_ppo
from rlhf.records import Prompt, read_jsonl
from rlhf.reward.model import RewardInfo, load_reward_info
from rlhf.reward.scale import scale_samples
from rlhf.reward.sources import SCORE_FILE, ScoreSum, build_score
from rlhf.runtime import Runtime, launched_runtime
from rlhf.sft import import_sft
from rlhf.tracking import read_metrics

log = logging.getLogger(__name__)


def run(config: Config) -> Path:
    """Train the policy, or import an aligned adapter."""
    runtime = launched_runtime(config.launch)
    with begin("ppo", config, is_main=runtime.is_main, barrier=runtime.wait) as work:
        base = load_base(work.parents["base"].path, config.base, config.precision)
        runtime.require_same(config, base.weights_hash)
        if config.ppo.import_path is not None:
            import_sft(base, config.ppo.import_path, work.folder)
        else:
            _train(config, base, work, runtime)
        work.draft.processes = runtime.process_count
        final = work.run.folder("ppo")
    return final


def _train(config: Config, base: LoadedBase, work: Work, runtime: Runtime) -> None:
    trained = {name: work.parents[name] for name in ("sft", "reward") if name in work.parents}
    check_splits("ppo", ("ppo", "validation"), trained)
    prompts = read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt)
    info = load_reward_info(work.parents["reward"].path, base) if "reward" in work.parents else None
    shared = build_shared_base(base, _roles(config, work, info), seed=derive_seed(config.seed, "ppo"))
    score = _score(config, base, shared, info, prompts, work, runtime)
    outcome = train_ppo(
        shared,
        base.text,
        _of_split(prompts, "ppo"),
        [row for row in prompts if row.split == "validation"],
        score,
        config.ppo,
        config.seed,
        work.folder,
        work.tracker,
        runtime,
        score_identity=score.identity,
    )
    work.draft.splits = ("ppo",)
    first, last = _first_and_last(work, outcome.updates) if runtime.is_main else ({}, {})
    work.draft.facts |= {
        "step0_kl": abs(first["ppo/kl_nats"]) if first else None,  # before any optimiser step
        "base_hash_unchanged": True,  # train_ppo compares the hashes, and does not return where they differ
        "base_hash": outcome.base_hash,
        "updates": outcome.updates,
        "optimizer_steps": outcome.optimizer_steps,
        "selected_update": outcome.selected_update,
        "best_update": outcome.best_update,
        "bad_batches": outcome.bad_batches,
        "control": info.control if info else "none",
    }
    if not score.is_reward_alone:
        work.draft.facts["score_sources"] = score.describe()
    if last:
        log.info("score %.2f, KL %.2f nats", last["ppo/score_mean"], last["ppo/kl_nats"])


def _score(
    config: Config,
    base: LoadedBase,
    shared: SharedBase,
    info: RewardInfo | None,
    prompts: list[Prompt],
    work: Work,
    runtime: Runtime,
) -> ScoreSum:
    """Load the sources of the score, and settle their scales: once, for all processes, also after an interruption."""
    asked = [row for row in prompts if row.split in ("ppo", "validation")]
    size, precision = config.ppo.micro_batch_size, config.precision
    folder = work.parents["reward"].path if info else None
    score = build_score(config.score, shared, base.text, info, asked, size, precision, folder)
    if not runtime.any((work.folder / SCORE_FILE).is_file()):
        if score.unmeasured:
            score = score.measured_on(*_reference_samples(config, base, shared, asked, score.unmeasured[0], runtime))
        if runtime.is_main:
            score.write(work.folder)
        runtime.wait()
    return score.as_recorded(work.folder)


def _reference_samples(
    config: Config, base: LoadedBase, shared: SharedBase, asked: list[Prompt], name: str, runtime: Runtime
) -> tuple[list[list[int]], list[list[int]]]:
    if runtime.zero == 3:
        raise ConfigError(
            f"score.classifiers.{name} has no mean and std, and with launch.zero 3 the base cannot answer before "
            "training to measure them: give both, or use launch.zero 2"
        )
    _of_split(asked, "ppo")
    count, size = config.score.normalisation_prompts, config.ppo.rollout_batch_size
    drawn = scale_samples(shared, "reference", base.text, asked, count, config.ppo, config.seed, size)
    return drawn.prompt_ids, drawn.response_ids


def _roles(config: Config, work: Work, info: RewardInfo | None) -> dict[str, RoleSource]:
    """Say where each role's weights come from.

    The critic starts as the reward model, or, where that has a base of its own or the score has none, as the policy with a
    fresh head.
    """
    sft = work.parents["sft"].path
    previous = work.parents["previous-policy"].path if "previous-policy" in work.parents else sft
    roles = {
        "reference": RoleSource(folder=previous if config.ppo.reference == "previous" else sft),
        "policy": RoleSource(folder=previous if config.ppo.start == "previous" else sft, trainable=True),
    }
    if info is not None and not info.has_own_base:
        roles["reward"] = RoleSource(folder=work.parents["reward"].path, head=True)
    if config.ppo.advantage == "gae" and config.ppo.critic == "adapter":
        start = "reward" if "reward" in roles else "policy"
        roles["critic"] = RoleSource(copy_of=start, head=True, trainable=True)
    elif config.ppo.advantage == "gae":
        roles["critic"] = RoleSource(trunk_of="policy", head=True, trainable=True)
    return roles


def _of_split(prompts: list[Prompt], split: str) -> list[Prompt]:
    found = [row for row in prompts if row.split == split]
    if not found:
        raise DataError(f"the {split} split is empty; raise prompts.shares.{split} or prompts.count")
    return found


def _first_and_last(work: Work, updates: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return what the first and the last update logged, perhaps before an interruption."""
    rows = {row["step"]: row for row in read_metrics(work.tracker.path)}
    return rows[1], rows[updates]


if __name__ == "__main__":
    stage_main("ppo", run)
