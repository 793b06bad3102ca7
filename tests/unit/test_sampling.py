"""The decode loop."""

import copy
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

from rlhf.decoding import GrowingRows, SlotRows, Trunk, make_rows
from rlhf.errors import ConfigError
from rlhf.models.adapters import attach_lora
from rlhf.models.base import hash_weights
from rlhf.models.logprobs import response_logprobs
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.sampling import Samples, Sampling, _draw_uniforms, _invert, choose, sample
from rlhf.text import TextFormat
from tests.tiny import CONTEXT, TINY_LORA, shake, tiny_base, tiny_roles

HOT = Sampling(temperature=1.0, max_new_tokens=12)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[SharedBase, TextFormat, list[list[int]]]:
    base = tiny_base(tmp_path_factory.mktemp("sampling"), scale=4.0)
    shared = build_shared_base(base, tiny_roles())
    shake(shared, "policy")
    with torch.no_grad():
        shared.lm_head.weight[base.text.end_token_ids[0]] *= 6.0  # some responses end, others do not
    return shared, base.text, [base.text.encode_prompt("the cat" + " on a dog" * (i % 4)) for i in range(24)]


def test_sampler_and_trainer_agree_on_logprobs(setting) -> None:
    shared, text, prompts = setting
    sampling = Sampling(0.7, 12)
    drawn = sample(shared, "policy", prompts, text, sampling, seed=1, batch_size=24, keys=range(24))
    assert 0 < sum(drawn.ended) < 24
    for prompt, response, expected in zip(prompts, drawn.response_ids, drawn.logprobs, strict=True):
        ids = torch.tensor([prompt + response])
        mask = torch.tensor([[False] * len(prompt) + [True] * len(response)])
        found, _ = response_logprobs(shared, "policy", ids, None, mask, sampling.temperature)
        assert torch.allclose(found, torch.tensor(expected), atol=1e-4)


def test_draws_do_not_depend_on_neighbours_batch_size_or_merging(setting) -> None:
    shared, text, prompts = setting
    whole = sample(shared, "policy", prompts, text, HOT, seed=1, batch_size=24, keys=range(24))
    parts = sample(shared, "policy", prompts, text, HOT, seed=1, batch_size=5, keys=range(24), merge=False)
    alone = sample(shared, "policy", prompts[7:8], text, HOT, seed=1, batch_size=1, keys=[7])
    assert whole.response_ids == parts.response_ids
    assert whole.response_ids[7] == alone.response_ids[0]


def test_seed_and_key_decide_the_draw(setting) -> None:
    shared, text, prompts = setting
    same = [prompts[0]] * 3
    first = sample(shared, "policy", same, text, HOT, seed=1, batch_size=3, keys=[0, 1, 0]).response_ids
    assert first[0] == first[2] != first[1]
    other = sample(shared, "policy", same, text, HOT, seed=2, batch_size=3, keys=[0, 1, 0]).response_ids
    assert first != other


def test_responses_stop_at_their_end_token_or_at_the_limit(setting) -> None:
    shared, text, prompts = setting
    drawn = sample(shared, "policy", prompts, text, HOT, seed=3, batch_size=24, keys=range(24))
    for ids, ended, scores in zip(drawn.response_ids, drawn.ended, drawn.logprobs, strict=True):
        assert text.cut(ids) == (ids, ended)
        assert len(ids) == HOT.max_new_tokens or ended
        assert len(scores) == len(ids)


def test_merging_leaves_no_trace_in_the_base(setting) -> None:
    shared, text, prompts = setting
    before, pointers = hash_weights(shared), [parameter.data_ptr() for parameter in shared.parameters()]
    sample(shared, "policy", prompts, text, HOT, seed=1, batch_size=24, keys=range(24))
    assert hash_weights(shared) == before
    assert [parameter.data_ptr() for parameter in shared.parameters()] == pointers


def test_greedy_takes_the_likeliest_token(setting) -> None:
    shared, text, prompts = setting
    greedy = Sampling(temperature=0.0, max_new_tokens=6)
    drawn = sample(shared, "policy", prompts[:3], text, greedy, seed=1, batch_size=2, keys=[0, 1, 2])
    for prompt, response in zip(prompts, drawn.response_ids, strict=False):
        for cut in range(len(response)):
            logits = shared.lm_head(shared.hidden("policy", torch.tensor([prompt + response[:cut]]))[0, -1])
            assert int(logits.argmax()) == response[cut]


