"""From a reward model's doubt to the queue of the next round; an ensemble through the whole pipeline."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from sqlalchemy import select

from rlhf.artifacts import RunFolder
from rlhf.cli import main
from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.rounds import run_store
from rlhf.labels.schema import tasks
from rlhf.labels.submissions import Submission
from rlhf.prioritise import prioritise_run
from rlhf.records import CandidateSet, read_jsonl
from tests.pipeline.conftest import RECIPE, Shell

pytestmark = pytest.mark.slow
PEOPLE = ("--rankings.source", "people", "--rankings.repeat-share", "0")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def queue(run: Path, round_number: int) -> list[tuple[str, str]]:
    """Return (prompt id, selection) of a round's tasks, in the order in which they are given out."""
    with run_store(run / "labels") as store, store.reading() as connection:
        query = select(tasks.c.prompt_id, tasks.c.selection).where(tasks.c.round == round_number)
        return [(row.prompt_id, row.selection) for row in connection.execute(query.order_by(tasks.c.position))]


def rank(run: Path, round_number: int, count: int) -> list[str]:
    """Let one person rank some tasks; return which."""
    done: list[str] = []
    with run_store(run / "labels") as store:
        person = ensure_annotator(store, "Ada")
        for _ in range(count):
            view = claim(store, person, round=round_number)
            assert view is not None
            ranks = tuple(range(1, len(view.responses) + 1))
            submit(store, person, Submission(view.submission_id, "ranked", ranks=ranks))
            done.append(view.prompt_id)
    return done


def test_the_next_round_begins_with_what_the_reward_model_doubts(copy: Shell) -> None:
    copy.rlhf("run", str(RECIPE), "--new-round", "--until", "candidates", *PEOPLE)
    run = RunFolder.open(copy.run)
    assert run.round == 2
    said = copy.rlhf("label", "prioritise", str(copy.run))
    path = copy.run / "labels" / "priorities-round-2.jsonl"
    sets = read_jsonl(run.read("candidates", "test").file("candidates.jsonl"), CandidateSet)
    rows = read_rows(path)
    share = math.ceil(0.25 * len(sets))
    assert f"{len(sets)} prompts of round 2 to rank, {share} of them at random; 0 are answered" in said.stdout
    assert {row["prompt_id"] for row in rows} == {item.prompt_id for item in sets}
    assert rows[0]["uncertainty"] == max(row["uncertainty"] for row in rows)
    assert [row["priority"] for row in rows] == sorted({row["priority"] for row in rows}, reverse=True)
    assert {row["model"] for row in rows} == {RunFolder(copy.run, 1).read("reward", "test").identity[:12]}
    assert {row["measure"] for row in rows} == {"entropy_nats"}
    before = path.read_bytes()
    prioritise_run(copy.run)
    assert path.read_bytes() == before

    assert copy.rlhf("run", str(RECIPE), *PEOPLE, check=False).returncode == 75
    found = queue(copy.run, 2)
    assert {name for name, selection in found if selection == "random"} == {
        row["prompt_id"] for row in rows if row["selection"] == "random"
    }
    chosen = [row["prompt_id"] for row in rows if row["selection"] == "priority"]
    assert [name for name, selection in found if selection == "priority"] == chosen
    # After some answers the rest is ordered anew, and no mark changes.
    done = rank(copy.run, 2, 6)
    assert f"{len(sets) - 6} prompts of round 2 to rank" in prioritise_run(copy.run)
    again = {row["prompt_id"]: row for row in read_rows(path)}
    assert {row["prompt_id"]: row["selection"] for row in rows} == {
        name: row["selection"] for name, row in again.items()
    }
    assert {again[name]["priority"] for name in done} == {0.0}


def test_options_and_messages(copy: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def prioritise(*arguments: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as ended:
            main(["label", "prioritise", *arguments])
        return ended.value.code, "".join(capsys.readouterr())

    out = tmp_path / "own.jsonl"
    code, said = prioritise(str(copy.run), "--random-share", "0", "--seed", "3", "--out", str(out))
    assert code == 0
    assert f"rankings.priorities: {out}" in said
    assert {row["selection"] for row in read_rows(out)} == {"priority"}
    assert not (copy.run / "labels" / "priorities-round-1.jsonl").exists()
    for arguments, code, message in [
        ((str(copy.run), "--round", "4"), 1, "the candidates of round 4 are not there"),
        ((str(copy.run), "--random-share", "1.5"), 2, "'1.5' is no share; give a number from 0 to 1"),
        ((str(copy.run), "--out", str(tmp_path)), 1, "a folder, not a file"),
        ((str(tmp_path / "labels.db"),), 1, "no run folder; its candidates and its reward model are needed"),
    ]:
        found, said = prioritise(*arguments)
        assert found == code, (arguments, said)
        assert message in said
    (copy.run / "round-1" / "reward" / "manifest.json").unlink()
    code, said = prioritise(str(copy.run))
    assert code == 1
    assert "no reward model up to round 1" in said


def test_an_ensemble_goes_from_pairs_to_evaluation(copy: Shell) -> None:
    options = ("--reward.heads", "3", "--reward.uncertainty-penalty", "0.2")
    copy.rlhf("run", str(RECIPE), *options, "--until", "evaluate")
    round_1 = copy.run / "round-1"
    info = json.loads((round_1 / "reward" / "reward.json").read_text())
    assert (info["heads"], len(info["head_means"]), info["uncertainty_penalty"]) == (3, 3, 0.2)
    assert load_file(round_1 / "reward" / "head.safetensors")["weight"].shape[0] == 3
    assert load_file(round_1 / "ppo" / "critic" / "head.safetensors")["weight"].shape[0] == 1
    assert json.loads((round_1 / "reward" / "manifest.json").read_text())["facts"]["heads"] == 3
    assert json.loads((round_1 / "evaluate" / "evaluation.json").read_text())["prompts"] > 20
    prioritise_run(copy.run)
    rows = read_rows(copy.run / "labels" / "priorities-round-1.jsonl")
    assert {row["measure"] for row in rows} == {"spread_of_heads"}
