"""What runs on an NVIDIA GPU gives what the CPU gives; several processes need several GPUs, one takes every ZeRO stage."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.models.logprobs import response_logprobs
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.sampling import Sampling, sample
from rlhf.text import TextFormat
from rlhf.tracking import read_metrics
from tests.distributed.ppo_program import ROLLOUT
from tests.tiny import shake, tiny_base, tiny_roles

pytestmark = pytest.mark.gpu
REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "tests/pipeline/tiny.yaml"
SAME = ("ppo/score_mean", "ppo/kl_nats", "ppo/length_tokens", "ppo/policy_loss", "ppo/value_loss", "ppo/grad_norm")


def make(folder: Path, device: str, precision: str = "fp32") -> tuple[SharedBase, TextFormat]:
    base = tiny_base(folder, scale=3.0, precision=precision)
    shared = build_shared_base(base, tiny_roles())
    shake(shared, "policy")
    return shared.to(device), base.text


def test_the_base_is_loaded_onto_the_gpu(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    assert base.model.device.type == "cuda"
    assert build_shared_base(base, tiny_roles()).device.type == "cuda"


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_logprobs_and_gradients_are_those_of_the_cpu(tmp_path: Path, precision: str, tolerance: float) -> None:
    found: dict[str, list[torch.Tensor]] = {}
    for device, number in (("cpu", "fp32"), ("cuda", precision)):
        shared, _ = make(tmp_path, device, number)
        ids = torch.arange(2, 26).view(2, 12).to(device)
        response = (torch.arange(12) >= 5).expand(2, 12).to(device)
        logprobs, entropy = response_logprobs(shared, "policy", ids, None, response, 0.9, entropy=True)
        logprobs.sum().backward()
        gradients = [parameter.grad for _, parameter in shared.trainable("policy")]
        norm = torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).cpu()
        found[device] = [logprobs.detach().cpu(), entropy.cpu(), norm / norm.norm()]
    for theirs, ours in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.allclose(ours, theirs, atol=tolerance), (ours - theirs).abs().max()


def test_the_same_uniforms_draw_the_same_tokens(tmp_path: Path) -> None:
    drawn = {}
    for device in ("cpu", "cuda"):
        shared, text = make(tmp_path, device)
        prompts = [text.encode_prompt("the cat" + " on a dog" * (index % 4)) for index in range(32)]
        found = sample(
            shared, "policy", prompts, text, Sampling(1.0, 16), seed=1, batch_size=10, keys=range(len(prompts))
        )
        drawn[device] = found
    same = [ours == theirs for ours, theirs in zip(*(found.response_ids for found in drawn.values()), strict=True)]
    # A draw within rounding of a boundary may fall on the other side.
    assert sum(same) >= len(same) - 1
    for row, equal in enumerate(same):
        if equal:
            ours, theirs = (torch.tensor(found.logprobs[row]) for found in drawn.values())
            assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpu")
    _ppo(folder, 0, "windows", hidden=True)
    return folder


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_three_updates_of_recorded_episodes_are_those_of_the_cpu(tmp_path: Path, on_cpu: Path, zero: int) -> None:
    shutil.copytree(on_cpu / "base", tmp_path / "base")
    shutil.copy(on_cpu / ROLLOUT, tmp_path / ROLLOUT)
    _ppo(tmp_path, zero, "windows")
    for window in (1, 2, 3):
        for name in ("policy/adapter_model", "critic/adapter_model", "critic/head"):
            ours, theirs = (
                load_file(folder / f"windows/after-{window}/{name}.safetensors") for folder in (tmp_path, on_cpu)
            )
            for key, tensor in theirs.items():
                assert torch.allclose(ours[key], tensor, atol=1e-3), (window, name, key)


def test_a_run_resumed_on_a_gpu_goes_on_as_the_one_that_never_stopped(tmp_path: Path) -> None:
    _ppo(tmp_path, 0, "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed", ignore=shutil.ignore_patterns("update-000003"))
    _ppo(tmp_path, 0, "resumed")
    ours, theirs = (read_metrics(tmp_path / job / "metrics.jsonl") for job in ("resumed", "whole"))
    assert len(ours) == len(theirs) == 4
    for left, right in zip(ours, theirs, strict=True):
        for name in SAME:
            assert left.get(name, 0.0) == pytest.approx(right.get(name, 0.0), abs=1e-4), (name, left["step"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_whole_pipeline_runs_and_its_export_is_verified(tmp_path: Path, precision: str) -> None:
    _run([sys.executable, "-m", "rlhf.cli", "run", str(RECIPE), f"precision={precision}"], cwd=tmp_path)
    ppo = next((tmp_path / "runs/tiny").glob("**/ppo*/metrics.jsonl"))
    assert read_metrics(ppo)[-1]["memory/peak_device_bytes"] > 0
    plan = next((tmp_path / "runs/tiny").glob("**/verification/plan.json")).read_text()
    assert '"device": "cuda"' in plan


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "offload"), [(2, "optimizer"), (3, "all")])
def test_every_training_stage_offloads_through_the_launcher(tmp_path: Path, zero: int, offload: str) -> None:
    settings = ["launch.processes=1", f"launch.zero={zero}", f"launch.offload={offload}"]
    said = _run([sys.executable, "-m", "rlhf.cli", "run", str(RECIPE), *settings, "--until", "ppo"], cwd=tmp_path)
    assert said.count(f"1 process, DeepSpeedEngine under ZeRO-{zero}") == 3


def _ppo(folder: Path, zero: int, *jobs: str, hidden: bool = False) -> None:
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "1", "-m"] if zero else []
    command = [sys.executable, "-m", *launcher, "tests.distributed.ppo_program", str(folder), str(zero), *jobs]
    _run(command, cwd=REPOSITORY, **({"CUDA_VISIBLE_DEVICES": ""} if hidden else {}))


def _run(command: list[str], cwd: Path, **changes: str) -> str:
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **changes}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stderr
