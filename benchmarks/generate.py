"""Tokens per second of our decode loop against transformers' `generate`, on responses of mixed lengths.

Both sides sample unconstrained at temperature 1 from equal random weights, in fp32, without gradients, in batches of
equal size; a bias on the end token's logit makes the lengths differ. Ours decodes a LoRA policy and merges it within
the measured time; `generate` gets the bare model, prompts sorted by length (least padding), and the quicker of two caches.
The runs alternate and the ratio is that of their medians.

    python -m benchmarks.generate [--threads N] [--rounds N]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.shapes import END, PAD, SHAPES, bias_parameter, model_config
from rlhf.config.base import LoraSection
from rlhf.models.adapters import attach_lora
from rlhf.models.roles import SharedBase
from rlhf.sampling import Sampling, sample
from rlhf.tensors import pad_left
from rlhf.text import TextFormat

RESULT = Path(__file__).parent / "results" / "generate.json"
SHAPE, CONTEXT = SHAPES["15m"], 512
PROMPTS, SHORTEST, LONGEST = 96, 16, 64
MAX_NEW_TOKENS, BATCH = 64, 32
END_BIAS = 7.11
"""The end token's probability is then about 3.5 % at every step: responses of 26 tokens on average, 64 at most."""
Run = Callable[[int], list[int]]


def main() -> None:
    """Measure and write `benchmarks/results/generate.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prompts = make_prompts()
    sides = {"ours": our_side(prompts), **{f"generate_{kind}": their_side(prompts, kind) for kind in CACHES}}
    result = measure(sides, options.rounds)
    result |= {"threads": options.threads, "torch": torch.__version__, "transformers": transformers.__version__}
    result |= {"prompts": PROMPTS, "batch_size": BATCH, "max_new_tokens": MAX_NEW_TOKENS}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def make_prompts() -> list[list[int]]:
    """Return random prompts of random lengths."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (PROMPTS,), generator=generator).tolist()
    return [torch.randint(3, SHAPE.vocabulary, (length,), generator=generator).tolist() for length in lengths]


def make_model() -> Any:
    """Return a random Llama that ends its responses at random."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(model_config(SHAPE, CONTEXT)).eval().requires_grad_(False)
    model.lm_head.bias = bias_parameter({str(END): END_BIAS}, SHAPE.vocabulary, torch.float32)
    return model


def make_text() -> TextFormat:
    """Return a format that knows the end token; its tokenizer is never asked."""
    letters = {letter: index + 3 for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={"<|unknown|>": 0, "<|pad|>": PAD, "<|end|>": END, **letters}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    return TextFormat(wrapped, "plain", [END], CONTEXT)


def our_side(prompts: Sequence[list[int]]) -> Run:
    """Return a run of our loop; it gives the lengths of the responses."""
    policy = attach_lora(make_model(), LoraSection(), "policy", trainable=True, dropout=0.0)
    shared, text, sampling = SharedBase(policy, nn.ModuleDict()), make_text(), Sampling(1.0, MAX_NEW_TOKENS)

    def run(seed: int) -> list[int]:
        keys = range(len(prompts))
        drawn = sample(shared, "policy", prompts, text, sampling, seed=seed, batch_size=BATCH, keys=keys)
        return [len(ids) for ids in drawn.response_ids]

    return run


CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static", "disable_compile": True},
}


def their_side(prompts: Sequence[list[int]], cache: str) -> Run:
    """Return a run of `generate` over the same prompts; it gives the lengths of the responses."""
    model, ordered = make_model(), sorted(prompts, key=len)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": MAX_NEW_TOKENS}

    @torch.no_grad()
    def run(seed: int) -> list[int]:
        torch.manual_seed(seed)
        lengths: list[int] = []
        for start in range(0, len(ordered), BATCH):
            rows = ordered[start : start + BATCH]
            ids = pad_left(rows, PAD)
            mask = torch.stack([torch.arange(ids.shape[1]) >= ids.shape[1] - len(row) for row in rows])
            output = model.generate(input_ids=ids, attention_mask=mask.long(), **settings, **CACHES[cache])
            ended = (output[:, ids.shape[1] :] == END).int()
            width = ended.shape[1]
            lengths += torch.where(ended.any(1), ended.argmax(1) + 1, width).tolist()
        return lengths

    return run


def measure(sides: dict[str, Run], rounds: int) -> dict[str, Any]:
    """Run the sides in turn, once to warm up and then `rounds` times; compare medians of tokens per second.

    Wall-clock time and the time of the process's threads are both kept: on a shared machine the latter is steadier.
    The comparison is with the quicker of the other sides.
    """
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    speeds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in sides} for clock in clocks}
    lengths: dict[str, list[int]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            started = {clock: read() for clock, read in clocks.items()}
            found = run(turn)
            seconds = {clock: read() - started[clock] for clock, read in clocks.items()}
            if turn > 0:
                lengths[name] += found
                for clock in clocks:
                    speeds[clock][name].append(sum(found) / seconds[clock])
    medians = {clock: {name: statistics.median(runs) for name, runs in speeds[clock].items()} for clock in clocks}
    best = {clock: max((name for name in sides if name != "ours"), key=medians[clock].__getitem__) for clock in clocks}
    return {
        "ratio_of_medians": {clock: medians[clock]["ours"] / medians[clock][best[clock]] for clock in clocks},
        "compared_with": best,
        "tokens_per_second_medians": medians,
        "tokens_per_second": speeds,
        "mean_length_tokens": {name: statistics.mean(values) for name, values in lengths.items()},
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
