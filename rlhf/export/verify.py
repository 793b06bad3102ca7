"""Check, with transformers and peft alone, that an exported policy answers as it did where it was trained.

    python verify.py [FOLDER] [--base MODEL]

FOLDER holds `adapter/`, perhaps `merged/` and `base/`, and `verification/`: prompts as token ids, and for each the
greedy response and the logits that the training process computed. The script loads the adapter (and the merged model)
the way any user would, compares, and writes FOLDER/verification.json. It exits with 1 where something differs.
It imports no other module of the project, so that a copy of it serves whoever received the folder.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

TOGETHER = 8
"""Prompts per batch of greedy answers."""
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> int:
    """Verify one folder; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare an exported policy with what its training process computed.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--base", help="base model, if the adapter's config does not name a loadable one")
    given = parser.parse_args(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    result = verify(given.folder, given.base)
    loaded = sorted(name for name in sys.modules if name.startswith("rlhf.") and not name.startswith("rlhf.export"))
    assert not loaded, f"this check must not lean on the project, and it loaded {loaded[:3]}"
    (given.folder / "verification.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["passed"] else 1


def verify(folder: Path, base: str | None = None) -> dict[str, Any]:
    """Compare the adapter, and the merged model where there is one, with the expectations of a folder."""
    plan = json.loads((folder / "verification" / "plan.json").read_text(encoding="utf-8"))
    expected = load_file(folder / "verification" / "expectations.safetensors")
    found: dict[str, Any] = {"adapter": compare(load_adapter(folder, base, plan), plan, expected), "merged": None}
    if (folder / "merged").is_dir():
        found["merged"] = compare(load_merged(folder, plan), plan, expected)
    passed = all(part["passed"] for part in found.values() if part is not None)
    return {
        "passed": passed,
        **found,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }


def load_adapter(folder: Path, base: str | None, plan: dict[str, Any]) -> Any:
    """Load base and adapter as any user would."""
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    bundled = folder / "base"
    source = base or (str(bundled) if bundled.is_dir() else settings["base_model_name_or_path"])
    options: dict[str, Any] = {"dtype": FORMATS[plan["dtype"]], "trust_remote_code": plan["trust_remote_code"]}
    if base is None and not bundled.is_dir():
        options["revision"] = settings.get("revision")
    if plan["quantization"] == "4bit":
        options["quantization_config"] = four_bit(options["dtype"])
    model = AutoModelForCausalLM.from_pretrained(source, **options)
    return place(PeftModel.from_pretrained(model, str(folder / "adapter")), plan)


def load_merged(folder: Path, plan: dict[str, Any]) -> Any:
    """Load the merged model as any user would."""
    options = {"dtype": torch.float32, "trust_remote_code": plan["trust_remote_code"]}
    return place(AutoModelForCausalLM.from_pretrained(folder / "merged", **options), plan)


def place(model: Any, plan: dict[str, Any]) -> Any:
    """Put a model where the expectations were computed, if there is such a device, in evaluation mode."""
    wanted = plan["device"] == "cuda" and torch.cuda.is_available() and plan["quantization"] == "none"
    return (model.to("cuda") if wanted else model).eval()


def four_bit(dtype: torch.dtype) -> Any:
    """Return the quantisation that the base was trained under."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


@torch.no_grad()
def compare(model: Any, plan: dict[str, Any], expected: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Compare logits and greedy tokens on every prompt.

    A greedy response may part from the expected one where the two best tokens were closer than the tolerance: that is
    counted as a near tie. Any other difference fails, in fp32; in lower precision it is reported only.
    """
    largest, identical, near_ties = 0.0, 0, 0
    answers = answer_all(model, plan)
    for number, (row, answer) in enumerate(zip(plan["prompts"], answers, strict=True)):
        prompt, response = row["prompt_ids"], row["response_ids"]
        logits = expected[f"logits.{number}"]
        ids = torch.tensor([prompt + response], device=model.device)
        kept = slice(len(prompt) - 1, len(prompt) - 1 + len(logits))
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, kept].float().cpu()
        largest = max(largest, (found - logits).abs().max().item())
        parted = first_difference(answer, response)
        identical += parted is None
        near_ties += (
            parted is not None and parted < len(row["margins"]) and row["margins"][parted] <= 2 * plan["tolerance"]
        )
    differing = len(plan["prompts"]) - identical - near_ties
    return {
        "passed": largest <= plan["tolerance"] and (differing == 0 or not plan["greedy_required"]),
        "prompts": len(plan["prompts"]),
        "max_logit_difference": largest,
        "tolerance": plan["tolerance"],
        "greedy_identical": identical,
        "near_ties": near_ties,
    }


@torch.no_grad()
def answer_all(model: Any, plan: dict[str, Any]) -> list[list[int]]:
    """Answer every prompt greedily, some together, padded on the left; return the tokens up to the first end."""
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=plan["max_new_tokens"],
        eos_token_id=plan["end_token_ids"],
        pad_token_id=plan["pad_token_id"],
    )
    prompts = [row["prompt_ids"] for row in plan["prompts"]]
    answers: list[list[int]] = []
    for start in range(0, len(prompts), TOGETHER):
        batch = prompts[start : start + TOGETHER]
        width = max(map(len, batch))
        ids = torch.tensor([[plan["pad_token_id"]] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        found = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings)
        answers += [up_to_end(row, plan["end_token_ids"]) for row in found[:, width:].tolist()]
    return answers


def up_to_end(tokens: list[int], ends: list[int]) -> list[int]:
    """Return the tokens up to the first end token, that one included; padding may follow it in a batch."""
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def first_difference(found: list[int], expected: list[int]) -> int | None:
    """Return where two token lists part, None where they are the same."""
    for place, (left, right) in enumerate(zip(found, expected, strict=False)):
        if left != right:
            return place
    return None if len(found) == len(expected) else min(len(found), len(expected))


if __name__ == "__main__":
    sys.exit(main())
