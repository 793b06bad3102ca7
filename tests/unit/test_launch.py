"""The launcher's lines: what starts on GPUs, what on CPUs, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from rlhf import launch
from rlhf.errors import ConfigError
from rlhf.launch import launch_line

RECIPE = Path("recipe.yaml")


def line(stage: str = "ppo", **options: Any) -> str:
    return " ".join(launch_line(stage, RECIPE, ["--seed", "2", "--run", "a b=c"], **options)[1:])


def test_cpu_host_starts_processes_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_gpu", lambda: False)
    text = line(processes=2, zero=2)
    assert text.startswith("-m torch.distributed.run --nproc_per_node 2 --nnodes 1")
    assert text.endswith("-m stages.ppo recipe.yaml seed=2 run=a b=c launch.processes=2 launch.zero=2")


def test_gpu_host_uses_accelerate_on_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    text = line(processes=8, zero=2, nodes=2, rank=1, address="node-0")
    assert "accelerate.commands.launch --num_processes 16 --num_machines 2 --machine_rank 1" in text
    assert "--main_process_ip node-0" in text
    assert "--multi_gpu" in text


def test_sft_gets_deepspeed_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    text = line("sft", processes=8, zero=3)
    assert "--use_deepspeed --deepspeed_config_file" in text
    assert "zero3.json" in text


@pytest.mark.parametrize(("name", "value"), [("processes", 0), ("processes", -3), ("nodes", 0), ("nodes", -1)])
def test_a_number_of_processes_or_nodes_is_at_least_one(name: str, value: int) -> None:
    options: dict[str, Any] = {"processes": 2, name: value}
    with pytest.raises(ConfigError, match=f"--{name} is {value}; give 1 or more"):
        line(**options)


@pytest.mark.parametrize("options", [{"rank": 1}, {"nodes": 2}, {"nodes": 2, "rank": 2, "address": "n"}])
def test_node_numbers_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        line(processes=2, **options)
