"""The launcher's lines: what starts on GPUs, what on CPUs, and what is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.base import LaunchConfig
from rlhf.errors import ConfigError
from rlhf.launch import launch_line

RECIPE = Path("recipe.yaml")


def line(stage: str = "ppo", processes: int = 2, zero: int = 0, **options: Any) -> str:
    launch = LaunchConfig(processes=processes, zero=zero, timeout_minutes=2)  # pyright: ignore[reportArgumentType]
    return " ".join(launch_line(stage, RECIPE, ["--seed", "2", "--run", "a b=c"], launch, **options)[1:])


def test_one_node_takes_a_free_port() -> None:
    text = line(zero=2)
    assert text.startswith("-m rlhf.torchrun --nproc_per_node 2 --standalone --shutdown_timeout 120 -m stages.ppo")
    settings = "launch.processes=2 launch.zero=2 launch.offload=none launch.timeout_minutes=2.0"
    assert text.endswith(f"recipe.yaml seed=2 run=a b=c {settings}")


def test_several_nodes_meet_at_the_first() -> None:
    text = line(processes=8, nodes=2, rank=1, address="node-0", port=1234)
    place = "--nnodes 2 --node_rank 1 --master_addr node-0 --master_port 1234"
    assert text.startswith(f"-m rlhf.torchrun --nproc_per_node 8 {place} --shutdown_timeout")


@pytest.mark.parametrize("nodes", [0, -1])
def test_a_number_of_nodes_is_at_least_one(nodes: int) -> None:
    with pytest.raises(ConfigError, match=f"--nodes is {nodes}; give 1 or more"):
        line(nodes=nodes)


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_example_for_slurm_starts_one_node_as_well_as_two(tmp_path: Path, repository: Path, nodes: int) -> None:
    programs = {
        "scontrol": "echo node-0",
        "srun": 'shift; SLURM_NODEID=0 exec "$@"',
        "rlhf": f'exec {sys.executable} -m rlhf.cli "$@" --print',
    }
    for name, does in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_JOB_NODELIST": "node-[0-1]",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_NNODES": str(nodes),
    }
    said = subprocess.run(
        ["bash", str(repository / "configs/slurm.sh"), "ppo", "quickstart", "--zero", "3"],
        env=os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(repository)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    place = "--nnodes 2 --node_rank 0 --master_addr node-0 --master_port 20007" if nodes == 2 else "--standalone"
    assert f"-m rlhf.torchrun --nproc_per_node 4 {place} " in said
    assert re.search(r"-m stages.ppo \S*quickstart.yaml launch.processes=4 launch.zero=3 ", said)


@pytest.mark.parametrize("options", [{"rank": 1}, {"nodes": 2, "address": ""}, {"nodes": 2, "rank": 2, "address": "n"}])
def test_node_numbers_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        line(processes=2, **options)


@pytest.mark.parametrize("port", [0, -5, 65536])
def test_a_port_that_there_is_not_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"--port is {port}; ports go from 1 to 65535"):
        line(nodes=2, address="node-0", port=port)
