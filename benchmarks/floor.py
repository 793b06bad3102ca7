"""The floating-point floor of our PPO update: the least arithmetic it must do, at the speed this machine multiplies.

Counted are matrix products of real tokens only: the trunk on prompts and responses, attention, and the output layer on
response tokens. Not counted are padding, norms, activations, softmax, the optimiser, Python, and the LoRA products
(1 % of the trunk). Phases of an update, per episode:

    rollout   one prompt pass, then the trunk and the output layer once per response token
    score     trunk forward (reward)
    examine   trunk forward and output layer for policy and for reference; with an adapter critic its trunk too
    optimise  per epoch: trunk forward and backward (the weights are frozen: one product, not two), output layer
              forward and backward; with an adapter critic its trunk forward and backward too

Run as a program it measures how fast this machine multiplies matrices of these shapes: `python -m benchmarks.floor 2 fp32`.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.shapes import BATCH, EPOCHS, HIDDEN, INTERMEDIATE, LAYERS, PROMPT, RESPONSE, VOCABULARY

# Operations per token: two for each weight.
TRUNK = 2 * LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE)
HEAD = 2 * HIDDEN * VOCABULARY
REPEATS = 7


def floor_seconds(lengths: Sequence[int], critic: str, rates: dict[str, float]) -> dict[str, float]:
    """Return the least seconds of each phase of an update with responses of these lengths.

    Args:
        lengths: Response lengths in tokens, one per episode of the update.
        critic: `head` or `adapter`.
        rates: Operations per second in products of many tokens (`trunk`, `head`) and of one token per episode
            (`decode_trunk`, `decode_head`).
    """
    tokens = sum(lengths)
    trunk = sum(_trunk_pass(PROMPT + length) for length in lengths) / rates["trunk"]
    head = HEAD * tokens / rates["head"]
    prompts = len(lengths) * _trunk_pass(PROMPT) / rates["trunk"]
    decode = sum(_trunk_pass(PROMPT + length) - _trunk_pass(PROMPT) for length in lengths) / rates["decode_trunk"]
    trunks = 2 if critic == "adapter" else 1
    return {
        "rollout": prompts + decode + HEAD * tokens / rates["decode_head"],
        "score": trunk,
        "examine": (1 + trunks) * trunk + 2 * head,
        "optimise": EPOCHS * (2 * trunks * trunk + 2 * head),
    }


def _trunk_pass(tokens: int) -> int:
    """Return the operations of one trunk pass over a sequence; attention sees half of the square."""
    return tokens * TRUNK + LAYERS * 2 * HIDDEN * tokens * (tokens + 1)


def measure_rates(threads: int, dtype: str = "fp32") -> dict[str, float]:
    """Measure operations per second of this machine, best of several, in products of the model's shapes."""
    import torch

    torch.set_num_threads(threads)
    number = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    many, few = BATCH * (PROMPT + RESPONSE) // 4, BATCH
    layer = (
        [(HIDDEN, HIDDEN)] * 4 + [(HIDDEN, INTERMEDIATE)] * 2 + [(INTERMEDIATE, HIDDEN)]
    )  # (in, out) of one block's linear layers

    def rate(rows: int, shapes: Sequence[tuple[int, int]]) -> float:
        sizes = [((rows, before), (after, before)) for before, after in shapes]
        pairs = [(torch.randn(left, dtype=number), torch.randn(right, dtype=number)) for left, right in sizes]
        work = sum(2 * rows * before * after for before, after in shapes)
        return work / _best(lambda: [torch.nn.functional.linear(x, weight) for x, weight in pairs])

    with torch.no_grad():
        return {
            "trunk": rate(many, layer),
            "head": rate(many // 4, [(HIDDEN, VOCABULARY)]),
            "decode_trunk": rate(few, layer * LAYERS),
            "decode_head": rate(few, [(HIDDEN, VOCABULARY)]),
        }


def _best(work: Callable[[], Any]) -> float:
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(5):
            work()
        seconds.append((time.perf_counter() - start) / 5)
    return min(seconds)


if __name__ == "__main__":
    print(json.dumps(measure_rates(int(sys.argv[1]), *sys.argv[2:])))
