"""DeepSpeed's settings for each ZeRO stage (Rajbhandari et al. 2020), and what a launcher's environment may say.

PPO and reward training hand their settings to accelerate. TRL's trainer takes its own from the environment, as accelerate's
launcher would have left it there; we write it ourselves, so that every launcher will do.
"""

import os
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from rlhf.config.base import Offload, Zero
from rlhf.config.load import recipes_folder
from rlhf.errors import ConfigError, ResourceError

BROKEN = {"0.19.2": "ZeRO-3 fails with a bf16 base and fp32 adapters (DeepSpeed issue 8072)"}
FOREIGN = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}


def engine_settings(zero: Zero, offload: Offload = "none") -> dict[str, Any]:
    """Return our DeepSpeed settings: accumulation 1, boundaries are set by us, everything in the weights' own format."""
    settings: dict[str, Any] = {
        "stage": zero,
        "overlap_comm": False,
        "contiguous_gradients": True,
        # A trace of one role's forward pass is no guide to what the next pass of another role will need.
        "stage3_prefetch_bucket_size": 0,
        "stage3_max_reuse_distance": 0,
    }
    if offload != "none":
        settings["offload_optimizer"] = {"device": "cpu"}
    if offload == "all":
        settings["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": settings,
    }


def trainer_environment(zero: Zero, offload: Offload = "none") -> dict[str, str]:
    """Return what accelerate's launcher leaves in the environment for a trainer that is to run under DeepSpeed.

    Raises:
        ConfigError: The file of settings is missing.
    """
    path = recipes_folder() / f"deepspeed/zero{zero}.json"
    if not path.is_file():
        raise ConfigError(f"{path}: the DeepSpeed settings are missing from this installation")
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path),
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none" if offload == "none" else "cpu",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu" if offload == "all" else "none",
    }


def require_sound(zero: Zero, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse what would not train as asked, before anything is loaded.

    Raises:
        ConfigError: The launcher asks for another way of sharing work, or for another number format.
        ResourceError: DeepSpeed is missing, or of a version that is known to be broken.
    """
    for name, what in FOREIGN.items():
        if _is_set(environment.get(name, "")):
            raise ConfigError(
                f"{name} is set: {what} is not supported; start with `rlhf launch`, or choose plain data parallelism in the "
                "file that `accelerate config` wrote; launch.zero 3 shares the base among GPUs"
            )
    if _is_set(environment.get("ACCELERATE_USE_DEEPSPEED", "")) and not zero:
        raise ConfigError(
            "ACCELERATE_USE_DEEPSPEED is set and launch.zero is 0; set launch.zero to 1, 2 or 3 for DeepSpeed, or choose "
            "plain data parallelism in the file that `accelerate config` wrote"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("", "no"):
        raise ConfigError(
            f"ACCELERATE_MIXED_PRECISION is {precision!r}: the recipe's `precision` says how the base is stored, and adapters "
            "train in fp32; start with `rlhf launch`, or with `accelerate launch --mixed_precision no`"
        )
    if zero:
        _require_deepspeed(zero)


def leave_all_to_gloo() -> None:
    """Keep DeepSpeed from compiling a kernel for shared memory at its first start on CPUs.

    A build that is killed leaves a lock, for which every later start would wait without an end.
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _require_deepspeed(zero: Zero) -> None:
    try:
        version = metadata.version("deepspeed")
    except metadata.PackageNotFoundError as error:
        raise ResourceError(
            f"launch.zero is {zero}, and DeepSpeed is not installed; install the deepspeed extra, or set launch.zero to 0"
        ) from error
    if version in BROKEN:
        raise ResourceError(f"DeepSpeed {version}: {BROKEN[version]}; install deepspeed 0.19.8")


def _is_set(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on")
