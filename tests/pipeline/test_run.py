"""`rlhf run` and its companions on a whole run: what it leaves, what it skips, what it reruns, what it refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rlhf.artifacts import INPUTS, MANIFEST, Artifact, RunFolder
from rlhf.cli import main
from rlhf.config.load import load_config
from rlhf.errors import RunLockedError
from rlhf.stage_graph import STAGES
from tests.pipeline.conftest import RECIPE, Shell

pytestmark = pytest.mark.slow
POLICY_KEYS = {"score", "gold", "kl_nats", "length_tokens", "eos_rate", "distinct_2"}


def stages_named(text: str, word: str) -> list[str]:
    return [stage for stage in STAGES if re.search(rf"^{stage} +{word}", text, re.MULTILINE)]


def wait_for(path: Path, ready: Callable[[], bool] = lambda: True) -> None:
    """Return as soon as a path exists and is ready; fail after two minutes."""
    deadline = time.monotonic() + 120
    while not (path.exists() and ready()):
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def wait_until_unlocked(run: RunFolder) -> None:
    """Return as soon as nobody works in a run folder; fail after a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with run.lock():
                return
        except RunLockedError:
            assert time.monotonic() < deadline, "somebody goes on working"
            time.sleep(0.02)


def test_summary_has_every_number(finished: Shell) -> None:
    summary: dict[str, Any] = json.loads((finished.run / "summary.json").read_text())
    for policy in ("sft", "best_of_n", "ppo"):
        assert set(summary[policy]) == POLICY_KEYS
        assert all(isinstance(value, (int, float)) for value in summary[policy].values()), summary[policy]
    assert summary["held_out_prompts"] > 20
    assert summary["step0_kl"] < 1e-4
    assert summary["base_hash_unchanged"] is True
    assert summary["export_verified"] is True
    assert summary["annotators"] == "scripted"
    assert 0 <= summary["win_rate"] <= 1
    assert {"gold_gain", "gold_gain_se", "win_rate_se"} <= set(summary)
    assert summary["seconds"] > 0
    assert summary["peak_memory_mb"] > 0


def test_scores_are_never_divided_by_less_than_the_recipe_says(finished: Shell) -> None:
    """The tiny reward model tells little apart: its calibrated scores spread by less than the recipe's floor."""
    info = json.loads((finished.run / "round-1" / "reward" / "reward.json").read_text())
    assert info["score_std"] == load_config(RECIPE).reward.min_score_std * info["temperature"]


