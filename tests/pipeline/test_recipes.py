"""The recipes for real models: each is loaded and runs on a small random model of the same architecture."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlhf.cli import main
from rlhf.config.load import load_config
from tests.pipeline.conftest import RECIPE

pytestmark = pytest.mark.slow
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "how",
    "does",
    "a",
    "small",
    "boat",
    "cross",
    "the",
    "wide",
    "river",
    "when",
    "no",
    "wind",
    "blows",
    "and",
    "the",
    "oars",
    "are",
    "at",
    "home",
]
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "qwen2.5-0.5b-instruct": (Qwen2Config, Qwen2ForCausalLM),
    "llama-3.1-8b-qlora": (LlamaConfig, LlamaForCausalLM),
    "llama-3.1-8b-8gpu": (LlamaConfig, LlamaForCausalLM),
}
SMALL = [
    "tracking.progress=false",
    "launch.processes=1",
    "launch.zero=0",
    "prompts.count=80",
    "prompts.shares.label=0.3",
    "prompts.shares.ppo=0.4",
    "prompts.shares.validation=0.1",
    "prompts.shares.test=0.2",
    "sft.batch_size=8",
    "sft.micro_batch_size=4",
    "sft.epochs=1",
    "sft.evaluations=1",
    "sft.max_tokens=96",
    "candidates.max_prompts=12",
    "candidates.max_new_tokens=12",
    "candidates.samples=5",
    "rankings.overlap=1",
    "reward.epochs=1",
    "reward.evaluations=1",
    "reward.max_tokens=96",
    "reward.normalisation_prompts=8",
    "ppo.updates=1",
    "ppo.critic_warmup_updates=0",
    "ppo.batch_size=8",
    "ppo.minibatch_size=8",
    "ppo.micro_batch_size=4",
    "ppo.max_new_tokens=12",
    "ppo.evaluation_prompts=4",
    "evaluate.max_prompts=6",
    "evaluate.best_of=2",
    "evaluate.max_new_tokens=12",
]


def random_model(folder: Path, recipe: str) -> Path:
    """Write a small random model of the recipe's architecture with a chat tokenizer."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    settings, kind = ARCHITECTURES[recipe]
    torch.manual_seed(0)
    model = kind(settings(vocab_size=len(tokenizer), initializer_range=0.1, **SHAPE))
    ends = [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def texts(folder: Path, count: int) -> tuple[Path, Path]:
    """Write prompts, and demonstrations to other prompts."""
    questions = [" ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(5)) + f" {i}" for i in range(2 * count)]
    prompts, demonstrations = folder / "prompts.jsonl", folder / "demonstrations.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in questions[:count]))
    rows = [{"prompt": text, "response": f"with care {i}"} for i, text in enumerate(questions[count:])]
    demonstrations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prompts, demonstrations


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code, arguments


@pytest.mark.parametrize("recipe", ARCHITECTURES)
def test_recipe_runs_on_a_random_model_of_its_architecture(recipe: str, tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", recipe)
    prompts, demonstrations = texts(tmp_path, 80)
    folder = tmp_path / "run"
    options = [*SMALL, f"run={folder}", f"base.model={model}", f"prompts.sources=[{prompts}]"]
    if load_config(recipe).prompts.demonstrations:
        options.append(f"prompts.demonstrations=[{demonstrations}]")
    for stage in ("base", "prompts", "sft", "candidates"):
        run(stage, recipe, *options)
    rankings = tmp_path / "rankings.jsonl"
    with (folder / "round-1" / "candidates" / "candidates.jsonl").open() as rows, rankings.open("w") as out:
        for row in map(json.loads, rows):
            ranks = list(range(1, len(row["responses"]) + 1))
            out.write(json.dumps({"prompt_id": row["prompt_id"], "annotator": "ann", "ranks": ranks}) + "\n")
    options.append(f"rankings.import_path={rankings}")
    for stage in ("rankings", "pairs", "reward", "ppo", "evaluate", "export"):
        run(stage, recipe, *options)
    manifest = json.loads((folder / "round-1" / "ppo" / "manifest.json").read_text())
    assert manifest["facts"]["step0_kl"] < (1e-4 if load_config(recipe).precision == "fp32" else 1e-2)
    assert (folder / "round-1" / "export" / "adapter" / "adapter_model.safetensors").stat().st_size > 0


def test_quickstart_and_tiny_read_alike() -> None:
    assert load_config("quickstart").gold == load_config(RECIPE).gold
