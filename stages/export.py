"""Stage export: the aligned adapter leaves the house, verified from outside.

Reads base, prompts, ppo and evaluate. Writes adapter/ (PEFT), merged/ (plain transformers), a model card in each, the
provenance chain, and verification.json: a fresh process with nothing but transformers and peft has loaded both and
found the same logits and the same greedy tokens.

    rlhf export CONFIG      python -m stages.export CONFIG
"""

import json
import logging
from pathlib import Path

from rlhf.config.recipe import Config
from rlhf.entry import begin, stage_main
from rlhf.export.folder import export_policy
from rlhf.models.base import base_source, load_base
from rlhf.models.roles import RoleSource, build_shared_base
from rlhf.provenance import collect_chain
from rlhf.records import Prompt, read_jsonl

log = logging.getLogger(__name__)


def run(config: Config) -> Path:
    """Export and verify the policy."""
    with begin("export", config) as work:
        work.draft.start_over()
        folder = work.parents["base"].path
        base = load_base(folder, config.base, config.precision)
        policy = work.parents["ppo"].path
        shared = build_shared_base(base, {"policy": RoleSource(folder=policy)})
        rankings = work.run.find("rankings")
        verification = export_policy(
            shared,
            base.text,
            base.spec,
            work.folder,
            policy=policy,
            base_source=base_source(base.spec, folder),
            prompts=[
                row.prompt for row in read_jsonl(work.file("prompts", "prompts.jsonl"), Prompt) if row.split == "test"
            ],
            config=config.export,
            annotators=rankings.facts["annotators"] if rankings else None,
            evaluation=json.loads(work.file("evaluate", "evaluation.json").read_text(encoding="utf-8")),
            chain=collect_chain(work.parents, work.run.root),
        )
        work.draft.facts |= {"verified": bool(verification["passed"]), "name": config.export.name}
        log.info("verified by a fresh process: %s", verification["passed"])
        final = work.run.folder("export")
    return final


if __name__ == "__main__":
    stage_main("export", run)
