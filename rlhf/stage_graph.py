"""The pipeline as a graph: which stages there are, what each reads, and which settings decide its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf.artifacts import Artifact, Inputs, RunFolder
from rlhf.config.fields import result_fields
from rlhf.config.recipe import Config
from rlhf.config.score import ScoreConfig
from rlhf.errors import ArtifactError
from rlhf.models.origin import outside_folder
from rlhf.reward.functions import source_file

StageName = Literal["base", "prompts", "sft", "candidates", "rankings", "pairs", "reward", "ppo", "evaluate", "export"]
STAGES: tuple[StageName, ...] = get_args(StageName)
LAUNCHED: frozenset[StageName] = frozenset({"sft", "candidates", "reward", "ppo", "evaluate"})
"""Stages that run under the launcher when `launch.processes` is above 1."""

_PARENTS: dict[StageName, tuple[StageName, ...]] = {
    "base": (),
    "prompts": ("base",),
    "sft": ("base", "prompts"),
    "candidates": ("base", "prompts", "sft"),
    "rankings": ("candidates",),
    "pairs": ("candidates", "rankings"),
    "reward": ("base", "prompts", "sft", "pairs"),
    "ppo": ("base", "prompts", "sft", "reward"),
    "evaluate": ("base", "prompts", "sft", "reward", "ppo"),
    "export": ("base", "prompts", "sft", "ppo", "evaluate"),
}
_IMPORTED_PARENTS: dict[StageName, tuple[StageName, ...]] = {
    "sft": ("base",),
    "candidates": ("base", "prompts"),
    "pairs": ("base", "prompts"),
    "reward": ("base", "sft"),
    "ppo": ("base", "prompts", "sft"),
}
_COLUMNS: dict[StageName, tuple[str, ...]] = {
    "candidates": ("prompt", "responses"),
    "rankings": ("prompt", "responses", "ranks", "scores", "annotator"),
    "pairs": ("prompt", "chosen", "rejected", "margin"),
}
"""Columns of an imported file that the settings `NAME_field` name."""
_SEEDED = frozenset({"prompts", "sft", "candidates", "rankings", "pairs", "reward", "ppo", "evaluate"})
_COMPUTED = frozenset({"sft", "candidates", "reward", "ppo", "evaluate", "export"})
_USES_GOLD = frozenset({"rankings", "evaluate"})
_USES_SCORE = frozenset({"ppo", "evaluate"})


def import_path(stage: StageName, config: Config) -> Path | None:
    """Return where a stage's artifact is imported from, if it is."""
    return getattr(getattr(config, stage), "import_path", None)


def parents_of(stage: StageName, config: Config) -> tuple[StageName, ...]:
    """Return the stages whose artifacts a stage reads under this configuration."""
    if import_path(stage, config) is not None and stage in _IMPORTED_PARENTS:
        return _IMPORTED_PARENTS[stage]
    if stage == "sft" and config.sft.method == "none":
        return ("base",)
    if config.score.reward == 0 and stage in _USES_SCORE:
        return tuple(parent for parent in _PARENTS[stage] if parent != "reward")
    return _PARENTS[stage]


def needed_stages(config: Config, target: StageName = "export") -> tuple[StageName, ...]:
    """Return the stages that lead to a target, in order; what an import makes superfluous is left out."""
    needed: set[StageName] = set()
    waiting: list[StageName] = [target]
    while waiting:
        stage = waiting.pop()
        if stage not in needed:
            needed.add(stage)
            waiting.extend(parents_of(stage, config))
    return tuple(stage for stage in STAGES if stage in needed)


def fields_of(stage: StageName, config: Config) -> dict[str, Any]:
    """Return the settings that decide a stage's result, by their dotted names."""
    section = getattr(config, stage)
    fields = result_fields(section, f"{stage}.")
    if import_path(stage, config) is not None:
        fields = {name: value for name, value in fields.items() if name in _kept_with_import(stage)}
    elif stage in _COLUMNS:
        fields = {name: value for name, value in fields.items() if name not in _column_settings(stage)}
    if stage == "base" and config.base.model != "embedded":
        fields = {name: value for name, value in fields.items() if not name.startswith("base.embedded.")}
    if stage == "rankings" and config.rankings.source == "people":
        fields = {name: value for name, value in fields.items() if not name.startswith("rankings.scripted.")}
    if stage == "reward":
        unread = _unread_by_reward(config)
        fields = {name: value for name, value in fields.items() if not name.startswith(unread)}
    if stage in _SEEDED or (stage == "base" and config.base.model == "embedded"):
        fields["seed"] = config.seed
    if stage in _COMPUTED:
        fields["precision"] = config.precision
    if stage == "evaluate" or (stage == "rankings" and config.rankings.source == "scripted"):
        fields |= result_fields(config.gold, "gold.")
    if _scores(stage, config):
        fields |= _score_fields(config.score)
    return fields


def _unread_by_reward(config: Config) -> tuple[str, ...]:
    """Return beginnings of names of settings that the reward model does not heed, with its own base or without."""
    if config.reward.base.model is None:
        return ("reward.base.", "reward.tuning")
    lora = ("reward.lora.",) if config.reward.tuning == "full" else ()
    return ("reward.init", "reward.pooling", "reward.heads", "reward.uncertainty_penalty", *lora)


def _scores(stage: StageName, config: Config) -> bool:
    return stage in _USES_SCORE and import_path(stage, config) is None


