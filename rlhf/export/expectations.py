"""What a fresh process must reproduce: the policy's logits and greedy tokens, written where it was trained."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf.errors import ArtifactError
from rlhf.export import verify
from rlhf.models.base import BaseSpec
from rlhf.models.roles import SharedBase
from rlhf.records import PromptText
from rlhf.sampling import Sampling, sample
from rlhf.text import TextFormat

TOLERANCE_FP32 = 1e-4
TOLERANCE_SHARE = 0.05
"""In reduced precision: share of the largest logit, some ten roundings of bf16 (2^-8 each) through the layers."""
MAX_NEW_TOKENS = 32
MAX_POSITIONS = 16
LOGIT_BYTES = 64 << 20
"""Size limit of the reference logits; large vocabularies keep fewer positions per prompt."""
SCRIPT = "verify.py"


@torch.no_grad()
def write_expectations(
    shared: SharedBase, text: TextFormat, spec: BaseSpec, prompts: Sequence[PromptText], folder: Path
) -> None:
    """Write `verification/` (plan and reference logits) and a copy of the script that checks against it.

    Args:
        shared: The shared base; role `policy` is what was exported.
        text: Prompt format and end tokens.
        spec: The base.
        prompts: Prompts to check on.
        folder: The export folder.
    """
    ids = [text.encode_prompt(prompt) for prompt in prompts]
    room = min(text.context_length - max(map(len, ids)), MAX_NEW_TOKENS)
    assert room >= 1, f"no room for a response: context {text.context_length}, longest prompt {max(map(len, ids))}"
    keys = list(range(len(ids)))
    # Unmerged, as the adapter will be loaded; a batch rounds otherwise, which near ties allow for.
    sampling = Sampling(0.0, room)
    samples = sample(shared, "policy", ids, text, sampling, seed=0, batch_size=verify.TOGETHER, keys=keys, merge=False)
    vocabulary = shared.lm_head.weight.shape[0]
    positions = max(1, min(MAX_POSITIONS, LOGIT_BYTES // (4 * vocabulary * len(ids))))
    tensors: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for number, (prompt, response) in enumerate(zip(ids, samples.response_ids, strict=True)):
        logits = _response_logits(shared, prompt, response)
        top = logits.topk(2, dim=-1).values
        rows.append({"prompt_ids": prompt, "response_ids": response, "margins": (top[:, 0] - top[:, 1]).tolist()})
        tensors[f"logits.{number}"] = logits[:positions].contiguous()
    exact = spec.quantization == "none" and shared.lm_head.weight.dtype == torch.float32
    largest = max(tensor.abs().max().item() for tensor in tensors.values())
    plan = {
        "dtype": "bfloat16" if shared.lm_head.weight.dtype == torch.bfloat16 else "float32",
        "device": shared.device.type,
        "quantization": spec.quantization,
        "trust_remote_code": spec.trust_remote_code,
        "tolerance": TOLERANCE_FP32 if exact else TOLERANCE_SHARE * largest,
        "greedy_required": exact,
        "max_new_tokens": room,
        "end_token_ids": list(text.end_token_ids),
        "pad_token_id": text.pad_token_id,
        "prompts": rows,
    }
    target = folder / "verification"
    target.mkdir(parents=True)
    save_file(tensors, target / "expectations.safetensors", metadata={"format": "pt"})
    (target / "plan.json").write_text(json.dumps(plan) + "\n", encoding="utf-8")
    shutil.copyfile(verify.__file__, folder / SCRIPT)


def _response_logits(shared: SharedBase, prompt: list[int], response: list[int]) -> Tensor:
    """Return fp32 logits at every position that predicts a response token."""
    ids = torch.tensor([prompt + response], device=shared.device)
    hidden = shared.hidden("policy", ids)[0, len(prompt) - 1 : -1]
    return shared.lm_head(hidden).float().cpu()


def run_verification(folder: Path, base_source: Path | None = None) -> dict[str, Any]:
    """Run the folder's own script in a fresh process; return the content of `verification.json`.

    Args:
        folder: The export folder.
        base_source: Base to load the adapter on; None takes what the adapter's config names.

    Raises:
        ArtifactError: The script failed, or the loaded models do not answer as the policy did.
    """
    # -P keeps the script's folder off the import path; -I would also hide the user's site-packages.
    line = [sys.executable, "-P", str(folder / SCRIPT), str(folder)]
    if base_source is not None:
        line += ["--base", str(base_source)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout.strip().endswith("}"):
        raise ArtifactError(f"export: the fresh process that loads the adapter failed: {_last_lines(done.stderr)}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    if not result["passed"]:
        raise ArtifactError(
            f"export: what a fresh process loads does not answer as the policy did: {_complaints(result)}"
        )
    return result


def _complaints(result: dict[str, Any]) -> str:
    failed = {name: result[name] for name in ("adapter", "merged") if result[name] and not result[name]["passed"]}
    return "; ".join(
        f"{name}: logits differ by up to {part['max_logit_difference']:.2g} (tolerance {part['tolerance']:.2g}), "
        f"{part['greedy_identical']} of {part['prompts']} greedy responses identical"
        for name, part in failed.items()
    )


def _last_lines(text: str, count: int = 4) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:]) or "it said nothing"
