"""Stage base: prepare the base model that every role shares.

Reads nothing. Writes base.json (where the weights are, their hash, the tokenizer's, the prompt format's, the
end tokens) and, for the embedded base, the model itself; a local or hub base stays where it is.

    rlhf base CONFIG        python -m stages.base CONFIG
"""

from pathlib import Path

from rlhf.config.recipe import Config
from rlhf.entry import begin, stage_main
from rlhf.models.base import describe_base
from rlhf.models.embedded import cached_embedded_base


def run(config: Config) -> Path:
    """Describe the base, training it first if it is the embedded one."""
    with begin("base", config) as work:
        if config.base.model == "embedded":
            cache = config.run.parent / ".cache"
            facts = cached_embedded_base(config.base.embedded, config.seed, cache, work.folder, work.tracker)
            work.draft.facts |= facts
        description = describe_base(config.base, work.folder)
        work.draft.base = {
            "base weights": description["weights_hash"],
            "tokenizer": description["tokenizer_hash"],
            "prompt format": description["prompt_format_hash"],
        }
        work.draft.facts |= description
        final = work.run.folder("base")
    return final


if __name__ == "__main__":
    stage_main("base", run)
