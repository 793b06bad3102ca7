"""The whole configuration of a run: what is said once at the top, and one section per stage."""

from pathlib import Path
from typing import Literal

from rlhf.config.base import BaseConfig, GoldConfig, LaunchConfig, TrackingConfig
from rlhf.config.data import CandidatesConfig, PairsConfig, PromptsConfig, RankingsConfig
from rlhf.config.fields import output, result, section
from rlhf.config.reporting import EvaluateConfig, ExportConfig
from rlhf.config.score import ScoreConfig
from rlhf.config.training import PpoConfig, RewardConfig, SftConfig


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
    """Processes and ZeRO stage of training stages."""
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
