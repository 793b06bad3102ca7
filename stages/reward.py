"""Stage reward: an adapter and its scalar heads on the shared base learn to score responses as people rank them.

Reads base, prompts, sft and pairs. Writes a PEFT folder, head.safetensors, reward.json (pooling, score normalisation,
base hash), calibration.json, and, where people ranked, trust.json (accuracy by annotator and source) and
disagreements.jsonl (the held-out prompts on which model and people differ most). All pairs of a prompt are in one step and
each candidate is forwarded once (Ouyang et al. 2022, equation 1). Scores are normalised to mean 0 and standard deviation 1
on SFT responses to prompts of the ppo split (Ziegler et al. 2019).

    rlhf reward CONFIG      python -m stages.reward CONFIG
"""

import dataclasses
import json
import logging
from pathlib import Path

from rlhf.config.load import dump_config
from rlhf.config.recipe import Config
from rlhf.entry import Work, begin, stage_main
from rlhf.errors import ConfigError
from rlhf.hashing import derive_seed, hash_value
from rlhf.models.base import load_base
from rlhf.models.roles import SharedBase
from rlhf.records import CandidateSet, PreferencePair, Prompt, Ranking, read_jsonl, write_jsonl
from rlhf.reward.model import (
    RewardInfo,
    build_reward_base,
    import_reward,
    publish_reward,
    score_texts,
    set_normalisation,
)
from rlhf.reward.scale import scale_samples
from rlhf.reward.trainer import train_reward
from rlhf.reward.trust import find_disagreements, measure_trust
from rlhf.runtime import Runtime, launched_runtime
from rlhf.text import TextFormat

log = logging.getLogger(__name__)
SCORE_BATCH = 64
DISAGREEMENTS = "disagreements.jsonl"


def run(config: Config) -> Path:
    """Train, measure and normalise the reward model, or import one."""
    runtime = launched_runtime(config.launch)
    with begin("reward", config, is_main=runtime.is_main, barrier=runtime.wait) as work:
        base = load_base(work.parents["base"].path, config.base, config.precision)
        runtime.require_same(recipe=hash_value(dump_config(config)), hash_of_the_base=base.weights_hash)
        if config.reward.import_path is not None:
            shared, info = import_reward(base, work.parents["sft"].path, config.reward.import_path)
            info = _change_imported(config, info)
        else:
            shared = build_reward_base(
                base, work.parents["sft"].path, config.reward, derive_seed(config.seed, "reward")
            )
            info = _train(config, shared, base.text, work, runtime)
        publish_reward(shared, info, work.folder, runtime)
        work.draft.processes = runtime.process_count
        work.draft.facts |= {"control": info.control, "pooling": info.pooling, "score_std": info.score_std}
        if info.heads > 1:
            work.draft.facts |= {"heads": info.heads, "uncertainty_penalty": info.uncertainty_penalty}
        final = work.run.folder("reward")
    return final


def _change_imported(config: Config, info: RewardInfo) -> RewardInfo:
    """An imported model can be turned upside down or made more pessimistic, but not trained on shuffled labels."""
    if config.reward.control == "shuffled":
        raise ConfigError("reward.control 'shuffled' shuffles the training labels; an imported reward model has none")
    penalty = config.reward.uncertainty_penalty or info.uncertainty_penalty
    if penalty and info.heads == 1:
        raise ConfigError(
            f"reward.uncertainty_penalty is {penalty}, and the reward model in {config.reward.import_path} has one head, which "
            "has no variance; leave the penalty out, or import a model that was trained with reward.heads 2 or more"
        )
    info = dataclasses.replace(info, uncertainty_penalty=penalty)
    return info if config.reward.control == "none" else dataclasses.replace(info, control="flipped")


def _train(config: Config, shared: SharedBase, text: TextFormat, work: Work, runtime: Runtime) -> RewardInfo:
    pairs = read_jsonl(work.file("pairs", "pairs.jsonl"), PreferencePair)
    apart = frozenset(json.loads(work.file("pairs", "holdout.json").read_text(encoding="utf-8")))
    train = [pair for pair in pairs if pair.prompt_id not in apart]
    held_out = [pair for pair in pairs if pair.prompt_id in apart]
    seed = derive_seed(config.seed, "reward") % 2**31
    outcome = train_reward(shared, text, train, held_out, config.reward, seed, work.folder, work.tracker, runtime)
    accuracy = outcome.calibration.accuracy
    log.info(
        "held-out accuracy %.3f on %d pairs, loss %.3f", accuracy.value, outcome.held_out_pairs, outcome.held_out_loss
    )
    if runtime.is_main:
        figures = json.dumps(outcome.calibration.to_json(), indent=1)
        (work.folder / "calibration.json").write_text(figures, encoding="utf-8")
    work.draft.splits = ("label",)
    work.draft.facts |= {
        "accuracy": accuracy.value,
        "held_out_loss": outcome.held_out_loss,
        "pairs": outcome.pairs,
        "held_out_pairs": outcome.held_out_pairs,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
    }
    if "annotators" in work.parents["pairs"].facts:
        work.draft.facts["annotators"] = work.parents["pairs"].facts["annotators"]
    samples = _sft_samples(config, shared, text, work, runtime)
    info = set_normalisation(outcome.info, shared, text, samples, SCORE_BATCH, min_std=config.reward.min_score_std)
    if (work.parents["pairs"].path / "held_out_rankings.jsonl").is_file():
        _measure_trust(shared, text, info, work, runtime)
    return info


def _measure_trust(shared: SharedBase, text: TextFormat, info: RewardInfo, work: Work, runtime: Runtime) -> None:
    """Score the held-out candidates and say whom the scores agree with; all processes score, one writes."""
    sets = read_jsonl(work.file("pairs", "held_out_candidates.jsonl"), CandidateSet)
    rankings = read_jsonl(work.file("pairs", "held_out_rankings.jsonl"), Ranking)
    apart = json.loads(work.file("pairs", "holdout_annotators.json").read_text(encoding="utf-8"))
    items = [(item.prompt, response) for item in sets for response in item.responses]
    flat = iter(score_texts(shared, text, info, items, SCORE_BATCH))
    scores = {item.prompt_id: [next(flat) for _ in item.responses] for item in sets}
    if not runtime.is_main:
        return
    trust = measure_trust(sets, rankings, scores, apart=frozenset(apart))
    (work.folder / "trust.json").write_text(json.dumps(trust.to_json(), indent=1), encoding="utf-8")
    sharpness = info.sign * info.score_std / info.temperature
    write_jsonl(work.folder / DISAGREEMENTS, find_disagreements(sets, rankings, scores, sharpness))
    if apart:
        known, new = trust.known_annotators.value, trust.new_annotators.value
        log.info("right about %.3f of what known annotators said, %.3f of what new ones said", known, new)


def _sft_samples(
    config: Config, shared: SharedBase, text: TextFormat, work: Work, runtime: Runtime
) -> list[tuple[list[int], list[int]]]:
    prompts = read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt)
    count, seed = config.reward.normalisation_prompts, config.seed
    drawn = scale_samples(
        shared, "policy", text, prompts, count, config.ppo, seed, SCORE_BATCH, in_step=runtime.in_step
    )
    return list(zip(drawn.prompt_ids, drawn.response_ids, strict=True))


if __name__ == "__main__":
    stage_main("reward", run)