def _score_fields(config: ScoreConfig) -> dict[str, Any]:
    """Return what a recipe says beyond the default: one that says nothing of scores has the inputs it always had."""
    default, fields = result_fields(ScoreConfig(), "score."), result_fields(config, "score.")
    if not config.measures:
        del fields["score.normalisation_prompts"]
    return {name: value for name, value in fields.items() if name not in default or value != default[name]}


def _kept_with_import(stage: StageName) -> set[str]:
    kept = {f"{stage}.import_path", *_column_settings(stage)}
    if stage == "pairs":
        kept |= {"pairs.holdout"}
    if stage == "rankings":
        kept |= {"rankings.min_agreement"}
    if stage == "reward":
        kept |= {"reward.control", "reward.uncertainty_penalty"}
    return kept


def _column_settings(stage: StageName) -> set[str]:
    return {f"{stage}.{column}_field" for column in _COLUMNS.get(stage, ())}


def external_files(stage: StageName, config: Config) -> tuple[Path, ...]:
    """Return the outside files and folders that a stage reads.

    Raises:
        ConfigError: The file of a score function, or a model's folder, is not there; or a hub model is not pinned.
    """
    paths: list[Path] = []
    imported = import_path(stage, config)
    if imported is not None:
        paths.append(imported)
    if stage == "base" and (local := Path(config.base.model)).is_dir():
        paths.append(local)
    if stage == "prompts":
        sources = (*config.prompts.sources, *config.prompts.demonstrations)
        paths += [Path(source) for source in sources if source != "embedded" and not source.startswith("hub:")]
    if stage in _USES_GOLD and config.gold.lexicon is not None:
        paths.append(config.gold.lexicon)
    if stage == "reward" and (own := config.reward.base).model is not None:
        folder = outside_folder(own.model, own.revision, "reward.base")
        paths += [folder] if folder else []
    if _scores(stage, config):
        folders = (
            outside_folder(source.model, source.revision, f"score.classifiers.{name}")
            for name, source in config.score.classifiers.items()
        )
        paths += [folder for folder in folders if folder]
        paths += [source_file(source.function) for source in config.score.functions.values()]
    return tuple(paths)


def rounds_used(stage: StageName, config: Config, run: RunFolder) -> dict[str, Literal["pairs", "ppo"]]:
    """Return artifacts of the previous round that a stage reads, by the name it gives them."""
    if import_path(stage, config) is not None:
        return {}
    if stage == "candidates":
        wanted = config.candidates.policy == "previous" or (config.candidates.policy == "current" and run.round > 1)
        return {"previous-policy": "ppo"} if wanted else {}
    if stage == "pairs" and config.pairs.rounds == "all" and run.round > 1:
        # An earlier round may have had its reward model from elsewhere.
        return {"previous-pairs": "pairs"} if run.previous().find("pairs") else {}
    if stage in ("ppo", "evaluate") and "previous" in (config.ppo.start, config.ppo.reference):
        return {"previous-policy": "ppo"}
    return {}


def read_parents(stage: StageName, config: Config, run: RunFolder) -> dict[str, Artifact]:
    """Open all artifacts that a stage reads.

    Raises:
        ArtifactError: One is missing.
    """
    parents = {name: run.read(name, stage) for name in parents_of(stage, config)}
    for name, previous in rounds_used(stage, config, run).items():
        parents[name] = run.previous().read(previous, stage)
    return parents


def inputs_of(stage: StageName, config: Config, run: RunFolder, parents: Mapping[str, Artifact]) -> Inputs:
    """Return everything that decides what a stage will make.

    Raises:
        DataError: An outside file does not exist.
    """
    return Inputs(
        stage=stage,
        fields=fields_of(stage, config),
        parents={name: artifact.identity for name, artifact in parents.items()},
        external={str(path): run.hashes.hash_source(path) for path in external_files(stage, config)},
    )


@dataclass(frozen=True, slots=True)
class StageState:
    """Whether a stage has to run, and why."""

    stage: StageName
    state: Literal["finished", "missing", "partial", "stale"]
    reasons: tuple[str, ...] = ()
    artifact: Artifact | None = None


def stage_states(config: Config, run: RunFolder, target: StageName = "export") -> list[StageState]:
    """Compare each needed stage's artifact with what it would be made from now, and its files with their sizes.

    A stage below a stale one is stale too: its parent will have another identity.
    """
    states: list[StageState] = []
    again: set[str] = set()
    for stage in needed_stages(config, target):
        state = _state_of(stage, config, run, again)
        if state.state != "finished":
            again.add(stage)
        states.append(state)
    return states


def _state_of(stage: StageName, config: Config, run: RunFolder, again: set[str]) -> StageState:
    found = run.find(stage)
    above = tuple(f"{parent} runs again" for parent in parents_of(stage, config) if parent in again)
    if found is None:
        partial = run.folder(stage).with_name(f"{stage}.partial").is_dir()
        return StageState(stage, "partial" if partial else "missing", ("begun and not finished",) if partial else ())
    damage = tuple(found.damage())
    if above:
        return StageState(stage, "stale", (*damage, *_own_changes(stage, config, found), *above), found)
    try:
        inputs = inputs_of(stage, config, run, read_parents(stage, config, run))
    except ArtifactError as error:
        return StageState(stage, "stale", (*damage, str(error)), found)
    reasons = (*damage, *inputs.changes_from(found.manifest.inputs))
    return StageState(stage, "stale" if reasons else "finished", reasons, found)


def _own_changes(stage: StageName, config: Config, found: Artifact) -> list[str]:
    old = found.manifest.inputs
    return Inputs(stage, fields_of(stage, config), old.parents, old.external).changes_from(old)
