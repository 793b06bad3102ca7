"""Stage reward: an adapter and its scalar heads on the shared base, or a model of its own, learn to score as people rank.

Reads base, prompts, sft and pairs. Writes a PEFT folder and head.safetensors, or, with `reward.base`, a sequence classifier and
its tokenizer; reward.json (pooling, score normalisation, base hash), calibration.json, and, where people ranked, trust.json (accuracy by annotator and source) and
disagreements.jsonl (the held-out prompts on which model and people differ most). All pairs of a prompt are in one step and
each candidate is forwarded once (Ouyang et al. 2022, equation 1). Scores are normalised to mean 0 and standard deviation 1
on SFT responses to prompts of the ppo split (Ziegler et al. 2019).

    rlhf reward CONFIG      python -m stages.reward CONFIG
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf.config.recipe import Config
from rlhf.entry import Work, begin, stage_main
from rlhf.errors import ConfigError
from rlhf.hashing import derive_seed
from rlhf.models.base import load_base
from rlhf.models.classifiers import unsharded
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.records import CandidateSet, PreferencePair, Prompt, PromptText, Ranking, read_jsonl, write_jsonl
from rlhf.reward.model import (
    RewardInfo,
    build_reward_base,
    finish_reward,
    import_reward,
    load_reward_info,
    publish_reward,
    score_texts,
    set_normalisation,
    with_scale,
)
from rlhf.reward.own_base import build_own_model, import_own_reward, load_own_reward, save_own_model
from rlhf.reward.scale import scale_prompts, scale_samples
from rlhf.reward.trainer import RewardOutcome, train_model, train_reward
from rlhf.reward.trust import find_disagreements, measure_trust
from rlhf.runtime import Runtime, launched_runtime
from rlhf.text import TextFormat

log = logging.getLogger(__name__)
DISAGREEMENTS = "disagreements.jsonl"
Learn = Callable[[list[PreferencePair], list[PreferencePair], int], RewardOutcome]
Score = Callable[[list[tuple[PromptText, str]]], list[float]]


def run(config: Config) -> Path:
    """Train, measure and normalise the reward model, or import one."""
    runtime = launched_runtime(config.launch)
    with begin("reward", config, is_main=runtime.is_main, barrier=runtime.wait) as work:
        if config.reward.import_path is not None:
            info = _import(config, config.reward.import_path, work, runtime)
        elif config.reward.base.model is not None:
            info = _train_own(config, config.reward.base.model, work, runtime)
        else:
            info = _train_role(config, work, runtime)
        work.draft.processes = runtime.process_count
        work.draft.facts |= {"control": info.control, "pooling": info.pooling, "score_std": info.score_std}
        if info.heads > 1:
            work.draft.facts |= {"heads": info.heads, "uncertainty_penalty": info.uncertainty_penalty}
        final = work.run.folder("reward")
    return final


def _import(config: Config, source: Path, work: Work, runtime: Runtime) -> RewardInfo:
    info = load_reward_info(source)
    runtime.require_same(config, info.base_weights_hash)
    if info.has_own_base:
        info = _change_imported(config, info)
        import_own_reward(source, info, config.precision, work.folder, runtime)
        return info
    base = load_base(work.parents["base"].path, config.base, config.precision)
    shared, info = import_reward(base, work.parents["sft"].path, source)
    info = _change_imported(config, info)
    publish_reward(shared, info, work.folder, runtime)
    return info


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


def _train_role(config: Config, work: Work, runtime: Runtime) -> RewardInfo:
    base, sft = load_base(work.parents["base"].path, config.base, config.precision), work.parents["sft"].path
    runtime.require_same(config, base.weights_hash)
    shared = build_reward_base(base, sft, config.reward, derive_seed(config.seed, "reward"))

    def learn(train: list[PreferencePair], held_out: list[PreferencePair], seed: int) -> RewardOutcome:
        return train_reward(shared, base.text, train, held_out, config.reward, seed, work.folder, work.tracker, runtime)

    info = _learn(config, learn, work, runtime)
    samples = _sft_samples(config, shared, base.text, work, runtime)
    batch = config.reward.score_batch_size
    info = set_normalisation(info, shared, base.text, samples, batch, min_std=config.reward.min_score_std)
    _measure_trust(lambda items: score_texts(shared, base.text, info, items, batch), info, work, runtime)
    publish_reward(shared, info, work.folder, runtime)
    return info


def _train_own(config: Config, name: str, work: Work, runtime: Runtime) -> RewardInfo:
    """Train a model with a base of its own; scale and trust are those of the frozen model that is read back from disk."""
    reward, seed = config.reward, derive_seed(config.seed, "reward")
    if reward.tuning == "full" and reward.learning_rate >= 1e-4:
        log.warning(
            "reward.learning_rate is %g, a rate for adapters; where every weight learns 1e-5 is usual",
            reward.learning_rate,
        )
    model, text, blank = build_own_model(reward, config.precision, seed)
    runtime.require_same(config, blank.base_weights_hash)
    prompts, responses = _sft_texts(config, work)

    def learn(train: list[PreferencePair], held_out: list[PreferencePair], seed: int) -> RewardOutcome:
        return train_model(model, blank, text, train, held_out, reward, seed, work.folder, work.tracker, runtime)

    info = _learn(config, learn, work, runtime)
    save_own_model(model, text, work.folder, runtime)
    frozen = load_own_reward(work.folder, config.precision)
    raw = frozen.score(prompts, responses, reward.score_batch_size)
    info = with_scale(info, [[score] for score in raw], min_std=reward.min_score_std)

    def score(items: list[tuple[PromptText, str]]) -> list[float]:
        asked, given = [prompt for prompt, _ in items], [response for _, response in items]
        return [info.normalise([value]) for value in frozen.score(asked, given, reward.score_batch_size)]

    _measure_trust(score, info, work, runtime)
    finish_reward(info, work.folder, runtime)
    shown = Path(name).expanduser().name if Path(name).expanduser().is_dir() else name  # names no one's folders
    work.draft.facts |= {"reward_base": shown, "reward_base_hash": info.base_weights_hash, "tuning": reward.tuning}
    return info


def _learn(config: Config, learn: Learn, work: Work, runtime: Runtime) -> RewardInfo:
    """Train on all pairs but the held-out ones; record how well it went."""
    pairs = read_jsonl(work.file("pairs", "pairs.jsonl"), PreferencePair)
    apart = frozenset(json.loads(work.file("pairs", "holdout.json").read_text(encoding="utf-8")))
    train = [pair for pair in pairs if pair.prompt_id not in apart]
    held_out = [pair for pair in pairs if pair.prompt_id in apart]
    seed = derive_seed(config.seed, "reward") % 2**31
    outcome = learn(train, held_out, seed)
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
    return outcome.info


def _measure_trust(score: Score, info: RewardInfo, work: Work, runtime: Runtime) -> None:
    """Score the held-out candidates that people ranked and say whom the scores agree with; all processes score, one writes."""
    if not (work.parents["pairs"].path / "held_out_rankings.jsonl").is_file():
        return
    sets = read_jsonl(work.file("pairs", "held_out_candidates.jsonl"), CandidateSet)
    rankings = read_jsonl(work.file("pairs", "held_out_rankings.jsonl"), Ranking)
    apart = json.loads(work.file("pairs", "holdout_annotators.json").read_text(encoding="utf-8"))
    items = [(item.prompt, response) for item in sets for response in item.responses]
    flat = iter(score(items))
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
    count, size = config.reward.normalisation_prompts, config.reward.score_batch_size
    drawn = scale_samples(
        shared, "policy", text, prompts, count, config.ppo, config.seed, size, in_step=runtime.in_step
    )
    return list(zip(drawn.prompt_ids, drawn.response_ids, strict=True))


def _sft_texts(config: Config, work: Work) -> tuple[Sequence[PromptText], list[str]]:
    """Return prompts and the SFT policy's responses as text; the base, whole in every process, is let go again."""
    prompts = read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt)
    with unsharded():
        base = load_base(work.parents["base"].path, config.base, config.precision)
    shared = build_shared_base(base, {"policy": RoleSource(folder=work.parents["sft"].path)})
    count, size = config.reward.normalisation_prompts, config.reward.score_batch_size
    drawn = scale_samples(shared, "policy", base.text, prompts, count, config.ppo, config.seed, size)
    asked = [row.prompt for row in scale_prompts(prompts, count)]
    return asked, [base.text.decode_response(ids) for ids in drawn.response_ids]


if __name__ == "__main__":
    stage_main("reward", run)
