"""The part of an evaluation that touches models, on a tiny random Llama."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rlhf.config.reporting import EvaluateConfig
from rlhf.errors import TrainingError
from rlhf.evaluation.draw import Judges, draw_answers, evaluate_policies, judge_answers, measure_kl, piece_size
from rlhf.records import Prompt
from rlhf.runtime import Runtime, start_runtime
from rlhf.sampling import Sampling, sample
from tests.tiny import shake, tiny_base, tiny_shared

CONFIG = EvaluateConfig(best_of=2, max_new_tokens=8, batch_size=16)
PROMPTS = [Prompt(f"p-{number}", f"the cat {number}", "test") for number in range(6)]
JUDGES = Judges(
    score=lambda items: [len(response) + sum(response) / 1e4 for _, response in items],
    gold=lambda prompt, response: float(len(response)),
    gold_parts=lambda prompt, response: {"length": float(len(response))},
    well_formed=lambda response: "cat" in response,
)

ALONE = start_runtime()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def text(folder):
    return tiny_base(folder).text


@pytest.fixture(scope="module")
def moved(folder, text):
    shared = tiny_shared(folder)
    shake(shared, "policy", std=0.2)
    return shared


def test_a_policy_that_did_not_move_has_kl_zero(folder, text):
    shared = tiny_shared(folder)
    found = evaluate_policies(shared, text, PROMPTS, JUDGES, CONFIG, seed=1, runtime=ALONE)
    assert abs(found.policies["ppo"].kl_nats.value) < 1e-4


def test_kl_is_the_gap_of_the_two_roles_logprobs(moved, text):
    ids = [text.encode_prompt(prompt.prompt) for prompt in PROMPTS]
    drawn = sample(moved, "policy", ids, text, Sampling(0.7, 8), seed=3, batch_size=4, keys=range(6), merge=False)
    together = measure_kl(moved, text, drawn, 0.7, batch_size=6)
    alone = measure_kl(moved, text, drawn, 0.7, batch_size=1)
    for (left, _), (right, _) in zip(together, alone, strict=True):
        assert left == pytest.approx(right, abs=1e-4)
    for row, (k1, k3) in enumerate(together):
        # The sampler knows the policy's logprobs; the reference's come from a plain forward pass.
        prompt, response = drawn.prompt_ids[row], drawn.response_ids[row]
        hidden = moved.hidden("reference", torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1]
        scores = (moved.lm_head(hidden) / 0.7).log_softmax(-1)[range(len(response)), response]
        assert k1 == pytest.approx(sum(drawn.logprobs[row]) - scores.sum().item(), abs=1e-3)
        assert k3 >= 0
    assert any(abs(k1) > 0.05 for k1, _ in together)


def test_what_is_answered_together_does_not_change_an_answer(moved, text):
    whole = draw_answers(moved, text, PROMPTS, range(6), CONFIG, seed=5)
    parts = [draw_answers(moved, text, PROMPTS, part, CONFIG, seed=5) for part in (range(4), range(4, 6), range(0))]
    for name in ("sft", "ppo"):
        joined = [ids for part in parts for ids in getattr(part, name).response_ids]
        assert joined == getattr(whole, name).response_ids
    assert parts[2].indices == judge_answers(moved, text, PROMPTS, parts[2], JUDGES, CONFIG) == []


def test_pieces_depend_on_the_number_of_prompts_alone_and_cover_them():
    assert [piece_size(count) for count in (1, 32, 512, 513, 1600)] == [32, 32, 32, 33, 100]
    for processes in (1, 2, 3, 8):
        ranks = [Runtime(SimpleNamespace(num_processes=processes, process_index=rank)) for rank in range(processes)]
        shares = [rank.own_chunks(100, 30) for rank in ranks]
        assert len({len(share) for share in shares}) == 1, "all keep step"
        assert sorted(index for share in shares for piece in share for index in piece) == list(range(100))
        assert {len(piece) for share in shares for piece in share} <= {30, 10, 0}


def test_max_prompts_is_obeyed_and_four_samples_are_drawn_for_the_diversity_facts(moved, text):
    found = evaluate_policies(moved, text, PROMPTS, JUDGES, replace(CONFIG, max_prompts=3), seed=1, runtime=ALONE)
    assert found.prompts == 3
    assert {len(row.sft_samples) for row in found.answers} == {4}
    assert found.candidates.well_formed is not None


def test_greedy_evaluation_still_estimates_kl_from_samples(moved, text):
    found = evaluate_policies(moved, text, PROMPTS, JUDGES, replace(CONFIG, temperature=0.0), seed=1, runtime=ALONE)
    ids = [text.encode_prompt(prompt.prompt) for prompt in PROMPTS]
    greedy = {
        role: sample(moved, role, ids, text, Sampling(0.0, 8), seed=9, batch_size=2, keys=range(6)).response_ids
        for role in ("reference", "policy")
    }
    assert greedy["reference"] != greedy["policy"]
    for row, sft, ppo in zip(found.answers, greedy["reference"], greedy["policy"], strict=True):
        assert {one.text for one in row.sft_samples} == {text.decode_response(sft)}
        assert row.ppo.text == text.decode_response(ppo)
    assert found.policies["ppo"].kl_nats.value != 0.0


def test_a_score_that_is_not_finite_stops_the_evaluation(moved, text):
    broken = replace(JUDGES, score=lambda items: [math.nan for _ in items])
    with pytest.raises(TrainingError, match="not finite"):
        evaluate_policies(moved, text, PROMPTS, broken, CONFIG, seed=1, runtime=ALONE)
