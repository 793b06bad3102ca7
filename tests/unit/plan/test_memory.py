"""Memory by kind, counted by hand on a base of width 8 with two blocks.

A block has 64 + 32 + 32 + 64 weights in attention and 3 * 128 in its MLP, 576 in all; an adapter of rank 2 on them has
2 (16 + 12 + 12 + 16 + 24 + 24 + 24) = 256, so 512 on both. A head has 8 + 1. The base has 1,704 weights.
"""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl.kernels.chunked_logprob import _backward_tile

from rlhf.config.recipe import Config
from rlhf.plan.loads import PLANNED, Load, stage_loads
from rlhf.plan.memory import BUCKET, Kind, Layout, Memory, stage_memory
from rlhf.plan.plan import layout_of, make_plan
from rlhf.stage_graph import LAUNCHED
from tests.unit.plan.shapes import HAND, LLAMA_8B, recipe, shape_of

SHAPE = shape_of(HAND)
# Per token and block: norms 2 (4 * 8 + 4), attention 4 (8 + 2 * 8 + 2 * 4) + 4 * 2, MLP 4 (8 + 4 * 16).
KEPT = 72 + 136 + 288
# Residual and normed input, and three tensors of the MLP's width.
PASSING = 4 * (2 * 8 + 3 * 16)


def load_of(stage: str, config: Config, processes: int = 1) -> Load:
    return next(load for load in stage_loads(config, SHAPE, processes) if load.stage == stage)


def memory_of(stage: str, layout: Layout | None = None, **sections: Any) -> Memory:
    config, layout = recipe(**sections), layout or Layout(0, 1)
    return stage_memory(config, SHAPE, load_of(stage, config, layout.gpus), layout)


def at(memory: Memory, moment: Any) -> dict[Kind, int]:
    return {kind: size for kind, size in memory.moments[moment].items() if size}


def test_what_is_always_there() -> None:
    # Reference, policy, reward and critic, the last two with a head; policy and critic learn.
    learning = 512 + 512 + 9
    assert memory_of("ppo").always == {
        "base weights": 4 * 1704,
        "adapters, heads": 4 * (4 * 512 + 2 * 9),
        "optimiser": 2 * 4 * learning,
    }


@pytest.mark.parametrize(
    ("stage", "changes", "learning", "attached"),
    [
        ("sft", {}, 512, 512),
        ("sft", {"sft": {"method": "none"}}, 0, 512),
        ("candidates", {}, 0, 512),
        ("reward", {}, 521, 1033),
        ("reward", {"reward": {"heads": 4}}, 512 + 4 * 9, 1024 + 4 * 9),
        ("reward", {"reward": {"init": "fresh", "lora": {"rank": 4}}}, 1024 + 9, 512 + 1024 + 9),
        ("ppo", {"ppo": {"critic": "head"}}, 521, 3 * 512 + 2 * 9),
        ("ppo", {"ppo": {"advantage": "rloo", "samples_per_prompt": 2}}, 512, 3 * 512 + 9),
        ("ppo", {"score": {"reward": 0, "length": {"weight": 1}}}, 1033, 3 * 512 + 9),
        ("evaluate", {}, 0, 3 * 512 + 9),
    ],
)
def test_roles_are_those_of_the_stage(stage: str, changes: dict[str, Any], learning: int, attached: int) -> None:
    config = recipe(**changes)
    load = load_of(stage, config)
    (planned,) = (found for found in make_plan(config, SHAPE, 1).stages if found.stage == stage)
    assert (planned.trainable, load.attached(SHAPE)) == (learning, attached)


def test_a_ppo_pass_keeps_both_trunks_and_what_logprobs_need() -> None:
    # 4 episodes of 16 + 8 tokens; 32 of them are responses, whose logits are fewer than a block: 32 tokens x 32 words.
    assert at(memory_of("ppo"), "train") == {
        "gradients": 4 * 1033,
        "activations": 2 * 2 * 96 * KEPT + 2 * 32 * 4 * 8,
        "temporaries": 96 * PASSING + 4 * 128,
        "logits": 4 * 8 * 32 + 32 * 32 * 4,
    }


def test_one_trunk_is_half() -> None:
    one = memory_of("ppo", ppo={"critic": "head"})
    assert at(one, "train")["activations"] == 2 * 96 * KEPT + 2 * 32 * 4 * 8


def test_gradient_checkpointing_keeps_the_blocks_inputs_and_one_block() -> None:
    less = memory_of("ppo", base={"gradient_checkpointing": True})
    assert at(less, "train")["activations"] == 2 * 96 * 2 * 4 * 8 + 96 * KEPT + 2 * 32 * 4 * 8


def test_a_token_budget_bounds_the_pass() -> None:
    # 50 tokens hold two episodes of 24.
    bounded = memory_of("ppo", ppo={"micro_batch_tokens": 50})
    assert at(bounded, "train")["activations"] == 2 * 2 * 48 * KEPT + 2 * 16 * 4 * 8


def test_candidates_share_their_prompt_where_they_may() -> None:
    # Two prompts of 16 tokens with three candidates of 8 behind each: 2 x 40 tokens instead of 6 x 24.
    # Under a mask of its own attention keeps keys and values of both heads, and 4 bytes per column.
    shared, apart = memory_of("reward"), memory_of("reward", reward={"share_prompt": False})
    assert at(shared, "train")["activations"] == 2 * 80 * (KEPT + 4 * (2 * 8 - 2 * 4) + 4 * 40)
    assert at(apart, "train")["activations"] == 2 * 144 * KEPT


