"""The model card: what the adapter is, what it was made from, how good it is, and what not to expect of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.evaluation.compare import show_estimate, table_rows
from rlhf.models.base import BaseSpec

TEMPLATE = "card.md.j2"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a model card says.

    Attributes:
        name: Name of the adapter.
        spec: The base.
        adapter_hash: SHA-256 of the adapter's weight file.
        lora: Content of `adapter_config.json`.
        annotators: `human` or `scripted`; None where the preferences were imported and nobody knows.
        evaluation: Content of `evaluation.json`.
        verification: Content of `verification.json`.
        chain: The artifacts it was made from, nearest first (`rlhf.provenance.collect_chain`).
        merged: Whether the merged model is beside it; otherwise `merged_reason` says why not.
    """

    name: str
    spec: BaseSpec
    adapter_hash: str
    lora: Mapping[str, Any]
    annotators: str | None = None
    evaluation: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    chain: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    merged: bool = False
    merged_reason: str | None = None


def build_card(facts: CardFacts) -> str:
    """Return the README.md of the adapter folder."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Markdown, not HTML: nothing to escape but what would leave its line or its table cell.
    environment = Environment(
        loader=PackageLoader("rlhf.export", ""), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["line"] = one_line
    figures, checked = facts.evaluation, facts.verification or {}
    card = environment.get_template(TEMPLATE).render(
        facts=facts,
        spec=facts.spec,
        base_words=base_words(facts.spec),
        figures=figures,
        table=table_rows(figures) if figures else [],
        win_rate=show_estimate(figures["win_rate"], 3) if figures else "",
        gold_gain=show_estimate(figures["gold_gain"], 3) if figures else "",
        verified=[(name, checked[name]) for name in ("adapter", "merged") if checked.get(name)],
    )
    return re.sub(r"\n{3,}", "\n\n", card).rstrip() + "\n"


def base_words(spec: BaseSpec) -> str:
    """Name a base in words; a local folder's path stays private."""
    if spec.kind == "hub":
        return f"`{spec.model}` at revision `{spec.revision}`"
    if spec.kind == "embedded":
        return f"a demonstration model of {spec.parameters:,} parameters in `../base`"
    return f"a local {spec.architecture} of {spec.parameters:,} parameters"


def one_line(text: str) -> str:
    """Keep a text on one line and out of the Markdown around it."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
