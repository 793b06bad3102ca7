"""Rankings through the command line: people are waited for, their answers are kept, scripts begin anew, files count alone."""

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest

from rlhf.artifacts import Artifact, RunFolder
from rlhf.config.load import load_config
from rlhf.labels import scripted
from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.publishing import publish
from rlhf.labels.rounds import run_store
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet, Ranking, read_jsonl, write_jsonl
from stages import rankings
from tests.pipeline.conftest import RECIPE, Shell

pytestmark = pytest.mark.slow


def people_rank(shell: Shell, count: int) -> None:
    """Let one person rank some tasks of the run's candidates, through the calls of the page."""
    run = RunFolder.open(shell.run)
    store = run_store(run.labels, create=True)
    publish(store, read_jsonl(run.folder("candidates") / "candidates.jsonl", CandidateSet), overlap=1, round=1)
    person = ensure_annotator(store, "Ada")
    for _ in range(count):
        view = claim(store, person, round=1)
        assert view is not None
        ranks = tuple(range(1, len(view.responses) + 1))
        submit(store, person, Submission(view.submission_id, "ranked", ranks=ranks))
    store.close()


def test_change_above_human_answers_stops_and_says_what_it_would_orphan(copy: Shell) -> None:
    people_rank(copy, 3)
    change = ("--candidates.temperature", "0.5")
    done = copy.rlhf("run", str(RECIPE), *change, check=False)
    assert done.returncode == 3
    assert "3 answers by 1 person in round 1" in done.stderr
    assert "candidates.temperature 1.0 -> 0.5" in done.stderr
    assert "--new-round" in done.stderr
    alone = copy.rlhf("candidates", str(RECIPE), *change, check=False)
    assert alone.returncode == 3
    assert "3 answers by 1 person in round 1" in alone.stderr
    assert "candidates.temperature 1.0 -> 0.5" in alone.stderr
    assert "Traceback" not in done.stderr
    assert "nothing to do" in copy.rlhf("run", str(RECIPE)).stderr
    copy.rlhf("run", str(RECIPE), *change, "--discard-labels", "--until", "candidates")
    store = run_store(copy.run / "labels")
    with store.reading() as connection:
        assert connection.exec_driver_sql("select count(*) from answers").scalar_one() == 3


def test_damaged_candidates_under_answers_stop_the_run(copy: Shell) -> None:
    """Making them again would be right in bytes; that is for the people to decide who answered."""
    people_rank(copy, 2)
    path = copy.run / "round-1" / "candidates" / "candidates.jsonl"
    before = path.stat().st_size
    path.write_bytes(path.read_bytes()[:100])
    done = copy.rlhf("run", str(RECIPE), check=False)
    assert done.returncode == 3
    assert "2 answers by 1 person in round 1" in done.stderr
    assert f"candidates.jsonl is 100 bytes, was {before}" in done.stderr
    assert path.stat().st_size == 100


def test_people_are_waited_for_with_exit_code_75(copy: Shell) -> None:
    people = ("--rankings.source", "people", "--rankings.overlap", "1")
    done = copy.rlhf("run", str(RECIPE), *people, "--until", "rankings", check=False)
    assert done.returncode == 75
    assert done.stderr.count("are published") == done.stderr.count(f"rlhf label serve runs/{copy.run.name}") == 1
    assert "error" not in done.stderr, "nothing went wrong"
    sets = read_jsonl(copy.run / "round-1" / "candidates" / "candidates.jsonl", CandidateSet)
    people_rank(copy, len(sets))
    copy.rlhf("run", str(RECIPE), *people, "--until", "pairs")
    rankings = Artifact.open(copy.run / "round-1" / "rankings")
    assert rankings.facts["annotators"] == "human"
    assert rankings.facts["rankings"] == len(sets)


def test_scripts_that_were_cut_short_begin_anew(copy: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (copy.run / "round-1/rankings/rankings.jsonl").read_bytes()
    shutil.rmtree(copy.run / "round-1/rankings")
    (place,) = copy.run.glob("labels/scripted-*.db")
    place.write_bytes(b"")  # an attempt that ended before there were tables
    given: list[Submission] = []

    def cut_short(store: Any, person: Any, answer: Submission) -> None:
        given.append(answer)
        if len(given) == 40:  # the first annotator has given a batch, the second has not
            raise KeyboardInterrupt
        submit(store, person, answer)

    monkeypatch.chdir(copy.folder)
    monkeypatch.setattr(scripted, "submit", cut_short)
    with pytest.raises(KeyboardInterrupt):
        rankings.run(load_config(RECIPE))
    monkeypatch.setattr(scripted, "submit", submit)
    assert place.exists()
    rankings.run(load_config(RECIPE))
    assert (copy.run / "round-1/rankings/rankings.jsonl").read_bytes() == whole


def test_answers_to_other_texts_are_set_aside_when_asked(copy: Shell) -> None:
    path = copy.run / "round-1" / "candidates" / "candidates.jsonl"
    present = path.read_bytes()
    sets = read_jsonl(path, CandidateSet)
    write_jsonl(path, [replace(item, responses=(*item.responses[:-1], "Another.")) for item in sets])
    people_rank(copy, 2)
    path.write_bytes(present)
    people = ("--rankings.source", "people", "--until", "rankings")
    assert copy.rlhf("run", str(RECIPE), *people, check=False).returncode == 3
    done = copy.rlhf("run", str(RECIPE), *people, "--discard-labels", check=False)
    assert done.returncode == 75
    assert "their answers stay in the store" in done.stderr


def test_an_imported_ranking_file_is_all_that_counts(copy: Shell) -> None:
    """A corrected file replaces what an earlier one said, and the earlier one can come back."""
    rows = [
        json.loads(line) for line in (copy.run / "round-1" / "rankings" / "rankings.jsonl").read_text().splitlines()
    ]
    first = [row for row in rows if row["annotator"] == rows[0]["annotator"]]
    reversed_ranks = [row | {"ranks": [max(row["ranks"]) + 1 - rank for rank in row["ranks"]]} for row in first]
    for content in (rows, first, reversed_ranks, first):
        path = copy.folder / "rankings.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        copy.rlhf("rankings", str(RECIPE), "--rankings.import-path", str(path))
        found = read_jsonl(copy.run / "round-1" / "rankings" / "rankings.jsonl", Ranking)
        assert sorted((item.prompt_id, item.ranks) for item in found) == sorted(
            (row["prompt_id"], tuple(row["ranks"])) for row in content
        )
    people = ("--rankings.source", "people", "--until", "rankings")
    assert copy.rlhf("run", str(RECIPE), *people, check=False).returncode == 75


def test_how_far_annotators_are_believed_reaches_the_pairs(copy: Shell) -> None:
    def mean_probability(belief: str) -> float:
        copy.rlhf("pairs", str(RECIPE), "--pairs.belief", belief, "--pairs.policy", "soft")
        rows = (copy.run / "round-1" / "pairs" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
        return sum(json.loads(row)["probability"] for row in rows) / len(rows)

    shares, chances = mean_probability("equal"), mean_probability("one_coin")
    assert shares != pytest.approx(chances, abs=1e-3)
