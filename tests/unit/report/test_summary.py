"""summary.json, its table, and the verdict."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from rlhf.report.inputs import ReportInputs
from rlhf.report.summary import summary_table
from rlhf.report.verdict import checks, limits, tiles, verdict
from tests.unit.report.synthetic import full_inputs

KEYS = {
    "held_out_prompts", "sft", "best_of_n", "ppo", "gold_gain", "gold_gain_se", "win_rate", "win_rate_se", "step0_kl",
    "base_hash_unchanged", "export_verified", "annotators", "seconds", "peak_memory_mb", "rounds",
}  # fmt: skip
POLICY_KEYS = {"score", "gold", "kl_nats", "length_tokens", "eos_rate", "distinct_2"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return full_inputs(tmp_path_factory.mktemp("summary"))


def shown(summary) -> str:
    out = io.StringIO()
    Console(width=120, file=out).print(summary_table(summary))
    return out.getvalue()


def test_the_summary_has_exactly_its_keys(inputs):
    assert set(inputs.summary) == KEYS
    for name in ("sft", "best_of_n", "ppo"):
        assert set(inputs.summary[name]) == POLICY_KEYS
        assert all(isinstance(value, float) for value in inputs.summary[name].values())


def test_the_table_shows_every_policy_and_who_judged(inputs):
    text = shown(inputs.summary)
    assert "40 held-out prompts" in text
    assert "≤ 0.64" in text
    assert "scripted annotators" in text
    assert "NOT" not in text


def test_the_table_shouts_where_a_check_failed(inputs):
    text = shown({**inputs.summary, "base_hash_unchanged": False, "export_verified": False})
    assert "CHANGED" in text
    assert "NOT VERIFIED" in text


def test_without_gold_the_table_has_dashes(tmp_path):
    text = shown(full_inputs(tmp_path, gold=False).summary)
    assert "gold gain" not in text
    assert "–" in text


def test_a_clear_gain_is_called_one(inputs):
    assert "PPO raised gold by" in verdict(inputs)
    assert tiles(inputs)[0].tone == "good"


def test_a_gain_below_three_standard_errors_is_not_called_one(tmp_path):
    inputs = full_inputs(tmp_path, gain=0.0)
    assert "no clear difference" in verdict(inputs)
    assert tiles(inputs)[0].tone == ""


def test_a_loss_is_called_a_loss(tmp_path):
    inputs = full_inputs(tmp_path, gain=-3.0)
    assert "PPO lowered gold by" in verdict(inputs)
    assert tiles(inputs)[0].tone == "bad"
    length = next(check for check in checks(inputs) if "length" in check.label)
    assert not length.passed


def test_without_gold_the_verdict_claims_little(tmp_path):
    inputs = full_inputs(tmp_path, gold=False)
    assert "No gold scorer stands behind this" in verdict(inputs)
    assert any("have people compare" in line for line in limits(inputs))


def test_what_was_not_claimed_is_not_checked(tmp_path, inputs):
    level = full_inputs(tmp_path, gain=0.0)
    assert not any("length" in check.label for check in checks(level)), "there is no gain that could be length"
    went_on = replace(inputs, starts_at_reference=False, summary={**inputs.summary, "step0_kl": 1.7})
    assert not any("started at the reference" in check.label for check in checks(went_on))


def test_checks_fail_when_what_they_check_fails(inputs):
    broken = replace(inputs, summary={**inputs.summary, "step0_kl": 0.3, "base_hash_unchanged": False})
    failed = {check.label for check in checks(broken) if not check.passed}
    assert {"PPO started at the reference", "The base did not move"} <= failed
    assert checks(ReportInputs(name="empty")) == []
