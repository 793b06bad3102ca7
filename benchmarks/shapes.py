"""What both sides of the PPO benchmark run: one model folder, one list of prompts, one set of batch sizes.

The models are Llamas with random weights: speed does not depend on what they are. Their tokenizers know the words
w3, w4 and so on, so that a prompt has exactly the length asked for.

Run as a program it writes the folder: `python -m benchmarks.shapes NAME FOLDER`.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Shape:
    """A model and the batches of an update; lengths are in tokens.

    Attributes:
        device: Where it is measured, `cpu` or `cuda`.
        dtypes: Number formats to measure.
        micro_batch: Sequences of ours that go through the model at once while training.
        peer_micro_batches: The same of the peer: at its best first, then without accumulation where that fits.
        rollout_batch: Responses that both sides decode at once.
    """

    device: str
    dtypes: tuple[str, ...]
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    batch: int
    prompt: int
    response: int
    micro_batch: int
    peer_micro_batches: tuple[int, ...]
    rollout_batch: int

    @property
    def prompts(self) -> int:
        """More than any run reads: TRL accumulates gradients wrongly in the last batch of a pass over its data."""
        return 16 * self.batch

    @property
    def logit_variance(self) -> float:
        """Of the random output layer: `hidden` weights of standard deviation .02 on features of variance 1."""
        return self.hidden * 0.02**2


_GPU = {"device": "cuda", "dtypes": ("bf16",), "batch": 512, "prompt": 256, "response": 256, "rollout_batch": 512}
SHAPES = {
    # 15M parameters in trunk and output layer, 24M with its embeddings. Ours hardly cares for the micro-batch.
    "15m": Shape("cpu", ("fp32", "bf16"), 32_000, 288, 768, 6, 6, 6, 32, 64, 64, 8, (4, 32), 32),
    # Layers, widths and vocabulary of Qwen2.5; the output layer is not tied to the embeddings, so that random weights
    # give every word about the same chance.
    "0.5b": Shape(
        **_GPU, vocabulary=151_936, hidden=896, intermediate=4864, layers=24, heads=14, kv_heads=2,
        micro_batch=32, peer_micro_batches=(8,),
    ),
    "1.5b": Shape(
        **_GPU, vocabulary=151_936, hidden=1536, intermediate=8960, layers=28, heads=12, kv_heads=2,
        micro_batch=32, peer_micro_batches=(8,),
    ),
}  # fmt: skip
UNKNOWN, PAD, END = 0, 1, 2
EPOCHS, LORA_RANK, LORA_ALPHA = 4, 8, 16
LEARNING_RATE = 1e-5
MODEL_SEED = 0
NEVER = -1e4
"""Added to a logit, it makes the token impossible, in fp32 and in bf16."""
NATURAL_SHARE = 0.4
"""Mean response length with natural ends, as a share of the longest."""


def shape_of(name: str, batch: int | None = None) -> Shape:
    """Return a shape by its name, with another number of episodes per update where one is given."""
    shape = SHAPES[name]
    batch = batch or shape.batch
    return replace(shape, batch=batch, rollout_batch=min(shape.rollout_batch, batch))


def logit_bias(shape: Shape, length: str) -> dict[int, float]:
    """Return what both programs add to logits: the pad token never, the end token never or at a constant rate.

    Random weights give each token about 1 / vocabulary. The end token's rate p per step solves
    (1 - (1 - p)^n) / p = share * n, the mean length of a geometric draw that is cut at n = `shape.response`.
    """
    if length == "fixed":
        return {PAD: NEVER, END: NEVER}
    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = (1 - (1 - middle) ** shape.response) / middle
        low, high = (middle, high) if mean > NATURAL_SHARE * shape.response else (low, middle)
    # The other tokens weigh exp(variance / 2) each on average.
    return {PAD: NEVER, END: math.log(low / (1 - low) * shape.vocabulary) + shape.logit_variance / 2}


def bias_parameter(bias: Mapping[str, float], vocabulary: int, dtype: "torch.dtype") -> "torch.nn.Parameter":
    """Return the output layer's bias as a frozen parameter; the mapping came through JSON, so its keys are texts."""
    import torch

    values = torch.zeros(vocabulary, dtype=dtype)
    for token, value in bias.items():
        values[int(token)] = value
    return torch.nn.Parameter(values, requires_grad=False)


def model_config(shape: Shape, context: int) -> "LlamaConfig":
    """Return the model's configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )


def word_tokenizer(vocabulary: int) -> "PreTrainedTokenizerFast":
    """Return a tokenizer that knows the words w3, w4 and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": UNKNOWN, "<pad>": PAD, "</s>": END} | {f"w{index}": index for index in range(3, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", padding_side="left"
    )


def write_model(shape: Shape, folder: Path) -> None:
    """Write weights, tokenizer, generation settings and `prompts.json`."""
    import numpy as np
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    wrapped = word_tokenizer(shape.vocabulary)
    torch.manual_seed(MODEL_SEED)
    model = LlamaForCausalLM(model_config(shape, shape.prompt + shape.response))
    with torch.no_grad():
        # So that the end token has the same chance after every prompt: equal seeds then mean equal lengths.
        model.lm_head.weight[END] = 0.0
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=PAD)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    prompts = np.random.default_rng(MODEL_SEED).integers(3, shape.vocabulary, (shape.prompts, shape.prompt))
    (folder / "prompts.json").write_text(json.dumps(prompts.tolist()), encoding="utf-8")


if __name__ == "__main__":
    write_model(SHAPES[sys.argv[1]], Path(sys.argv[2]))