def test_report_is_one_file_that_loads_nothing(finished: Shell) -> None:
    page = (finished.run / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    assert "scripted" in page


def test_second_run_does_nothing_and_says_so_quickly(finished: Shell) -> None:
    started = time.monotonic()
    done = finished.rlhf("run", str(RECIPE))
    assert "nothing to do: all 10 stages" in done.stderr
    assert time.monotonic() - started < 10


def test_dry_run_of_a_change_names_stages_reasons_and_lines(finished: Shell) -> None:
    text = finished.rlhf("run", str(RECIPE), "--dry-run", "--ppo.learning-rate", "2e-3").stderr
    assert stages_named(text, "would run") == ["ppo", "evaluate", "export"]
    assert "ppo.learning_rate 0.001 -> 0.002" in text
    assert f"-m stages.ppo {RECIPE} --ppo.learning-rate 2e-3" in text
    assert stages_named(text, "finished") == list(STAGES[:7])


def test_changed_learning_rate_reruns_ppo_and_below_only(copy: Shell) -> None:
    before = {stage: Artifact.open(copy.run / "round-1" / stage).identity for stage in STAGES}
    copy.rlhf("run", str(RECIPE), "--ppo.learning-rate", "2e-3")
    after = {stage: Artifact.open(copy.run / "round-1" / stage).identity for stage in STAGES}
    assert [stage for stage in STAGES if before[stage] != after[stage]] == ["ppo", "evaluate", "export"]
    assert {path.name.split("-")[0] for path in (copy.run / "round-1" / ".replaced").iterdir()} == {
        "ppo",
        "evaluate",
        "export",
    }
    copy.rlhf("clean", str(copy.run))
    assert not (copy.run / "round-1" / ".replaced").exists()


def test_damaged_policy_is_told_and_made_again(copy: Shell) -> None:
    weights = copy.run / "round-1" / "ppo" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    told = copy.rlhf("status", str(RECIPE)).stdout
    assert re.search(r"ppo +│ stale", told), told
    done = copy.rlhf("run", str(RECIPE), "--until", "ppo")
    assert f"adapter_model.safetensors is 100 bytes, was {len(whole)}" in done.stderr
    assert weights.read_bytes() == whole


def test_a_recipe_in_the_run_folder_is_not_written_over(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    recipe = tmp_path / "config.yaml"
    recipe.write_text("# mine\nrun: .\n")
    done = shell.rlhf("run", "config.yaml", "--until", "base", check=False)
    assert done.returncode == 2
    assert "choose another `run:` folder" in done.stderr
    assert recipe.read_text() == "# mine\nrun: .\n"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_stage_killed_at_its_last_word_goes_on(finished: Shell, copy: Shell) -> None:
    """Everything a stage writes is there, but not its manifest: the same command ends with the same artifact."""
    for stage in STAGES:
        folder = copy.run / "round-1" / stage
        partial = folder.rename(folder.with_name(f"{stage}.partial"))
        inputs = Artifact.open(partial).manifest.inputs
        (partial / INPUTS).write_text(json.dumps({"key": inputs.key} | asdict(inputs)))
        (partial / MANIFEST).unlink()
    copy.rlhf("run", str(RECIPE))
    for stage in STAGES:
        expected, found = (Artifact.open(place.run / "round-1" / stage) for place in (finished, copy))
        assert found.manifest.content == expected.manifest.content, stage


def test_trace_walks_from_the_export_to_the_people(finished: Shell, tmp_path: Path) -> None:
    exported = finished.run / "round-1" / "export" / "adapter"
    copied = shutil.copytree(exported, tmp_path / "elsewhere")
    text = finished.rlhf("trace", str(copied / "adapter_model.safetensors")).stdout
    for stage in ("ppo", "reward", "pairs", "rankings", "candidates", "sft", "prompts", "base"):
        assert re.search(rf"^{stage} ", text, re.MULTILINE), text
    assert "annotators: scripted" in text
    weights = copied / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "was changed after it was made" in finished.rlhf("trace", str(weights), check=False).stderr


def test_status_and_show_and_doctor_speak(
    finished: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.folder)

    def say(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert say("status", str(RECIPE)).count("finished") == 10
    with RunFolder.open(finished.run).lock():
        assert f"process {os.getpid()} is working in this folder" in say("status", str(RECIPE))
    shown = say("show", str(RECIPE), "sft", "-n", "1")
    assert "carry no loss" in shown
    assert "ids:" in shown
    for stage in ("prompts", "candidates", "rankings", "pairs", "ppo"):
        assert say("show", str(RECIPE), stage, "-n", "1")
    assert "training:" in say("doctor")


def test_chat_answers_with_both_policies(finished: Shell) -> None:
    text = finished.rlhf("chat", str(finished.run), "--prompt", "What should I cook today?").stdout
    assert "SFT" in text


def test_killed_run_goes_on_and_ends_with_the_same_artifacts(finished: Shell, tmp_path: Path) -> None:
    """Kill `rlhf run` and its stage inside two stages; what it ends with equals the uninterrupted run."""
    shell = Shell(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(finished.folder / "runs" / ".cache", tmp_path / "runs" / ".cache")
    for stage in ("sft", "ppo"):
        process = subprocess.Popen(
            shell.line("run", str(RECIPE)),
            cwd=shell.folder,
            env=shell.environment(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(shell.run / "round-1" / f"{stage}.partial")
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        process.wait()
    shell.rlhf("run", str(RECIPE))
    for stage in STAGES:
        expected, found = (Artifact.open(place.run / "round-1" / stage) for place in (finished, shell))
        assert found.manifest.content == expected.manifest.content, stage


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_the_end_of_the_run_ends_its_stage_with_a_checkpoint(copy: Shell, number: signal.Signals) -> None:
    """A killed `rlhf run` leaves no stage behind, and its folder is not free before the stage has ended."""
    shutil.rmtree(copy.run / "round-1" / "ppo")
    process = subprocess.Popen(
        copy.line("run", str(RECIPE), "--until", "ppo", "--ppo.updates", "200"),
        cwd=copy.folder,
        env=copy.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = copy.run / "round-1" / "ppo.partial"
    wait_for(partial / "metrics.jsonl", lambda: (partial / "metrics.jsonl").read_text().count("\n") > 3)
    process.send_signal(number)
    process.wait(timeout=60)
    wait_until_unlocked(RunFolder.open(copy.run))
    written = (partial / "metrics.jsonl").read_text()
    kept = sorted((partial / "checkpoints").glob("update-*"))
    time.sleep(1)
    assert (partial / "metrics.jsonl").read_text() == written
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number), errors
    assert "Traceback" not in errors
    assert kept[-1].name == f"update-{json.loads(written.splitlines()[-1])['step']:06d}"


def test_a_stage_ends_in_good_order_at_sigterm(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    process = subprocess.Popen(
        shell.line("run", str(RECIPE), "--base.embedded.steps", "100000"),
        cwd=shell.folder,
        env=shell.environment() | {"PYTHONWARNINGS": "default"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(shell.run / "round-1" / "base.partial" / "config.yaml")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.count("error: ") == 1, errors
    assert "error: ended by SIGTERM; run the same command again" in errors
    assert "Traceback" not in errors
    assert "leaked" not in errors


@pytest.mark.distributed
def test_launch_trains_on_two_processes_and_the_run_goes_on(copy: Shell) -> None:
    """The launched policy takes the place of the finished one; `rlhf run` goes on below it."""
    before = Artifact.open(copy.run / "round-1" / "ppo")
    options = ("--run", f"runs/{copy.run.name}", "--ppo.updates", "2")
    copy.rlhf("launch", "ppo", "--processes", "2", "--zero", "3", str(RECIPE), *options)
    found = Artifact.open(copy.run / "round-1" / "ppo")
    assert found.manifest.recorded["processes"] == 2
    assert found.facts["updates"] == 2
    assert found.facts["base_hash"] == before.facts["base_hash"]
    assert found.facts["step0_kl"] < 1e-4
    done = copy.rlhf("run", str(RECIPE), *options, "--dry-run")
    assert stages_named(done.stderr, "would run") == ["evaluate", "export"]


def test_resolved_config_beside_each_artifact_reads_back(finished: Shell) -> None:
    config = load_config(RECIPE)
    for stage in STAGES:
        assert load_config(finished.run / "round-1" / stage / "config.yaml") == config
