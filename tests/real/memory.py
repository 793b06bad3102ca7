"""What `rlhf plan` predicts of memory, beside what a CPU takes: python -m tests.real.memory FOLDER [CASE ...].

Random Llamas in fp32 or bf16 do what a stage does: one optimiser step of SFT or of the reward model, one whole PPO update, or
one batch decoded with the adapter merged in. All rows have their full length. Each case is a process of its own; what it had
resident after its imports is subtracted from the most that it had resident later. FOLDER/memory.json gets a row per case.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.peak import peak_bytes
from rlhf.config.load import parse_config
from rlhf.config.recipe import Config
from rlhf.plan.memory import KINDS
from rlhf.plan.plan import make_plan
from rlhf.plan.shape import read_shape
from tests.conftest import REPOSITORY

PROMPT, RESPONSE, CANDIDATES = 48, 80, 4
# With a fixed threshold the allocator gives every large block back at once: what is resident is what is in use.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576", "MALLOC_TOP_PAD_": "0"}
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
             "num_attention_heads": 8, "num_key_value_heads": 4},
    "0.2b": {"vocab_size": 64000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8,
             "num_attention_heads": 16, "num_key_value_heads": 8},
    "0.4b": {"vocab_size": 64000, "hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 12,
             "num_attention_heads": 20, "num_key_value_heads": 4},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is run: a stage of a shape, and how its recipe differs from the common one."""

    shape: str
    stage: str
    changes: dict[str, Any] = field(default_factory=dict)


_RECOMPUTE = {"base": {"gradient_checkpointing": True}}
CASES = {
    "sft": Case("0.2b", "sft"),
    "sft-recompute": Case("0.2b", "sft", _RECOMPUTE),
    "reward": Case("0.2b", "reward"),
    "ppo-head": Case("0.2b", "ppo", {"ppo": {"critic": "head"}}),
    "ppo-adapter": Case("0.2b", "ppo"),
    "ppo-recompute": Case("0.2b", "ppo", _RECOMPUTE),
    "ppo-bf16": Case("0.2b", "ppo", {"precision": "bf16", "ppo": {"critic": "head"}}),
    "decode": Case("0.2b", "candidates"),
    "reward-0.4b": Case("0.4b", "reward"),
    "decode-0.4b": Case("0.4b", "candidates"),
    "tiny-ppo": Case("tiny", "ppo"),
    "tiny-reward": Case("tiny", "reward"),
    "ppo-0.4b": Case("0.4b", "ppo", _RECOMPUTE),
}


def main(arguments: list[str]) -> None:
    """Run the named cases, or all, and write the table."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "memory.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in arguments[1:] or CASES:
        rows[name] = measure(name, folder)
        path.write_text(json.dumps(rows, indent=1))
        sys.stdout.write(describe(name, rows[name]) + "\n")
        sys.stdout.flush()


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run one case in a process of its own and put what was predicted beside it."""
    case = CASES[name]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.real.memory", "--case", name, str(folder / name)],
        cwd=REPOSITORY,
        env=os.environ | ALLOCATOR | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    config = recipe(case, folder / name)
    (stage,) = (
        found
        for found in make_plan(config, read_shape(config.base), 1, on_gpu=False).stages
        if found.stage == case.stage
    )
    return {
        "predicted": stage.memory.peak,
        "measured": measured["peak"] - measured["imported"],
        "imported": measured["imported"],
        "moment": stage.memory.peak_moment,
        "kinds": {kind: stage.memory.largest(kind) for kind in KINDS if stage.memory.largest(kind)},
    }


def describe(name: str, row: dict[str, Any]) -> str:
    """Return a row of the table."""
    ratio = row["predicted"] / row["measured"]
    return (
        f"| {name} | {row['moment']} | {row['predicted'] / 1e9:.2f} | {row['measured'] / 1e9:.2f} | {ratio - 1:+.1%} |"
    )


def recipe(case: Case, folder: Path) -> Config:
    """Return the recipe of a case; its base is the model folder `folder/base`."""
    lora = {"rank": 8, "alpha": 16}
    values: dict[str, Any] = {
        "run": str(folder / "run"),
        "base": {"model": str(folder / "base"), "prompt_format": "plain"},
        "prompts": {"sources": ["none.jsonl"], "max_tokens": PROMPT},
        "sft": {"lora": lora, "batch_size": 8, "micro_batch_size": 8, "max_tokens": PROMPT + RESPONSE, "epochs": 1,
                "evaluations": 1},
        "candidates": {"count": CANDIDATES, "samples": CANDIDATES, "batch_size": 32, "max_new_tokens": RESPONSE},
        "reward": {"batch_prompts": 4, "micro_batch_prompts": 4, "epochs": 1, "evaluations": 1,
                   "max_tokens": PROMPT + RESPONSE, "normalisation_prompts": 8},
        "ppo": {"updates": 1, "batch_size": 8, "minibatch_size": 8, "micro_batch_size": 8, "rollout_batch_size": 8,
                "epochs": 1, "critic_warmup_updates": 0, "max_new_tokens": RESPONSE, "evaluation_prompts": 1,
                "evaluate_every": 1},
    }  # fmt: skip
    for name, change in case.changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return parse_config(values, "tests/real/memory.py")