def test_inverse_distribution_hits_each_token_in_proportion() -> None:
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    uniforms = torch.arange(1000) / 1000
    tokens, logprobs = choose(probabilities.log().expand(1000, 4), uniforms, Sampling(1.0, 1))
    assert torch.bincount(tokens, minlength=4).tolist() == pytest.approx([100, 0, 600, 300], abs=1)
    assert torch.allclose(logprobs, probabilities.log()[tokens], atol=1e-6)


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    probabilities = torch.tensor([0.1, 0.25, 0.6, 0.05])
    uniforms = torch.arange(100) / 100
    tokens, _ = choose(probabilities.log().expand(100, 4), uniforms, Sampling(1.0, 1, top_p=0.8))
    assert set(tokens.tolist()) == {1, 2}  # .6 alone is not .8; .6 + .25 is


def test_temperature_sharpens() -> None:
    logits = torch.tensor([[0.0, 1.0]]).expand(1000, 2)
    cold, _ = choose(logits, torch.arange(1000) / 1000, Sampling(0.5, 1))
    assert cold.float().mean() == pytest.approx(1 / (1 + np.exp(-2.0)), abs=2e-3)


def test_uniforms_are_a_prefix_of_a_longer_draw() -> None:
    assert np.array_equal(_draw_uniforms(1, [5], 8), _draw_uniforms(1, [5], 20)[:, :8])


def test_responses_beyond_the_context_are_refused(setting) -> None:
    shared, text, prompts = setting
    with pytest.raises(ConfigError, match="max_new_tokens"):
        sample(shared, "policy", prompts, text, Sampling(1.0, CONTEXT), seed=1, batch_size=4, keys=range(24))


def ending_at(text: TextFormat, ids: tuple[int, ...]) -> TextFormat:
    """Return the format with other end tokens."""
    changed = copy.copy(text)
    changed.end_token_ids = ids
    return changed


def assert_same(found: Samples, expected: Samples) -> None:
    assert found.response_ids == expected.response_ids
    assert found.ended == expected.ended
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=True):
        assert np.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("batch_size", [3, 7, 16, 100])
def test_refill_changes_no_episode(setting, batch_size: int) -> None:
    shared, text, prompts = setting
    alone = sample(shared, "policy", prompts, text, HOT, seed=5, batch_size=1, keys=range(24))
    assert len({len(ids) for ids in alone.response_ids}) > 3
    assert_same(sample(shared, "policy", prompts, text, HOT, seed=5, batch_size=batch_size, keys=range(24)), alone)


@pytest.mark.parametrize(("ends", "length"), [(range(1000), 1), ([1000], HOT.max_new_tokens)])
def test_all_may_end_at_once_and_none_may_end(setting, ends, length: int) -> None:
    shared, text, prompts = setting
    drawn = sample(shared, "policy", prompts, ending_at(text, tuple(ends)), HOT, seed=1, batch_size=5, keys=range(24))
    assert [len(ids) for ids in drawn.response_ids] == [length] * 24
    assert drawn.ended == [length == 1] * 24
    free = sample(shared, "policy", prompts, text, HOT, seed=1, batch_size=24, keys=range(24))
    for ids, expected in zip(drawn.response_ids, free.response_ids, strict=True):
        common = min(len(ids), len(expected))
        assert ids[:common] == expected[:common]


def test_no_prompts_give_no_samples(setting) -> None:
    shared, text, _ = setting
    assert sample(shared, "policy", [], text, HOT, seed=1, batch_size=4, keys=[]).response_ids == []


