"""The benchmark's own arithmetic, and our side of it on a model that takes seconds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import ours_ppo, ours_reward, peer_reward, reward, shapes
from benchmarks.floor import floor_seconds
from benchmarks.ppo import histogram, sides_of, summarise, table
from benchmarks.rankings import DATA_SEED, FIRST_WORD, HELD_OUT, WORDS, make_rankings, read_rankings, write_rankings
from benchmarks.shapes import END, SHAPES, Shape, logit_bias, shape_of, write_model
from rlhf.config.base import BaseConfig
from rlhf.models.base import load_base
from rlhf.reward.examples import encode_pairs

TINY = Shape(
    device="cpu",
    dtypes=("fp32",),
    vocabulary=64,
    hidden=16,
    intermediate=24,
    layers=2,
    heads=4,
    kv_heads=2,
    batch=8,
    prompt=5,
    response=10,
    micro_batch=4,
    peer_micro_batches=(2,),
    rollout_batch=8,
)
TINY_RANKED = replace(TINY, vocabulary=FIRST_WORD + WORDS, prompt=10, response=12)
RATES = {"trunk": 1e9, "head": 2e9, "decode_trunk": 1e8, "decode_head": 2e8}


@pytest.mark.parametrize("name", SHAPES)
def test_natural_ends_have_the_mean_length_asked_for(name: str):
    # 200,000 draws: a step ends with the end token's share of exp(logit), the others' logits are N(0, variance).
    shape = SHAPES[name]
    weight = torch.tensor(logit_bias(shape, "natural")[END]).exp()
    others = shape.vocabulary * torch.tensor(shape.logit_variance / 2).exp()
    ends = torch.distributions.Geometric(weight / (weight + others))
    torch.manual_seed(0)
    lengths = (ends.sample((200_000,)) + 1).clamp(max=shape.response)
    assert lengths.mean().item() == pytest.approx(0.4 * shape.response, rel=0.01)


def test_the_large_shapes_have_the_size_in_their_names():
    # Embeddings and output layer are two matrices here: half a billion and a billion and a half in trunk and one of them.
    for name, parameters in (("0.5b", 0.49e9), ("1.5b", 1.54e9)):
        shape = SHAPES[name]
        narrow = shape.hidden * shape.kv_heads // shape.heads
        block = 2 * shape.hidden * (shape.hidden + narrow) + 3 * shape.hidden * shape.intermediate
        assert shape.layers * block + shape.vocabulary * shape.hidden == pytest.approx(parameters, rel=0.01)
        assert (shape.batch, shape.prompt, shape.response, shape.dtypes) == (512, 256, 256, ("bf16",))


def test_the_floor_counts_the_products_of_an_update():
    # One block: q, o 2*16*16, k, v 2*16*8, MLP 3*16*24 = 1920 weights; two blocks, two operations each: 7680 per token,
    # attention 2*2*16*n*(n+1). Prompt 5 and response 3: 8 tokens, 61440 + 4608 = 66048; the prompt alone 40320.
    # Output layer: 2*16*64*3 = 6144.
    floor = floor_seconds(TINY, [3], "head", RATES)
    assert floor["rollout"] == pytest.approx(40320e-9 + 25728e-8 + 6144 / 2e8)
    assert floor["score"] == pytest.approx(66048e-9)
    assert floor["examine"] == pytest.approx(2 * 66048e-9 + 2 * 6144 / 2e9)
    assert floor["optimise"] == pytest.approx(4 * (2 * 66048e-9 + 2 * 6144 / 2e9))
    other = floor_seconds(TINY, [3], "adapter", RATES)
    assert other["optimise"] == pytest.approx(4 * (4 * 66048e-9 + 2 * 6144 / 2e9))


def test_histogram_covers_one_to_the_longest():
    assert histogram([1, 8, 9, 64], 64) == [2, 1, 0, 0, 0, 0, 0, 1]


def test_another_batch_is_an_option():
    shape = shape_of("0.5b", 64)
    assert (shape.batch, shape.rollout_batch, shape.prompts) == (64, 64, 1024)
    assert shape_of("15m") == SHAPES["15m"]


@pytest.mark.parametrize("critic", ["head", "adapter"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_our_side_runs_on_any_shape(critic: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)
    write_model(TINY, tmp_path / "model")
    job = {"shape": "tiny", "batch": None, "model": str(tmp_path / "model"), "folder": str(tmp_path / "run")}
    job |= {"dtype": "fp32", "length": "natural", "logit_bias": logit_bias(TINY, "natural"), "critic": critic}
    job |= {"warmup": 1, "updates": 1, "micro_batch": 4, "seed": 1, "threads": 1, "match": 4.0}
    found = ours_ppo.main(job)
    assert found["optimizer_steps"] == 2 * shapes.EPOCHS
    assert len(found["response_lengths"]) == TINY.batch
    run = {"side": f"ours, {critic} critic", **{key: job[key] for key in ("dtype", "length", "warmup", "updates")}}
    # The peer did not fit: its ratios are left out, the rest is reported.
    case = summarise(TINY, [{**run, **found}], "fp32", "natural", RATES)
    assert list(case["sides"]) == [run["side"]]
    assert "speed_ratio" not in case["sides"][run["side"]]
    assert case["sides"][run["side"]]["response_tokens_per_s"] > 0
    assert run["side"] in table(case)


def test_both_sides_of_the_peer_where_the_whole_batch_fits():
    assert sides_of(SHAPES["15m"]) == {
        "trl": 4,
        "trl, whole batch": 32,
        "ours, head critic": 8,
        "ours, adapter critic": 8,
    }
    assert "trl, whole batch" not in sides_of(SHAPES["1.5b"])


def test_rankings_are_ordered_by_the_hidden_worth_and_split():
    train, held_out = make_rankings(TINY_RANKED, 40)
    assert (len(train), len(held_out)) == (40, HELD_OUT)
    worth = np.random.default_rng(DATA_SEED).standard_normal(WORDS)
    for ranking in train + held_out:
        assert 8 <= len(ranking.prompt) <= TINY_RANKED.prompt
        means = [worth[np.array(response[:-1]) - FIRST_WORD].mean() for response in ranking.responses]
        assert means == sorted(means, reverse=True)
        assert all(response[-1] == END and 9 <= len(response) <= TINY_RANKED.response for response in ranking.responses)
    # 4 responses make 6 pairs, each response is in 3 of them: 12 sequences.
    pairs = list(train[0].pairs())
    assert len(pairs) == 6
    assert pairs[3] == (
        train[0].prompt + train[0].responses[1],
        train[0].prompt + train[0].responses[2],
    )


def test_rates_and_ratios_of_reward_training():
    # The start and two steps of 16 rankings: 32 rankings in 4 s, and the grouped peer's in 16 s.
    assert reward.rate([10.0, 12.0, 14.0]) == 8.0
    facts = {"peak_bytes": 3e9, "imported_bytes": 1e9, "accuracy": 0.8, "optimizer_steps": 3}
    slow = {"step_times": [0.0, 8.0, 16.0], "step_cpu_times": [0.0, 8.0, 16.0]}
    runs = [
        {"side": "trl", **facts, "step_times": [0.0, 16.0, 32.0], "step_cpu_times": [0.0, 16.0, 32.0]},
        {"side": "trl, grouped", **facts, **slow},
        *(
            {"side": "ours", **facts, "peak_bytes": 2e9, "step_times": [0, 1, ends], "step_cpu_times": [0, 2, 4]}
            for ends in (3.0, 4.0, 100.0)
        ),
    ]
    found = reward.summarise(runs)
    assert found["ours"]["rankings_per_s"] == 8.0  # the median of 32 / 3, 32 / 4, 32 / 100
    assert found["ours"]["speed_ratio"] == 4.0  # 8 to 32 / 16 of the grouped peer
    assert found["ours"]["cpu_ratio"] == 4.0
    assert found["ours"]["memory_ratio"] == pytest.approx(2 / 3)
    assert found["ours"]["net_memory_ratio"] == 0.5
    assert found["trl"]["speed_ratio"] == 0.5
    assert "trl, grouped" in reward.table("speed", found)
    assert reward.FLOOR == 3.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_both_sides_of_reward_training_see_the_same_tokens_and_take_the_same_steps(tmp_path):
    write_model(TINY_RANKED, tmp_path / "model")
    write_rankings(TINY_RANKED, 8, tmp_path / "model")
    job = {**reward.SETTINGS, "model": str(tmp_path / "model"), "learning_rate": 1e-3, "epochs": 2, "batch": 4}
    job |= {"threads": 1, "seed": 1}
    ours = ours_reward.main({**job, "folder": str(tmp_path / "ours"), "micro_batch": 200})
    theirs = peer_reward.main({**job, "folder": str(tmp_path / "peer"), "micro_batch": 8, "grouped": True})
    # 8 rankings, 4 in a step, 2 epochs; 24 pairs in a step of the peer's.
    assert ours["optimizer_steps"] == theirs["optimizer_steps"] == 4
    assert len(ours["step_times"]) == len(theirs["step_times"]) == 5
    assert ours["held_out_pairs"] == theirs["held_out_pairs"] == 6 * HELD_OUT
    # Ours has a bias in its head, which no pair can see.
    assert ours["trainable_parameters"] == theirs["trainable_parameters"] + 1
    base = load_base(tmp_path / "ours" / "base", BaseConfig(model=job["model"], prompt_format="plain"), "fp32")
    train, _ = read_rankings(tmp_path / "model")
    encoded = encode_pairs(base.text, ours_reward.as_pairs(train, "t"), 64, "training")
    seen = [
        (prompt.prompt_ids + prompt.response_ids[chosen], prompt.prompt_ids + prompt.response_ids[rejected])
        for prompt in encoded
        for chosen, rejected in zip(prompt.chosen, prompt.rejected, strict=True)
    ]
    dataset = peer_reward.as_dataset(train)
    assert seen == list(zip(dataset["chosen_ids"], dataset["rejected_ids"], strict=True))
