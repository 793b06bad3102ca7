"""Operations and bytes sent, by hand and beside the benchmark's floor."""

import pytest

from benchmarks.floor import floor_seconds
from benchmarks.shapes import EPOCHS, SHAPES, model_config
from rlhf.plan.communication import communication_bytes, decoding_bytes, gathered_bytes
from rlhf.plan.loads import stage_loads
from rlhf.plan.memory import Layout, stage_memory
from rlhf.plan.work import DECODE_UTILISATION, PASS_UTILISATION, Work, stage_work, trunk_flops
from tests.unit.plan.shapes import HAND, recipe, shape_of


def test_a_pass_is_two_operations_per_weight_and_half_a_square() -> None:
    # 2 * 1152 weights * 3 tokens; in 2 blocks queries of width 8 meet 1 + 2 + 3 keys, twice 2 operations each.
    assert trunk_flops(1152, 2, 8, 3) == 2 * 1152 * 3 + 2 * 2 * 8 * 2 * (1 + 2 + 3)


@pytest.mark.parametrize("critic", ["head", "adapter"])
def test_an_update_is_the_benchmarks_floor(critic: str) -> None:
    bench = SHAPES["15m"]
    config = recipe(
        prompts={"max_tokens": bench.prompt},
        ppo={"critic": critic, "batch_size": bench.batch, "minibatch_size": bench.batch, "epochs": EPOCHS,
             "max_new_tokens": bench.response},
    )  # fmt: skip
    shape = shape_of(model_config(bench, 1024))
    load = next(load for load in stage_loads(config, shape, 1) if load.stage == "ppo")
    work = stage_work(config, shape, load)
    rates = {"trunk": 1.0, "head": 1.0, "decode_trunk": 1.0, "decode_head": 1.0}
    floor = floor_seconds(bench, [bench.response] * bench.batch, critic, rates)
    assert work is not None
    assert work.passes + work.decode == pytest.approx(sum(floor.values()))
    assert (work.unit, work.units) == ("update", config.ppo.updates)


def test_gradient_checkpointing_costs_a_forward_pass() -> None:
    works = []
    for recompute in (False, True):
        config = recipe(base={"gradient_checkpointing": recompute})
        shape = shape_of(HAND)
        load = next(load for load in stage_loads(config, shape, 1) if load.stage == "reward")
        found = stage_work(config, shape, load)
        assert found is not None
        works.append(found.passes)
    assert works[1] == pytest.approx(1.5 * works[0])


def test_time_is_work_over_rate_and_utilisation() -> None:
    work = Work("update", 6e12, 3e12, 10)
    expected = (6e12 / PASS_UTILISATION + 3e12 / DECODE_UTILISATION) / (4 * 100e12)
    assert work.seconds(100e12, 4) == pytest.approx(expected)


def test_bytes_sent_per_optimiser_step() -> None:
    # 1,000 weights are 4,000 bytes; on 4 GPUs a gathering sends three quarters.
    assert communication_bytes(0, 1, 1000) == 0
    assert communication_bytes(0, 4, 1000, micro_steps=5) == 2 * 3000
    assert communication_bytes(1, 4, 1000, micro_steps=5) == 2 * 3000 + 3000
    assert communication_bytes(2, 4, 1000, micro_steps=5) == 5 * 2 * 3000 + 3000
    assert communication_bytes(3, 4, 1000, micro_steps=5, gathered=8000) == 5 * 3000 + 3000 + 5 * 6000


@pytest.mark.parametrize(("recompute", "passes"), [(False, 2), (True, 3)])
def test_bytes_gathered_in_a_micro_step(recompute: bool, passes: int) -> None:
    config, shape = recipe(base={"gradient_checkpointing": recompute}), shape_of(HAND)
    loads = {load.stage: load for load in stage_loads(config, shape, 2)}
    # 1,152 weights of blocks for each pass of two trunks, 256 of the embeddings for each, 256 of the output layer.
    ppo, reward = loads["ppo"].training, loads["reward"].training
    assert ppo is not None
    assert reward is not None
    assert gathered_bytes(config, shape, ppo) == 4 * (2 * (passes * 1152 + 256) + 256)
    assert gathered_bytes(config, shape, reward) == 4 * (passes * 1152 + 256)


def test_sharded_decoding_gathers_the_base_for_every_token() -> None:
    config, shape = recipe(), shape_of(HAND)
    (decoding,) = (load.decoding for load in stage_loads(config, shape, 4) if load.stage == "ppo")
    assert decoding_bytes(config, shape, Layout(3, 4), decoding) == 8 * 4 * 1704 * 3 / 4
    assert decoding_bytes(config, shape, Layout(2, 4), decoding) == 0


def test_a_base_that_is_gathered_to_decode_is_sent_once_and_whole_in_memory() -> None:
    config, shape = recipe(ppo={"gather_to_decode": True}), shape_of(HAND)
    (ppo,) = (load for load in stage_loads(config, shape, 4) if load.stage == "ppo")
    assert decoding_bytes(config, shape, Layout(3, 4), ppo.decoding) == 4 * 1704 * 3 / 4
    assert stage_memory(config, shape, ppo, Layout(3, 4)).moments["decode"]["all-gather"] == 4 * 1704
    assert stage_memory(config, shape, ppo, Layout(2, 4)).moments["decode"]["all-gather"] == 0
