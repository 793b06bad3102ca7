"""The base with the policy's adapter merged in, for programs that know nothing of adapters."""

import warnings
from pathlib import Path

from rlhf.export.adapter import write_text_format
from rlhf.models.base import BaseSpec
from rlhf.text import TextFormat


def why_not_merged(spec: BaseSpec) -> str | None:
    """Return why this base cannot be merged, None where it can.

    An adapter trained on 4-bit weights belongs to the *dequantised* ones; merged into 4-bit it drowns in rounding, and
    merged into the original weights it meets numbers it was not trained on.
    """
    if spec.quantization == "4bit":
        return "the base is 4-bit: merging would round the adapter away; load the adapter on the 4-bit base instead"
    return None


def write_merged(base_source: Path, adapter: Path, target: Path, spec: BaseSpec, text: TextFormat) -> None:
    """Merge the adapter into a fresh fp32 copy of the base and save it as a plain model.

    The merge is done in fp32 whatever the run's precision: in bf16 a small delta drowns in rounding.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    reason = why_not_merged(spec)
    assert reason is None, reason
    base = AutoModelForCausalLM.from_pretrained(
        base_source, dtype=torch.float32, use_safetensors=True, trust_remote_code=spec.trust_remote_code
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks for the attribute by the name that transformers 5.23 is about to drop.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    merged.save_pretrained(target)
    write_text_format(text, target, base_source)
