"""What is printed about a run: paths and settings as they are, whatever characters they have."""

import json
from pathlib import Path

import pytest

from rlhf.artifacts import RunFolder
from rlhf.config.load import parse_config
from rlhf.overview import SUMMARY, tell_result, tell_status
from rlhf.stage_graph import inputs_of

NAMES = ["[/x] é 😀", "[bold]", "a[/]", ":smile:", "[link=x]"]
POLICY = {"score": 1.0, "gold": 0.5, "kl_nats": 1.0, "length_tokens": 9.0, "eos_rate": 1.0, "distinct_2": 0.5}


@pytest.fixture(autouse=True)
def wide_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own, and no line is broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")


@pytest.mark.parametrize("name", NAMES)
def test_status_shows_any_path_and_reason_as_it_is(capsys: pytest.CaptureFixture[str], name: str) -> None:
    before = parse_config({"run": name, "base": {"model": name}}, "test")
    run = RunFolder.open(before.run)
    with run.draft(inputs_of("base", before, run, {}), config_text=""):
        pass
    with run.lock():
        tell_status(parse_config({"run": name}, "test"))
    told = capsys.readouterr().out
    assert f"{name}, round 1" in told
    assert f"base.model {json.dumps(name)} ->" in told


@pytest.mark.parametrize("name", NAMES)
def test_result_shows_any_path_as_it_is(capsys: pytest.CaptureFixture[str], name: str) -> None:
    summary = {
        "held_out_prompts": 9, "sft": POLICY, "best_of_n": POLICY, "ppo": POLICY, "gold_gain": 0.1, "gold_gain_se": 0.1,
        "win_rate": 0.5, "win_rate_se": 0.1, "step0_kl": 0.0, "base_hash_unchanged": True, "export_verified": None,
        "annotators": "scripted", "seconds": 1.0, "peak_memory_mb": 1.0, "rounds": [],
    }  # fmt: skip
    Path(name).mkdir(parents=True)
    (Path(name) / SUMMARY).write_text(json.dumps(summary))
    tell_result(parse_config({"run": name}, "test"))
    told = capsys.readouterr().out
    assert f"report            {name}/report.html" in told
    assert f"rlhf trace {name}/round-1/export" in told