def run_case(name: str, folder: Path) -> dict[str, int]:
    """Do what the stage does, in this process, and return what was resident."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    import rlhf.sft_trainer  # noqa: F401
    from benchmarks.shapes import END, PAD, word_tokenizer
    from rlhf.models.base import DTYPES, LoadedBase, disable_dropout
    from rlhf.text import load_text_format

    torch.set_num_threads(1)
    case = CASES[name]
    config = recipe(case, folder)
    source = Path(config.base.model)
    settings = LlamaConfig(
        **SHAPES[case.shape],  # pyright: ignore[reportArgumentType]
        max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=None, eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    settings.architectures = ["LlamaForCausalLM"]
    settings.save_pretrained(source)
    GenerationConfig(eos_token_id=END, pad_token_id=PAD).save_pretrained(source)
    word_tokenizer(settings.vocab_size).save_pretrained(source)
    text = load_text_format(source, config.base)
    # Kernels and thread pools come with the first product.
    torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))
    imported = _resident()
    settings._attn_implementation = "sdpa"
    torch.set_default_dtype(DTYPES[config.precision])
    model = LlamaForCausalLM(settings)
    torch.set_default_dtype(torch.float32)
    model.requires_grad_(False)
    disable_dropout(model)
    with torch.no_grad():
        # No response ends before it has its full length.
        bias = torch.zeros(settings.vocab_size, dtype=model.dtype)
        bias[[PAD, END]] = -1e4
        model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    base = LoadedBase(model.eval(), text, "", _spec(config), config.base.gradient_checkpointing)
    folder.joinpath("out").mkdir(exist_ok=True)
    {"sft": _sft, "reward": _reward, "ppo": _ppo, "candidates": _decode}[case.stage](base, config, folder / "out")
    return {"imported": imported, "peak": peak_bytes("cpu")}


def _sft(base: Any, config: Config, out: Path) -> None:
    from rlhf.records import Demonstration
    from rlhf.runtime import start_runtime
    from rlhf.sft import train_sft
    from rlhf.tracking import Tracker

    # One row is shorter, as in any real batch: attention then needs a mask.
    rows = [Demonstration(f"p{n}", _words(n, PROMPT), _words(9, RESPONSE - 1 - (n == 0), " ")) for n in range(8)]
    train_sft(base, rows, [rows[1]], config.sft, 1, out, Tracker(out, bars=False), start_runtime())


def _reward(base: Any, config: Config, out: Path) -> None:
    from rlhf.models.roles import RoleSource, build_shared_base
    from rlhf.records import PreferencePair
    from rlhf.reward.trainer import train_reward
    from rlhf.runtime import start_runtime
    from rlhf.tracking import Tracker

    roles = {
        "policy": RoleSource(fresh=config.sft.lora),
        "reward": RoleSource(copy_of="policy", head=True, trainable=True),
    }
    shared = build_shared_base(base, roles)

    def pairs(first: int, count: int) -> list[PreferencePair]:
        return [
            PreferencePair(
                f"p{n}",
                _words(n, PROMPT),
                _words(100 * n + first_side, RESPONSE - 1, " "),
                _words(100 * n + second_side, RESPONSE - 1, " "),
            )
            for n in range(first, first + count)
            for first_side, second_side in combinations(range(CANDIDATES), 2)
        ]

    settings = config.reward
    train_reward(
        shared, base.text, pairs(0, 4), pairs(4, 2), settings, 1, out, Tracker(out, bars=False), start_runtime()
    )


def _ppo(base: Any, config: Config, out: Path) -> None:
    import torch

    from rlhf.models.roles import RoleSource, build_shared_base
    from rlhf.ppo.loop import train_ppo
    from rlhf.records import Prompt
    from rlhf.reward.model import RewardInfo, score_ids
    from rlhf.runtime import start_runtime
    from rlhf.tracking import Tracker

    critic = RoleSource(copy_of="reward", head=True, trainable=True)
    if config.ppo.critic == "head":
        critic = RoleSource(trunk_of="policy", head=True, trainable=True)
    shared = build_shared_base(
        base,
        {
            "reference": RoleSource(fresh=config.sft.lora),
            "policy": RoleSource(copy_of="reference", trainable=True),
            "reward": RoleSource(copy_of="reference", head=True),
            "critic": critic,
        },
    )

    def score(prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
        items = list(zip(prompts, responses, strict=True))
        return torch.tensor(score_ids(shared, base.text, RewardInfo("last"), items, config.ppo.micro_batch_size))

    prompts = [Prompt(f"p{n}", _words(n, PROMPT), "ppo") for n in range(config.ppo.batch_size)]
    tracker = Tracker(out, bars=False)
    train_ppo(shared, base.text, prompts, [], score, config.ppo, 1, out, tracker, start_runtime())


def _decode(base: Any, config: Config, out: Path) -> None:
    from rlhf.models.roles import RoleSource, build_shared_base
    from rlhf.sampling import Sampling, sample

    settings = config.candidates
    shared = build_shared_base(base, {"policy": RoleSource(fresh=config.sft.lora)})
    ids = [base.text.encode_prompt(_words(n, PROMPT)) for n in range(8) for _ in range(settings.samples)]
    sampling = Sampling(settings.temperature, settings.max_new_tokens)
    sample(
        shared, "policy", ids, base.text, sampling, seed=1, batch_size=settings.batch_size, keys=range(len(ids))
    )  # fmt: skip


def _words(first: int, count: int, start: str = "") -> str:
    return start + " ".join(f"w{3 + (first * 7 + place) % 4000}" for place in range(count))


def _spec(config: Config) -> Any:
    from rlhf.models.base import BaseSpec

    return BaseSpec(
        "local", config.base.model, None, "", "", "", "plain", [2], 2048, 0, "LlamaForCausalLM", "none", False
    )


def _resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1] == "--case":
        sys.stdout.write(json.dumps(run_case(sys.argv[2], Path(sys.argv[3]))) + "\n")
    else:
        main(sys.argv[1:])
