"""What both sides of the PPO benchmark run: one model folder, one list of prompts, one set of batch sizes.

The model is a Llama of 15M trunk-and-head parameters (24M with its embeddings) with random weights: speed does not
depend on what they are. Its tokenizer knows the words w3 ... w31999, so that a prompt has exactly the length asked for.

Run as a program it writes the folder: `python -m benchmarks.shapes FOLDER`.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig

VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, HEADS = 32_000, 288, 768, 6, 6
UNKNOWN, PAD, END = 0, 1, 2
BATCH, PROMPT, RESPONSE, EPOCHS, LORA_RANK, LORA_ALPHA = 32, 64, 64, 4, 8, 16
LEARNING_RATE = 1e-5
PROMPTS = 1024
"""More than any run reads: TRL accumulates gradients wrongly in the last batch of a pass over its data."""
MODEL_SEED = 0
NEVER = -1e4
"""Added to a logit, it makes the token impossible, in fp32 and in bf16."""
NATURAL_SHARE = 0.4
"""Mean response length with natural ends, as a share of the longest."""


def logit_bias(length: str) -> dict[int, float]:
    """Return what both programs add to logits: the pad token never, the end token never or at a constant rate.

    Random weights give each token about 1 / vocabulary. The end token's rate p per step solves
    (1 - (1 - p)^n) / p = share * n, the mean length of a geometric draw that is cut at n = `RESPONSE`.
    """
    if length == "fixed":
        return {PAD: NEVER, END: NEVER}
    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = (1 - (1 - middle) ** RESPONSE) / middle
        low, high = (middle, high) if mean > NATURAL_SHARE * RESPONSE else (low, middle)
    # The other tokens weigh exp(variance / 2) each on average; the logits of these weights have variance 0.115.
    return {PAD: NEVER, END: math.log(low / (1 - low) * VOCABULARY) + 0.115 / 2}


def bias_parameter(bias: Mapping[str, float], dtype: "torch.dtype") -> "torch.nn.Parameter":
    """Return the output layer's bias as a frozen parameter; the mapping came through JSON, so its keys are texts."""
    import torch

    values = torch.zeros(VOCABULARY, dtype=dtype)
    for token, value in bias.items():
        values[int(token)] = value
    return torch.nn.Parameter(values, requires_grad=False)


def model_config(context: int) -> "LlamaConfig":
    """Return the model's shape."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )


def write_model(folder: Path) -> None:
    """Write weights, tokenizer, generation settings and `prompts.json`."""
    import numpy as np
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<unk>": UNKNOWN, "<pad>": PAD, "</s>": END} | {f"w{index}": index for index in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", padding_side="left"
    )
    torch.manual_seed(MODEL_SEED)
    model = LlamaForCausalLM(model_config(PROMPT + RESPONSE))
    with torch.no_grad():
        # So that the end token has the same chance after every prompt: equal seeds then mean equal lengths.
        model.lm_head.weight[END] = 0.0
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=PAD)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    prompts = np.random.default_rng(MODEL_SEED).integers(3, VOCABULARY, (PROMPTS, PROMPT))
    (folder / "prompts.json").write_text(json.dumps(prompts.tolist()), encoding="utf-8")


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
