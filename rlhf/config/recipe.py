"""The whole configuration of a run: what is said once at the top, and one section per stage."""

from pathlib import Path
from typing import Literal

from rlhf.config.base import BaseConfig, GoldConfig, LaunchConfig, TrackingConfig
from rlhf.config.data import CandidatesConfig, PairsConfig, PromptsConfig, RankingsConfig
from rlhf.config.fields import output, result, section
from rlhf.config.reporting import EvaluateConfig, ExportConfig
from rlhf.config.score import ScoreConfig
from rlhf.config.training import PpoConfig, RewardConfig, SftConfig, require_shares
from rlhf.errors import ConfigError


@section
class Config:
    """A recipe: everything that decides what a run does."""

    run: Path = output()
    """Run folder; relative paths start at the working directory."""
    seed: int = result(1, ge=0, lt=2**31)
    """Seed of everything that is drawn."""
    precision: Literal["fp32", "bf16"] = result("fp32")
    """Number format of the frozen base; adapters, heads and optimiser states stay fp32."""
    base: BaseConfig = result(lambda: BaseConfig())
    """The base model."""
    gold: GoldConfig = result(lambda: GoldConfig())
    """Gold scorer of simulations."""
    score: ScoreConfig = result(lambda: ScoreConfig())
    """What a response is scored by, in PPO and in evaluation."""
    launch: LaunchConfig = result(lambda: LaunchConfig())
    """Processes and ZeRO stage of the stages that compute."""
    tracking: TrackingConfig = result(lambda: TrackingConfig())
    """Trackers and progress bars."""
    prompts: PromptsConfig = result(lambda: PromptsConfig())
    """Stage `prompts`."""
    sft: SftConfig = result(lambda: SftConfig())
    """Stage `sft`."""
    candidates: CandidatesConfig = result(lambda: CandidatesConfig())
    """Stage `candidates`."""
    rankings: RankingsConfig = result(lambda: RankingsConfig())
    """Stage `rankings`."""
    pairs: PairsConfig = result(lambda: PairsConfig())
    """Stage `pairs`."""
    reward: RewardConfig = result(lambda: RewardConfig())
    """Stage `reward`."""
    ppo: PpoConfig = result(lambda: PpoConfig())
    """Stage `ppo`."""
    evaluate: EvaluateConfig = result(lambda: EvaluateConfig())
    """Stage `evaluate`."""
    export: ExportConfig = result(lambda: ExportConfig())
    """Stage `export`."""


def batches(config: Config) -> dict[str, int]:
    """Return the batches that processes share, by the name of their setting."""
    ppo = config.ppo
    shared = {"sft.batch_size": config.sft.batch_size} if config.sft.method == "lora" else {}
    if config.score.reward:
        shared["reward.batch_prompts"] = config.reward.batch_prompts
    shared |= {"ppo.batch_size": ppo.batch_size, "ppo.minibatch_size": ppo.minibatch_size}
    if ppo.samples_per_prompt > 1:
        shared["ppo.batch_size / ppo.samples_per_prompt"] = ppo.batch_size // ppo.samples_per_prompt
    return shared


def require_shared_batches(config: Config) -> None:
    """Refuse before the first stage the batches that a later one would refuse on as many processes as the recipe launches.

    Raises:
        ConfigError: Some do not divide; all are named.
    """
    wrong = unshared_batches(config, config.launch.processes)
    if wrong:
        raise ConfigError("; ".join(wrong))


def unshared_batches(config: Config, processes: int) -> list[str]:
    """Say which batches so many processes cannot share evenly."""
    wrong: list[str] = []
    for name, whole in batches(config).items():
        try:
            require_shares(whole, processes, name)
        except ValueError as error:
            wrong.append(str(error))
    return wrong
