"""Shapes of well-known bases, and recipes for them; nothing of theirs but the sizes is needed."""

from typing import Any

from transformers import BloomConfig, LlamaConfig, OPTConfig, Qwen2Config

from rlhf.config.base import BaseConfig
from rlhf.config.load import parse_config
from rlhf.config.recipe import Config
from rlhf.plan.shape import BaseShape, measure_shape


def llama(hidden: int, inner: int, layers: int, heads: int, key_heads: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
    )


# Width 8, MLP 16, two blocks, two heads with one key head of width 4, 32 words: small enough to count by hand.
HAND = llama(8, 16, 2, 2, 1, 32)
QWEN_05B = Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
LLAMA_8B = llama(4096, 14_336, 32, 32, 8, 128_256)
LLAMA_65B = llama(8192, 22_016, 80, 64, 64, 32_000)
LLAMA_70B = llama(8192, 28_672, 80, 64, 8, 128_256)
BLOOM_176B = BloomConfig(vocab_size=250_880, hidden_size=14_336, n_layer=70, n_head=112)
# GPT-3's shape with its projections apart, as OPT writes them.
GPT_175B = OPTConfig(
    vocab_size=50_272,
    hidden_size=12_288,
    ffn_dim=49_152,
    num_hidden_layers=96,
    num_attention_heads=96,
    word_embed_proj_dim=12_288,
    max_position_embeddings=2048,
)


def shape_of(settings: Any) -> BaseShape:
    attention = "eager" if isinstance(settings, BloomConfig) else "sdpa"
    return measure_shape(settings, BaseConfig(model="shape", attention=attention))


def recipe(**sections: Any) -> Config:
    """Return a small recipe, with the named sections changed."""
    values: dict[str, Any] = {
        "run": "runs/planned",
        "base": {"model": "shape"},
        "prompts": {"sources": ["prompts.jsonl"], "max_tokens": 16},
        "sft": {"lora": {"rank": 2, "alpha": 4}, "batch_size": 4, "micro_batch_size": 4, "max_tokens": 24},
        "candidates": {"count": 3, "samples": 4, "batch_size": 8, "max_new_tokens": 8},
        "reward": {"batch_prompts": 4, "micro_batch_prompts": 2, "max_tokens": 24, "normalisation_prompts": 8},
        "ppo": {"batch_size": 4, "minibatch_size": 4, "micro_batch_size": 4, "rollout_batch_size": 4,
                "max_new_tokens": 8},
        "evaluate": {"batch_size": 4, "max_new_tokens": 8},
    }  # fmt: skip
    for name, change in sections.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return parse_config(values, "tests")
