"""The exact line that starts a stage on several processes: accelerate's launcher on GPUs, torch's on CPUs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rlhf.config.load import read_overrides, recipes_folder
from rlhf.errors import ConfigError

ZERO_FILES = {2: "deepspeed/zero2.json", 3: "deepspeed/zero3.json"}


def launch_line(
    stage: str,
    recipe: Path,
    overrides: Sequence[str],
    *,
    processes: int,
    zero: Literal[0, 2, 3] = 0,
    nodes: int = 1,
    rank: int = 0,
    address: str = "127.0.0.1",
    port: int = 29500,
) -> list[str]:
    """Return the command that starts `processes` processes per node.

    Raises:
        ConfigError: A number is below 1, the node numbers do not fit, or a DeepSpeed file is missing.
    """
    for name, count in (("--processes", processes), ("--nodes", nodes)):
        if count < 1:
            raise ConfigError(f"{name} is {count}; give 1 or more")
    if not 0 <= rank < nodes:
        raise ConfigError(f"--rank is {rank}, --nodes is {nodes}; ranks go from 0 to {nodes - 1}")
    if nodes > 1 and address == "127.0.0.1":
        raise ConfigError("--nodes above 1 needs --address, the name of node 0 as the others reach it")
    # Without dashes: the launchers take `--run` for an abbreviation of an option of their own.
    settings = [f"{field}={text}" for field, text in read_overrides(overrides)]
    settings += [f"launch.processes={processes}", f"launch.zero={zero}"]
    program = ["-m", f"stages.{stage}", str(recipe), *settings]
    if not has_gpu():
        return [*_cpu_launcher(processes, nodes, rank, address, port), *program]
    line = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes * nodes)]
    line += [
        "--num_machines",
        str(nodes),
        "--machine_rank",
        str(rank),
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    line += ["--main_process_ip", address, "--main_process_port", str(port)]
    if zero and stage == "sft":
        line += ["--use_deepspeed", "--deepspeed_config_file", str(_deepspeed_file(zero))]
        line += ["--deepspeed_multinode_launcher", "standard"] if nodes > 1 else []
    elif processes * nodes > 1:
        line += ["--multi_gpu"]
    return [*line, *program]


def _cpu_launcher(processes: int, nodes: int, rank: int, address: str, port: int) -> list[str]:
    """Without GPUs accelerate's launcher starts one process only; torch's starts all of them."""
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--nnodes", str(nodes)]
    return [*line, "--node_rank", str(rank), "--master_addr", address, "--master_port", str(port)]


def _deepspeed_file(zero: Literal[2, 3]) -> Path:
    """The settings that reach TRL's trainer through the launcher; ppo and reward make theirs themselves."""
    path = recipes_folder() / ZERO_FILES[zero]
    if not path.is_file():
        raise ConfigError(f"{path}: the DeepSpeed settings are missing from this installation")
    return path


def launch_environment() -> dict[str, str]:
    """Return the environment of launched processes; without a GPU DeepSpeed must be told to use the CPU."""
    cpu = {} if has_gpu() else {"DS_ACCELERATOR": "cpu"}
    return os.environ | cpu


def has_gpu() -> bool:
    """Say whether this machine has a GPU, without importing torch, which would take seconds."""
    return Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()
