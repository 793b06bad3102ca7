"""The aligned adapter as a PEFT folder that plain transformers + peft load, over the original base.

PPO trains a copy of the SFT adapter on the same frozen base, so the policy's adapter holds both steps: nothing has
to be merged or stacked, and the folder is valid on the base that everybody can get.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from rlhf.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config, read_safetensors
from rlhf.models.base import BASE_FILE, BaseSpec
from rlhf.text import TextFormat

BUNDLED_BASE = "base"
"""Folder of the export that holds the base, where the base is not published anywhere (the embedded one)."""


def write_adapter(policy: Path, target: Path, spec: BaseSpec, text: TextFormat, base_source: Path) -> None:
    """Copy the policy's adapter, name its base, and add tokenizer and generation settings.

    The weights are copied byte for byte.

    Args:
        policy: PEFT folder of the policy.
        target: Folder to make.
        spec: Which base the adapter belongs to.
        text: Tokenizer and end tokens.
        base_source: Folder with the base's files.

    Raises:
        ArtifactError: The policy's folder is incomplete or damaged.
    """
    read_adapter_config(policy)
    read_safetensors(policy / ADAPTER_WEIGHTS)
    target.mkdir(parents=True)
    shutil.copyfile(policy / ADAPTER_WEIGHTS, target / ADAPTER_WEIGHTS)
    settings = json.loads((policy / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": base_name(spec), "revision": spec.revision, "inference_mode": True}
    (target / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_text_format(text, target, base_source)


def base_name(spec: BaseSpec) -> str:
    """Return what the adapter's config calls its base: a hub id, the bundled folder, or a folder's bare name."""
    if spec.kind == "embedded":
        return BUNDLED_BASE
    return spec.model if spec.kind == "hub" else Path(spec.model).name


def write_text_format(text: TextFormat, target: Path, base_source: Path) -> None:
    """Write the tokenizer (with its chat template) and a generation config that names every end token."""
    from transformers import GenerationConfig

    text.tokenizer.save_pretrained(target)
    try:
        generation = GenerationConfig.from_pretrained(base_source)
    except OSError:
        generation = GenerationConfig()
    ends: Any = list(text.end_token_ids)
    generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    generation.pad_token_id = text.pad_token_id
    generation.save_pretrained(target)


def bundle_base(base_source: Path, target: Path) -> None:
    """Copy the embedded base beside the adapter: the adapter is of no use without it."""
    ours = {BASE_FILE, "manifest.json", "config.yaml", "metrics.jsonl", "inputs.json"}
    target.mkdir(parents=True)
    for path in sorted(base_source.iterdir()):
        if path.is_file() and path.name not in ours and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
