"""A tiny base model made in process: two random Llama layers and a byte-level tokenizer, no files from outside."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GenerationConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf.config.base import BaseConfig, LoraSection
from rlhf.models.base import LoadedBase, describe_base, load_base
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base

CONTEXT = 128
END, START = "<|end|>", "<|start|>"
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TINY_LORA = LoraSection(rank=4, alpha=8.0)
CLASSIFIER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
}


def tiny_folder(folder: Path, *, template: bool = True, seed: int = 0, hidden: int = 32, scale: float = 1.0) -> Path:
    """Write a model folder: config, safetensors, tokenizer, generation config, optionally a chat template."""
    tokenizer = _tokenizer(eos_token=END)
    if template:
        tokenizer.chat_template = TEMPLATE
    model = tiny_model(len(tokenizer), seed=seed, hidden=hidden, scale=scale)
    end = tokenizer.convert_tokens_to_ids(END)
    model.generation_config = GenerationConfig(eos_token_id=end, bos_token_id=None, pad_token_id=end)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(vocabulary: int, *, seed: int = 0, hidden: int = 32, scale: float = 1.0) -> Any:
    """Return a random two-layer Llama; `scale` multiplies the output layer, so that it has opinions."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    return model


def tiny_classifier(
    folder: Path,
    *,
    labels: tuple[str, ...] = ("score",),
    template: bool = True,
    seed: int = 5,
    pad: str | None = START,
    problem_type: Literal["multi_label_classification"] | None = None,
) -> Path:
    """Write a random sequence classifier with a tokenizer of its own."""
    tokenizer = _tokenizer(eos_token=END, pad_token=pad, extra_special_tokens=[START])
    if template:
        tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **CLASSIFIER,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        pad_token_id=None if pad is None else tokenizer.pad_token_id,
        problem_type=problem_type,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_gpt2(folder: Path, *, seed: int = 7) -> Path:
    """Write a random two-layer GPT-2 classifier, whose linear layers are laid out as convolutions."""
    tokenizer = _tokenizer(eos_token=END)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, initializer_range=0.3,
        id2label={0: "score"}, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_encoder(folder: Path, *, labels: int | None = None, seed: int = 6) -> Path:
    """Write a random two-layer BERT with a tokenizer of its own: a masked language model, or a classifier with so many labels."""
    tokenizer = _tokenizer(pad_token=START, extra_special_tokens=[END])
    config = BertConfig(
        vocab_size=len(tokenizer),
        **CLASSIFIER,
        id2label={index: f"label {index}" for index in range(labels or 2)},
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForMaskedLM(config) if labels is None else BertForSequenceClassification(config)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_base(
    tmp_path: Path,
    *,
    config: BaseConfig | None = None,
    precision: str = "fp32",
    name: str = "base",
    recompute: bool = False,
    **options: Any,
) -> LoadedBase:
    """Write a tiny base artifact below `tmp_path` and load it."""
    folder = tmp_path / name
    config = config or BaseConfig(gradient_checkpointing=recompute)
    if not (folder / "base.json").exists():
        tiny_folder(folder, **options)
        describe_base(config, folder)
    return load_base(folder, config, precision)  # pyright: ignore[reportArgumentType]


def tiny_shared(tmp_path: Path, *, critic: str = "adapter", seed: int = 0, **options: Any) -> SharedBase:
    """Return a shared base with all four roles; the policy starts equal to the reference."""
    return build_shared_base(tiny_base(tmp_path, **options), tiny_roles(critic), seed=seed)


def tiny_roles(critic: str = "adapter") -> dict[str, RoleSource]:
    """Return sources of all four roles, all fresh."""
    own = RoleSource(copy_of="reward", head=True, trainable=True)
    return {
        "reference": RoleSource(fresh=TINY_LORA),
        "policy": RoleSource(copy_of="reference", trainable=True),
        "reward": RoleSource(fresh=TINY_LORA, head=True),
        "critic": own if critic == "adapter" else RoleSource(trunk_of="policy", head=True, trainable=True),
    }


def shake(shared: SharedBase, *roles: str, std: float = 0.05, seed: int = 1) -> None:
    """Move the adapters of some roles by random amounts, so that roles differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in shared.peft_model.named_parameters():
            if any(f".{role}." in name for role in roles) and ".lora_" in name:
                parameter.add_((torch.randn(parameter.shape, generator=generator) * std).to(parameter.device))


def _tokenizer(**tokens: Any) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_tokenizer_json()), **tokens)


@cache
def _tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog ran to the house"] * 4, trainer)
    return json.dumps(json.loads(tokenizer.to_str()))