def test_sft_takes_pefts_pass_and_trls_output_layer() -> None:
    # 4 examples of 24 tokens, padded, so masked; seven adapters keep their narrow side in fp32.
    kept = KEPT + 4 * (2 * 8 - 2 * 4) + 4 * 24 + 7 * 4 * 2
    train = at(memory_of("sft"), "train")
    assert train["activations"] == 2 * 96 * kept + 96 * 4 * 8
    # The gradient of the states in fp32, and a tile of 96 tokens x 32,768 words.
    assert train["logits"] == 4 * 8 * 96 + 96 * 32_768 * 4


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, and the most that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.data_ptr() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.data_ptr() not in given:
                self.now += made.nbytes
                self.peak = max(self.peak, self.now)
                weakref.finalize(made, self._forget, made.nbytes)
        return out

    def _forget(self, size: int) -> None:
        self.now -= size


def test_a_tile_takes_what_lives_at_once_while_it_becomes_its_gradient() -> None:
    rows, words = 64, 512
    tile, targets, ones = torch.zeros(rows, words), torch.zeros(rows, dtype=torch.long), torch.ones(rows)
    with Living() as living:
        _backward_tile(
            tile, words, targets, ones, ones, ones, ones, 0, words, 1.0, 1.0, 1.0,
            HAS_SOFTCAP=False, HAS_LOGPROB_GRAD=True, HAS_ENTROPY_GRAD=False, BLOCK_SIZE=1,
        )  # fmt: skip
    on_cpu, on_gpu = (
        at(memory_of("sft", Layout(0, 1, on_gpu=place)), "train")["logits"] - 4 * 8 * 96 for place in (False, True)
    )
    assert on_cpu - on_gpu == 96 * 32_768 * int(living.peak / (rows * words))


def test_dropout_keeps_masks_and_copies() -> None:
    # Each adapter's input once more (q, k, v, gate, up; o and down), and a byte per number, instead of common ones.
    inputs = 8 + 8 + 8 + 8 + 8 + 8 + 16
    plain, dropped = (memory_of("sft", sft={"lora": {"rank": 2, "dropout": rate}}) for rate in (0.0, 0.1))
    more = 2 * 96 * (5 * inputs - 4 * (8 + 8 + 16))
    assert at(dropped, "train")["activations"] - at(plain, "train")["activations"] == more


def test_decoding_holds_cache_merged_weights_and_logits() -> None:
    # 4 rows of 24 columns; keys and values of width 4 in two blocks. 16 bytes per word of logits.
    assert at(memory_of("ppo"), "decode") == {
        "KV cache": 4 * 24 * 2 * 2 * 4 * 4,
        "merge backup": 4 * 2 * 576,
        "temporaries": 4 * 16 * PASSING,
        "logits": 4 * 32 * 16,
    }


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"base": {"quantization": "4bit"}}])
def test_only_an_fp32_base_is_merged(changes: dict[str, Any]) -> None:
    assert "merge backup" not in at(memory_of("ppo", **changes), "decode")


def test_a_prompt_is_read_once_for_its_samples() -> None:
    # 8 rows, 4 samples of each prompt.
    assert at(memory_of("candidates"), "decode")["temporaries"] == 2 * 16 * PASSING


def test_bf16_halves_what_is_in_the_base_s_format() -> None:
    half = memory_of("ppo", precision="bf16")
    assert half.always["base weights"] == 2 * 1704
    assert half.always["optimiser"] == memory_of("ppo").always["optimiser"]
    # Norms, and the softmax's sums, stay fp32; the adapters' narrow sides are kept.
    kept = 72 + 2 * (8 + 2 * 8 + 2 * 4) + 4 * 2 + 2 * (8 + 4 * 16) + 7 * 2 * 2
    assert at(half, "train")["activations"] == 2 * 2 * 96 * kept + 2 * 32 * 2 * 8


def test_zero_divides_what_it_says() -> None:
    sections: dict[str, Any] = {"ppo": {"batch_size": 8, "minibatch_size": 8}}
    found = {zero: memory_of("ppo", Layout(zero, 2), **sections) for zero in (0, 1, 2, 3)}
    assert [memory.always["base weights"] for memory in found.values()] == [6816, 6816, 6816, 3408]
    # Moments; under DeepSpeed also its own copy of the weights, each process a half: 12 * 1033 / 2.
    assert [memory.always["optimiser"] for memory in found.values()] == [8264, 6198, 6198, 6198]
    # Plain data parallelism copies gradients into buckets; ZeRO-1 does not, and from 2 on a process keeps a half.
    assert [at(memory, "train")["gradients"] for memory in found.values()] == [8264, 4132, 2066, 2066]
    buckets = [at(memory, "train").get("reduction buckets", 0) for memory in found.values()]
    assert buckets == [0, 4 * BUCKET, 4 * BUCKET, 4 * BUCKET]
    # The embeddings, 32 x 8, are the largest tensor that is put together.
    assert [at(memory, "train").get("all-gather", 0) for memory in found.values()] == [0, 0, 0, 4 * 256]


def test_the_peak_is_the_largest_moment_and_not_the_sum_of_all() -> None:
    memory = memory_of("ppo")
    always = sum(memory.always.values())
    assert memory.peak_moment == "train"
    assert memory.peak == always + sum(memory.moments["train"].values())
    assert memory.peak < always + sum(sum(found.values()) for found in memory.moments.values())


def test_a_single_process_divides_nothing() -> None:
    config = recipe(launch={"processes": 8, "zero": 3})
    assert layout_of(config, 8) == Layout(3, 8)
    assert layout_of(config, 1) == Layout(0, 1)
    assert set(PLANNED) <= LAUNCHED


def test_a_four_bit_base_is_not_divided() -> None:
    config = recipe(launch={"processes": 8, "zero": 3}, base={"quantization": "4bit"})
    assert layout_of(config, 8).zero == 2
    assert any("4-bit" in line for line in make_plan(config, shape_of(LLAMA_8B), 8).refused)
