"""The peer's side of the PPO benchmark: TRL 1.12.0, the last version with a PPO trainer, as its documentation uses it.

Runs inside the peer's own virtual environment and imports nothing of the product. Reads a job as JSON from its first argument
and prints one JSON line. What is done for a fair peer:

- weights are loaded in the number format that is compared: the trainer ignores its own `bf16=True`;
- `num_mini_batches=1`, as the trainer takes the same optimiser steps whatever it says;
- the data set is larger than the run: accumulation goes wrong in the last batch of a pass;
- the reference is the policy with its adapter off, the reward and value models are classifiers of the same shape.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.peak import peak_bytes
from benchmarks.shapes import EPOCHS, LEARNING_RATE, LORA_ALPHA, LORA_RANK, bias_parameter, shape_of


class Watch(TrainerCallback):
    """Notes the time, and the processor time of this program, when updates end."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.cpu_times: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Note the start."""
        self.on_step_end()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the end of an update."""
        self.times.append(time.perf_counter())
        self.cpu_times.append(time.process_time())


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train as the job says and return what was measured."""
    shape = shape_of(job["shape"], job["batch"])
    imported = peak_bytes(shape.device)
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]]
    folder = Path(job["model"])
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    policy.lm_head.bias = bias_parameter(job["logit_bias"], shape.vocabulary, dtype)
    reward, value = (_classifier(folder, dtype) for _ in range(2))
    lengths: list[list[int]] = []
    reward.model.register_forward_pre_hook(
        lambda _, __, inputs: lengths.append((inputs["attention_mask"].sum(1) - shape.prompt).tolist()),
        with_kwargs=True,
    )
    prompts = json.loads((folder / "prompts.json").read_text())
    watch = Watch()
    trainer = PPOTrainer(
        args=_config(job),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        peft_config=LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[watch],
    )
    steps: list[int] = []
    trainer.optimizer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    trainer.train()
    rollouts = [row for rows in lengths for row in rows]
    return {
        "update_seconds": _differences(watch.times)[job["warmup"] :],
        "update_cpu_seconds": _differences(watch.cpu_times)[job["warmup"] :],
        "optimizer_steps": len(steps),
        "response_lengths": rollouts[shape.batch * job["warmup"] :],
        "peak_bytes": peak_bytes(shape.device),
        "imported_bytes": imported,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "versions": _versions(),
    }


def _config(job: dict[str, Any]) -> PPOConfig:
    shape = shape_of(job["shape"], job["batch"])
    return PPOConfig(
        output_dir=job["folder"],
        per_device_train_batch_size=job["micro_batch"],
        gradient_accumulation_steps=shape.batch // job["micro_batch"],
        local_rollout_forward_batch_size=shape.rollout_batch,
        total_episodes=shape.batch * (job["warmup"] + job["updates"]),
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        response_length=shape.response,
        stop_token="eos" if job["length"] == "natural" else None,
        temperature=1.0,
        learning_rate=LEARNING_RATE,
        num_sample_generations=0,
        bf16=False,
        use_cpu=shape.device == "cpu",
        report_to="none",
        save_strategy="no",
        seed=job["seed"],
        disable_tqdm=True,
    )


def _differences(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def _classifier(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=dtype)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("trl", "torch", "transformers", "peft", "accelerate", "datasets")}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
