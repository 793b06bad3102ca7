"""Stage sft: teach the base the task with a LoRA adapter, loss on the response only, end token learned.

Reads base and prompts (the demonstrations of the sft split; those of the validation split measure the held-out
loss). Writes the adapter as a PEFT folder. `sft.method: none` writes a zero adapter: the base is the SFT policy.
Hu et al. 2021 (LoRA); Ouyang et al. 2022, section 3.5.

    rlhf sft CONFIG         python -m stages.sft CONFIG
"""

import logging
from dataclasses import asdict
from pathlib import Path

from rlhf.config.recipe import Config
from rlhf.entry import Work, begin, stage_main
from rlhf.models.base import LoadedBase, load_base
from rlhf.records import Demonstration, read_jsonl
from rlhf.runtime import Runtime, launched_runtime
from rlhf.sft import SftOutcome, import_sft, make_zero_adapter, train_sft

log = logging.getLogger(__name__)


def run(config: Config) -> Path:
    """Train, import or stand in for the SFT adapter."""
    runtime = launched_runtime(config.launch, for_trainer=True)
    with begin("sft", config, is_main=runtime.is_main, barrier=runtime.wait) as work:
        base = load_base(work.parents["base"].path, config.base, config.precision)
        runtime.require_same(config, base.weights_hash)
        outcome = _make_adapter(config, base, work, runtime)
        if outcome.held_out_loss is not None:
            log.info("held-out loss %.3f -> %.3f nats per token", outcome.initial_loss, outcome.held_out_loss)
        work.draft.splits = ("sft",) if outcome.method == "lora" else ()
        work.draft.processes = runtime.process_count
        work.draft.facts |= asdict(outcome)
        final = work.run.folder("sft")
    return final


def _make_adapter(config: Config, base: LoadedBase, work: Work, runtime: Runtime) -> SftOutcome:
    if config.sft.import_path is not None:
        return import_sft(base, config.sft.import_path, work.folder)
    if config.sft.method == "none":
        return make_zero_adapter(base, config.sft, config.seed, work.folder)
    path = work.file("prompts", "demonstrations.jsonl")
    rows = read_jsonl(path, Demonstration) if path.stat().st_size else []
    train = [row for row in rows if row.split == "sft"]
    held_out = [row for row in rows if row.split == "validation"]
    return train_sft(base, train, held_out, config.sft, config.seed, work.folder, work.tracker, runtime)


if __name__ == "__main__":
    stage_main("sft", run)
