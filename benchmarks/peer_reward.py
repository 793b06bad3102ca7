"""The peer's side of the reward benchmark: TRL's `RewardTrainer` on all pairs of the same rankings.

Reads a job as JSON from its first argument and prints one JSON line. It runs with our own versions of everything. What is done
for a fair peer:

- gradient checkpointing and bf16, which are on by default, are off; there is no dropout and no evaluation;
- sequences come as token ids, so that nothing is tokenised in the measured time;
- `SEQ_CLS` adapters: with another task type the score head would stay random and frozen;
- where the job says so, pairs of like length share a batch (`group_by_length`), which the trainer can do if it is told the
  lengths.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer

from benchmarks.peak import peak_bytes
from benchmarks.rankings import CANDIDATES, RankedIds, read_rankings
from benchmarks.shapes import LORA_ALPHA, LORA_RANK, PAD

PAIRS = CANDIDATES * (CANDIDATES - 1) // 2
SCORED_AT_ONCE = 32


class Watch(TrainerCallback):
    """Notes the time, the processor time of this program and its peak memory at the start and when optimiser steps end."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.cpu_times: list[float] = []
        self.peak = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Note the start."""
        self.on_step_end()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the end of a step."""
        self.times.append(time.perf_counter())
        self.cpu_times.append(time.process_time())
        self.peak = peak_bytes("cpu")


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train as the job says and return what was measured."""
    imported = peak_bytes("cpu")
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    folder = Path(job["model"])
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    train, held_out = read_rankings(folder)
    watch = Watch()
    trainer = RewardTrainer(
        model=model,
        args=_config(job),
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=as_dataset(train),
        peft_config=LoraConfig(
            r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="SEQ_CLS"
        ),
        callbacks=[watch],
    )
    trainer.train()
    trained: Any = trainer.model
    accuracy, pairs = held_out_accuracy(trained, held_out)
    return {
        "step_times": watch.times,
        "step_cpu_times": watch.cpu_times,
        "optimizer_steps": trainer.state.global_step,
        "accuracy": accuracy,
        "held_out_pairs": pairs,
        "peak_bytes": watch.peak,
        "imported_bytes": imported,
        "trainable_parameters": sum(p.numel() for p in trained.parameters() if p.requires_grad),
    }


def as_dataset(rankings: Sequence[RankedIds]) -> Dataset:
    """Return all pairs as the trainer's columns of token ids, with the length of the longer side."""
    pairs = [pair for ranking in rankings for pair in ranking.pairs()]
    columns = {"chosen_ids": [chosen for chosen, _ in pairs], "rejected_ids": [rejected for _, rejected in pairs]}
    return Dataset.from_dict({**columns, "length": [max(map(len, pair)) for pair in pairs]})


@torch.no_grad()
def held_out_accuracy(model: Any, rankings: Sequence[RankedIds]) -> tuple[float, int]:
    """Return the share of pairs whose chosen side has the higher score, and their number."""
    model.eval()
    rows = [[*ranking.prompt, *response] for ranking in rankings for response in ranking.responses]
    scores: list[float] = []
    for start in range(0, len(rows), SCORED_AT_ONCE):
        part = rows[start : start + SCORED_AT_ONCE]
        width = max(map(len, part))
        ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in part])
        scores += model(input_ids=ids, attention_mask=(ids != PAD).long()).logits.squeeze(-1).tolist()
    per_ranking = [scores[start : start + CANDIDATES] for start in range(0, len(scores), CANDIDATES)]
    right = [
        better > worse for found in per_ranking for place, better in enumerate(found) for worse in found[place + 1 :]
    ]
    return sum(right) / len(right), len(right)


def _config(job: dict[str, Any]) -> RewardConfig:
    pairs = job["batch"] * PAIRS
    return RewardConfig(
        output_dir=job["folder"],
        per_device_train_batch_size=job["micro_batch"],
        gradient_accumulation_steps=pairs // job["micro_batch"],
        num_train_epochs=job["epochs"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=job["warmup_share"],
        center_rewards_coefficient=job["centering"],
        max_length=512,
        train_sampling_strategy="group_by_length" if job["grouped"] else "random",
        # The lengths would be removed, too.
        remove_unused_columns=False,
        # The name of the trainer, and that of the library below it.
        gradient_checkpointing=False,
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        seed=job["seed"],
        disable_tqdm=True,
    )


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
