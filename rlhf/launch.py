"""The exact line that starts a stage on several processes, by torch's launcher (see `rlhf.torchrun`)."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf.config.base import LaunchConfig
from rlhf.config.load import read_overrides
from rlhf.errors import ConfigError

PORT = 29500


def launch_line(
    stage: str,
    recipe: Path,
    overrides: Sequence[str],
    launch: LaunchConfig,
    *,
    nodes: int = 1,
    rank: int = 0,
    address: str = "",
    port: int = PORT,
) -> list[str]:
    """Return the command that starts this node's processes.

    Args:
        stage: Which stage.
        recipe: Its recipe.
        overrides: Settings as given on the command line.
        launch: Processes per node, ZeRO stage, offloading and time limit; the stage gets these, whatever the recipe says.
        nodes: How many nodes there are, each with a command of its own.
        rank: This node's number.
        address: Node 0 as the others reach it.
        port: A free port of node 0.

    Raises:
        ConfigError: The node numbers do not fit, or there is no such port.
    """
    if nodes < 1:
        raise ConfigError(f"--nodes is {nodes}; give 1 or more")
    if not 0 <= rank < nodes:
        raise ConfigError(f"--rank is {rank}, --nodes is {nodes}; ranks go from 0 to {nodes - 1}")
    if nodes > 1 and not address:
        raise ConfigError("--nodes above 1 needs --address, the name of node 0 as the others reach it")
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port is {port}; ports go from 1 to 65535")
    # Without dashes: the launcher takes `--run` for an abbreviation of an option of its own.
    settings = [f"{field}={text}" for field, text in read_overrides(overrides)]
    settings += [
        f"launch.{name}={getattr(launch, name)}" for name in ("processes", "zero", "offload", "timeout_minutes")
    ]
    line = [sys.executable, "-m", "rlhf.torchrun", "--nproc_per_node", str(launch.processes)]
    # Alone, a node takes whatever port is free.
    place = ["--nnodes", str(nodes), "--node_rank", str(rank), "--master_addr", address, "--master_port", str(port)]
    line += place if nodes > 1 else ["--standalone"]
    # A stage that is told to stop finishes its update and writes a checkpoint first.
    line += ["--shutdown_timeout", str(round(60 * launch.timeout_minutes))]
    return [*line, "-m", f"stages.{stage}", str(recipe), *settings]


def launch_environment() -> dict[str, str]:
    """Return the environment of launched processes; without a GPU DeepSpeed must be told to use the CPU."""
    cpu = {} if has_gpu() else {"DS_ACCELERATOR": "cpu"}
    return os.environ | cpu


def has_gpu() -> bool:
    """Say whether this machine has a GPU, without importing torch, which would take seconds."""
    return Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()
