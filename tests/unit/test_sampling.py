"""The decode loop."""

import numpy as np
import pytest
import torch

from rlhf.errors import ConfigError
from rlhf.models.base import hash_weights
from rlhf.models.logprobs import response_logprobs
from rlhf.models.roles import SharedBase, build_shared_base
from rlhf.sampling import Sampling, _draw_uniforms, choose, sample
from rlhf.text import TextFormat
from tests.tiny import CONTEXT, shake, tiny_base, tiny_roles

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
