"""What DeepSpeed is told, and what is refused before anything is loaded."""

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch

from rlhf import zero
from rlhf.config.base import LaunchConfig
from rlhf.errors import ConfigError, ResourceError
from rlhf.runtime import launched_runtime, require_gpus
from rlhf.zero import engine_settings, require_sound, trainer_environment


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_trainers_settings_are_those_that_accelerates_launcher_would_name(stage: int) -> None:
    environment = trainer_environment(stage, "optimizer")  # pyright: ignore[reportArgumentType]
    settings = json.loads(Path(environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"]).read_text(encoding="utf-8"))
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert settings["zero_optimization"]["stage"] == stage
    # accelerate fills in what is "auto" from the environment.
    assert settings["zero_optimization"]["offload_optimizer"]["device"] == "auto"
    assert ("offload_param" in settings["zero_optimization"]) == (stage == 3)
    assert environment["ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"] == "cpu"
    assert environment["ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE"] == "none"
    assert trainer_environment(3, "all")["ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE"] == "cpu"


def test_missing_settings_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "recipes_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"zero3\.json: the DeepSpeed settings are missing"):
        trainer_environment(3)


def test_what_is_offloaded_is_in_the_engines_settings() -> None:
    assert "offload_optimizer" not in engine_settings(3)["zero_optimization"]
    assert engine_settings(2, "optimizer")["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    whole = engine_settings(3, "all")["zero_optimization"]
    assert (whole["offload_optimizer"], whole["offload_param"]) == ({"device": "cpu"}, {"device": "cpu"})
    assert "offload_param" not in engine_settings(3, "optimizer")["zero_optimization"]


@pytest.mark.parametrize(("offload", "stage"), [("optimizer", 0), ("all", 0), ("all", 1), ("all", 2)])
def test_offloading_what_the_stage_does_not_share_out_is_refused(offload: str, stage: int) -> None:
    with pytest.raises(ValueError, match=f"offload is '{offload}' and zero is {stage}: it needs zero"):
        LaunchConfig(zero=stage, offload=offload)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("offload", "stage"), [("none", 0), ("optimizer", 1), ("optimizer", 3), ("all", 3)])
def test_offloading_what_the_stage_shares_out_is_taken(offload: str, stage: int) -> None:
    assert LaunchConfig(zero=stage, offload=offload).offload == offload  # pyright: ignore[reportArgumentType]


def test_offloading_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="launch.offload is 'optimizer', and there is no GPU to take it from"):
        launched_runtime(LaunchConfig(zero=2, offload="optimizer"))


@pytest.mark.parametrize(
    ("name", "value", "stage", "message"),
    [
        (
            "ACCELERATE_USE_FSDP",
            "true",
            0,
            "ACCELERATE_USE_FSDP is set: FSDP is not supported; .*launch.zero 3 shares the base",
        ),
        ("ACCELERATE_USE_MEGATRON_LM", "true", 2, "Megatron-LM is not supported"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", 2, "parallelism is not supported"),
        ("ACCELERATE_USE_DEEPSPEED", "true", 0, "launch.zero is 0; set launch.zero to 1, 2 or 3"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", 0, "ACCELERATE_MIXED_PRECISION is 'bf16': the recipe's `precision`"),
    ],
)
def test_an_environment_that_asks_for_something_else_is_refused(
    name: str, value: str, stage: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        require_sound(stage, {name: value})  # pyright: ignore[reportArgumentType]


def test_what_accelerate_launch_leaves_by_default_is_taken() -> None:
    plain = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "false"}
    require_sound(0, plain)
    require_sound(3, plain | {"ACCELERATE_USE_DEEPSPEED": "true"})


def test_a_deepspeed_that_is_known_to_be_broken_or_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "0.19.2")
    with pytest.raises(
        ResourceError, match=r"DeepSpeed 0\.19\.2: ZeRO-3 fails with a bf16 base.*install deepspeed 0\.19\.8"
    ):
        require_sound(3, {})
    require_sound(0, {})

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ResourceError, match="launch.zero is 2, and DeepSpeed is not installed"):
        require_sound(2, {})


def test_more_processes_than_gpus_are_refused() -> None:
    require_gpus(4, 4)
    with pytest.raises(ConfigError, match="8 processes were started here, and there are 4 GPUs"):
        require_gpus(8, 4)


def test_several_processes_that_nobody_launched_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for processes in (1, 8):
        launched_runtime(LaunchConfig(processes=processes, zero=3))
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "launch.processes is 8, and this is one process" in caplog.text
