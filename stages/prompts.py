"""Stage prompts: import, de-duplicate, filter by length and split.

Reads the base (its tokenizer counts the tokens) and the configured sources. Writes prompts.jsonl, every prompt
with exactly one split of sft / label / ppo / validation / test, and demonstrations.jsonl for sft and validation.

    rlhf prompts CONFIG     python -m stages.prompts CONFIG
"""

import logging
from collections import Counter
from pathlib import Path

from rlhf.config.recipe import Config
from rlhf.data.importers import import_prompts
from rlhf.entry import begin, stage_main
from rlhf.models.base import load_base_text
from rlhf.records import write_jsonl

log = logging.getLogger(__name__)


def run(config: Config) -> Path:
    """Import and split the prompts."""
    with begin("prompts", config) as work:
        text = load_base_text(work.parents["base"].path, config.base)
        found = import_prompts(
            config.prompts, config.seed, text.count_prompt, text.context_length, text.require_ordinary
        )
        write_jsonl(work.folder / "prompts.jsonl", found.prompts)
        write_jsonl(work.folder / "demonstrations.jsonl", found.demonstrations)
        sizes = Counter(prompt.split for prompt in found.prompts)
        log.info("%s", ", ".join(f"{split} {count}" for split, count in sorted(sizes.items())))
        if found.dropped:
            log.info("dropped: %s", ", ".join(f"{count} {reason}" for reason, count in sorted(found.dropped.items())))
        work.draft.facts |= {
            "prompts": len(found.prompts),
            "demonstrations": len(found.demonstrations),
            "by_split": dict(sorted(sizes.items())),
            "dropped": found.dropped,
        }
        final = work.run.folder("prompts")
    return final


if __name__ == "__main__":
    stage_main("prompts", run)
