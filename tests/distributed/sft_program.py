"""A tiny supervised fine-tuning under a launcher: folder, ZeRO stage, jobs. Each job writes a folder of its name.

A stage such as `1:optimizer` also says what to offload.

The job `killed` dies after its fourth optimiser step, and `resumed` goes on from its checkpoint. In the job `stopped` the second
process alone is told to stop, and `continued` goes on from what is kept.
"""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.models.base import hash_weights
from rlhf.runtime import Runtime, StoppedBySignal, start_runtime
from rlhf.sft import train_sft
from rlhf.sft_trainer import AdapterTrainer
from rlhf.tracking import Tracker
from tests.tiny import tiny_base
from tests.trackers import DisturbingTracker, die, terminate
from tests.unit.test_sft import config, demonstrations

GOES_ON = {"resumed": "killed", "continued": "stopped"}
ROWS, LAST = 17, 4
"""In an epoch's last step of 17 rows in batches of 8, the second of two processes has no row."""


def main(folder: Path, stage: str, jobs: list[str]) -> None:
    """Do the jobs: `bf16` on a base in bf16, `recomputed` with gradient checkpointing, any other name in fp32."""
    zero, _, offload = stage.partition(":")
    runtime = start_runtime(
        zero=int(zero),  # pyright: ignore[reportArgumentType]
        offload=offload or "none",  # pyright: ignore[reportArgumentType]
        for_trainer=True,
    )
    for job in jobs:
        train(folder, job, runtime)


def train(folder: Path, job: str, runtime: Runtime) -> None:
    """Train for two epochs of three steps, evaluated after steps 3 and 6."""
    base = tiny_base(folder, precision="bf16" if job == "bf16" else "fp32", recompute=job == "recomputed")
    before = hash_weights(base.model)
    out = folder / job
    if runtime.is_main and job in GOES_ON:
        shutil.copytree(folder / GOES_ON[job], out)
    runtime.wait()
    out.mkdir(exist_ok=True)
    tracker = Tracker(out, active=runtime.is_main, bars=False)
    if job == "killed":
        tracker = DisturbingTracker(out, LAST, die, active=runtime.is_main)
    if job == "stopped" and not runtime.is_main:
        tracker = DisturbingTracker(out, LAST, terminate, active=False)
    engines: list[str] = []
    prepare = AdapterTrainer._prepare_for_training

    def watched(self: AdapterTrainer, *arguments: object, **options: object) -> object:
        prepared = prepare(self, *arguments, **options)
        engine: Any = self.model_wrapped
        engines.append(type(engine).__name__)
        if runtime.zero and engine.zero_offload_optimizer():
            engines.append(f"offloads to {engine.zero_offload_optimizer().device}")
        return prepared

    AdapterTrainer._prepare_for_training = watched
    settings = config(batch_size=8, micro_batch_size=2)
    try:
        outcome = train_sft(base, demonstrations(ROWS), demonstrations(6, "h"), settings, 1, out, tracker, runtime)
    except (KeyboardInterrupt, StoppedBySignal):
        return
    finally:
        AdapterTrainer._prepare_for_training = prepare
    assert hash_weights(base.model) == before
    facts = asdict(outcome) | {"engines": engines}
    (out / f"facts-{runtime.process_index}.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
