"""The export folder: adapter, merged model, card and provenance, verified by a fresh process.

adapter/            PEFT folder with tokenizer, generation config, README.md, provenance.json
base/               only for the embedded base, which exists nowhere else
merged/             the same policy as a plain model
verification/       what a fresh process must reproduce
verification.json   and that it did
verify.py           the check, for whoever receives the folder
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.config.reporting import ExportConfig
from rlhf.export.adapter import BUNDLED_BASE, bundle_base, write_adapter
from rlhf.export.card import CardFacts, build_card
from rlhf.export.expectations import run_verification, write_expectations
from rlhf.export.merged import why_not_merged, write_merged
from rlhf.hashing import hash_file, list_files
from rlhf.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from rlhf.models.base import BaseSpec
from rlhf.models.roles import SharedBase
from rlhf.provenance import PROVENANCE
from rlhf.records import PromptText
from rlhf.text import TextFormat


def export_policy(
    shared: SharedBase,
    text: TextFormat,
    spec: BaseSpec,
    folder: Path,
    *,
    policy: Path,
    base_source: Path,
    prompts: Sequence[PromptText],
    config: ExportConfig,
    annotators: str | None,
    evaluation: Mapping[str, Any] | None,
    chain: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write everything that leaves the house, and check it from outside.

    Args:
        shared: The shared base with the role `policy`, loaded from the folder `policy`.
        text: Prompt format and end tokens.
        spec: The base's identity.
        folder: Folder to write into.
        policy: PEFT folder of the policy (the ppo artifact).
        base_source: Folder with the base's files.
        prompts: Prompts to verify on; the first `config.verify_prompts` are taken.
        config: The configuration's `export` section.
        annotators: `human` or `scripted`; None where unknown.
        evaluation: Content of `evaluation.json`.
        chain: `rlhf.provenance.collect_chain` of the parents.

    Returns:
        The content of `verification.json`.

    Raises:
        ArtifactError: The adapter is damaged, or a fresh process does not reproduce the policy.
    """
    adapter, merged = folder / "adapter", folder / "merged"
    write_adapter(policy, adapter, spec, text, base_source)
    if spec.kind == "embedded":
        bundle_base(base_source, folder / BUNDLED_BASE)
    write_expectations(shared, text, spec, list(prompts)[: config.verify_prompts], folder)
    reason = why_not_merged(spec) if config.merged else "it was not asked for"
    if reason is None:
        write_merged(base_source, adapter, merged, spec, text)
    verification = run_verification(folder, None if spec.kind == "embedded" else base_source)
    card = build_card(
        CardFacts(
            name=config.name,
            spec=spec,
            adapter_hash=hash_file(adapter / ADAPTER_WEIGHTS),
            lora=json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8")),
            annotators=annotators,
            evaluation=evaluation,
            verification=verification,
            chain=chain,
            merged=reason is None,
            merged_reason=reason,
        )
    )
    for part in (adapter, merged) if reason is None else (adapter,):
        (part / "README.md").write_text(card, encoding="utf-8")
        write_provenance(part, chain)
    return verification


def write_provenance(folder: Path, chain: Sequence[Mapping[str, Any]]) -> None:
    """Write `provenance.json`: the hash of every file, and the chain back to base, prompts and people."""
    files = {
        path.relative_to(folder).as_posix(): hash_file(path) for path in list_files(folder) if path.name != PROVENANCE
    }
    content = {"files": files, "chain": list(chain)}
    (folder / PROVENANCE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