def test_sliding_windows_decode_without_refill(setting) -> None:
    _, text, prompts = setting
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(config)
    with pytest.warns(UserWarning, match="base_model_name_or_path"):
        policy = attach_lora(model, TINY_LORA, "policy", trainable=True, dropout=0.0)
    shared = SharedBase(policy, nn.ModuleDict())
    assert isinstance(make_rows(Trunk(shared), 4, 64), GrowingRows)
    assert isinstance(make_rows(Trunk(setting[0]), 4, 64), SlotRows)
    text = ending_at(text, tuple(range(30)))
    drawn = sample(shared, "policy", prompts, text, HOT, seed=1, batch_size=9, keys=range(24))
    assert sum(drawn.ended) > 0
    assert_same(drawn, sample(shared, "policy", prompts, text, HOT, seed=1, batch_size=1, keys=range(24)))
    for prompt, response, expected in zip(prompts, drawn.response_ids, drawn.logprobs, strict=True):
        ids = torch.tensor([prompt + response])
        mask = torch.tensor([[False] * len(prompt) + [True] * len(response)])
        found, _ = response_logprobs(shared, "policy", ids, None, mask, 1.0)
        assert torch.allclose(found, torch.tensor(expected), atol=1e-4)


def test_tokens_come_as_often_as_the_softmax_says(setting) -> None:
    shared, text, prompts = setting
    count = 4000
    drawn = sample(
        shared, "policy", [prompts[1]] * count, text, Sampling(1.0, 1), seed=1, batch_size=1000, keys=range(count)
    )
    with torch.no_grad():
        logits = shared.lm_head(shared.hidden("policy", torch.tensor([prompts[1]]))[0, -1])
    expected = count * logits.double().softmax(dim=-1).numpy()
    observed = np.bincount([ids[0] for ids in drawn.response_ids], minlength=len(expected))
    often = expected >= 5  # the others together are one class, or the statistic is not chi-square
    assert often.sum() > 5
    seen, due = (np.append(counts[often], counts[~often].sum()) for counts in (observed, expected))
    assert stats.chisquare(seen, due).pvalue > 1e-3


@pytest.mark.parametrize("length", [5, 128, 300])
def test_looking_up_by_blocks_equals_one_running_sum(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    weights = torch.rand(500, length, generator=generator) * (torch.rand(500, length, generator=generator) < 0.3)
    weights[:, length // 2] += 0.01
    uniforms = torch.rand(500, 1, dtype=torch.float64, generator=generator)
    uniforms[:3] = torch.tensor([[0.0], [1 - 2**-53], [2**-53]], dtype=torch.float64)
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    plain = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    found = _invert(weights, uniforms)
    assert torch.equal(found, plain)
    assert (weights.gather(1, found) > 0).all()


def meet(count: int) -> list[Callable[[bool], bool]]:
    """Return `in_step` of several threads."""
    barrier, flags = threading.Barrier(count, timeout=60), [False] * count

    def in_step(own: int, busy: bool) -> bool:
        flags[own] = busy
        barrier.wait()
        anyone = any(flags)
        barrier.wait()
        return anyone

    return [lambda busy, own=own: in_step(own, busy) for own in range(count)]


def test_processes_in_step_run_equally_many_passes(tmp_path) -> None:
    loads = [24, 5, 0]
    bases = [tiny_base(tmp_path, scale=4.0) for _ in loads]
    rooms = [build_shared_base(base, tiny_roles()) for base in bases]
    prompts = [bases[0].text.encode_prompt("the cat" + " on" * (i % 5)) for i in range(24)]
    passes = [[0, 0] for _ in loads]
    found: dict[int, Samples] = {}

    def count(own: int, which: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            passes[own][which] += 1

        return hook

    def work(own: int, step: Callable[[bool], bool]) -> None:
        shared, text, load = rooms[own], bases[own].text, loads[own]
        found[own] = sample(
            shared, "policy", prompts[:load], text, HOT, seed=1, batch_size=4, keys=range(load), in_step=step
        )

    for own, shared in enumerate(rooms):
        shared.model.base_model.register_forward_hook(count(own, 0))
        shared.lm_head.register_forward_hook(count(own, 1))
    threads = [threading.Thread(target=work, args=(own, step)) for own, step in enumerate(meet(len(loads)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passes[0][0] > HOT.max_new_tokens
    assert passes == [[passes[0][0]] * 2] * len(loads)
    for own, load in enumerate(loads):
        plain = sample(
            rooms[own], "policy", prompts[:load], bases[own].text, HOT, seed=1, batch_size=4, keys=range(load)
        )
        assert_same(found[own], plain)
