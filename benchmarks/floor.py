"""The floating-point floor of our PPO update: the least arithmetic it must do, at the speed this machine multiplies.

Counted are matrix products of real tokens only: the trunk on prompts and responses, attention, and the output layer on
response tokens. Not counted are padding, norms, activations, softmax, the optimiser, Python, and the LoRA products
(1 % of the trunk). Phases of an update, per episode:

    rollout   one prompt pass, then the trunk and the output layer once per response token
    score     trunk forward (reward)
    examine   trunk forward and output layer for policy and for reference; with an adapter critic its trunk too
    optimise  per epoch: trunk forward and backward (the weights are frozen: one product, not two), output layer
              forward and backward; with an adapter critic its trunk forward and backward too

Run as a program it measures how fast this machine multiplies matrices of these shapes:
`python -m benchmarks.floor 15m 2 fp32`.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.shapes import EPOCHS, SHAPES, Shape
from rlhf.plan.work import trunk_flops

REPEATS = 7


def floor_seconds(shape: Shape, lengths: Sequence[int], critic: str, rates: dict[str, float]) -> dict[str, float]:
    """Return the least seconds of each phase of an update with responses of these lengths.

    Args:
        shape: Model and prompt length.
        lengths: Response lengths in tokens, one per episode of the update.
        critic: `head` or `adapter`.
        rates: Operations per second in products of many tokens (`trunk`, `head`) and of one token per episode
            (`decode_trunk`, `decode_head`).
    """
    whole = sum(_trunk_pass(shape, shape.prompt + length) for length in lengths)
    prompts = len(lengths) * _trunk_pass(shape, shape.prompt)
    heads = 2 * shape.hidden * shape.vocabulary * sum(lengths)
    trunk, head = whole / rates["trunk"], heads / rates["head"]
    trunks = 2 if critic == "adapter" else 1
    return {
        "rollout": prompts / rates["trunk"] + (whole - prompts) / rates["decode_trunk"] + heads / rates["decode_head"],
        "score": trunk,
        "examine": (1 + trunks) * trunk + 2 * head,
        "optimise": EPOCHS * (2 * trunks * trunk + 2 * head),
    }


def _trunk_pass(shape: Shape, tokens: int) -> int:
    """Return the operations of one trunk pass over a sequence, as `rlhf plan` counts them."""
    weights = sum(before * after for before, after in _block(shape))
    return round(trunk_flops(shape.layers * weights, shape.layers, shape.hidden, tokens))


def _block(shape: Shape) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of one block's linear layers."""
    hidden, wide, narrow = shape.hidden, shape.intermediate, shape.hidden * shape.kv_heads // shape.heads
    return [(hidden, hidden)] * 2 + [(hidden, narrow)] * 2 + [(hidden, wide)] * 2 + [(wide, hidden)]


def measure_rates(shape: Shape, threads: int, dtype: str = "fp32") -> dict[str, float]:
    """Measure operations per second of this machine, best of several, in products of the model's shapes."""
    import torch

    torch.set_num_threads(threads)
    number = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    settings: dict[str, Any] = {"dtype": number, "device": shape.device}
    many, few = shape.micro_batch * (shape.prompt + shape.response), shape.rollout_batch
    layer, head = _block(shape), [(shape.hidden, shape.vocabulary)]

    def rate(rows: int, shapes: Sequence[tuple[int, int]]) -> float:
        sizes = [((rows, before), (after, before)) for before, after in shapes]
        pairs = [(torch.randn(left, **settings), torch.randn(right, **settings)) for left, right in sizes]
        work = sum(2 * rows * before * after for before, after in shapes)

        def multiply() -> None:
            for x, weight in pairs:
                torch.nn.functional.linear(x, weight)
            if shape.device == "cuda":
                torch.cuda.synchronize()

        return work / _best(multiply)

    with torch.no_grad():
        return {
            "trunk": rate(many, layer),
            "head": rate(many // 4, head),
            "decode_trunk": rate(few, layer * shape.layers),
            "decode_head": rate(few, head),
        }


def _best(work: Callable[[], None]) -> float:
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(5):
            work()
        seconds.append((time.perf_counter() - start) / 5)
    return min(seconds)


if __name__ == "__main__":
    print(json.dumps(measure_rates(SHAPES[sys.argv[1]], int(sys.argv[2]), *sys.argv[3:])))
