"""What is ranked first: unsure and unlike what was taken; a random share that owes nothing to the model; the file."""

import json

import numpy as np
import pytest
from sqlalchemy import select

from rlhf.config.data import RankingsConfig
from rlhf.errors import DataError
from rlhf.labels.for_people import publish_for_people
from rlhf.labels.priorities import (
    Priorities,
    choose_at_random,
    order_by_doubt,
    priorities_file,
    read_priorities,
    with_own_priorities,
)
from rlhf.labels.publishing import answered_selections
from rlhf.labels.schema import tasks

NAMES = [f"p-{number}" for number in range(40)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def selections(store):
    with store.reading() as connection:
        rows = connection.execute(
            select(tasks.c.prompt_id, tasks.c.selection, tasks.c.position).order_by(tasks.c.position)
        )
        return [(row.prompt_id, row.selection) for row in rows]


def test_without_differences_in_place_the_order_is_by_uncertainty():
    uncertainty = np.array([0.2, 0.9, 0.1, 0.5])
    corners = np.eye(4)  # all equally far from each other
    assert order_by_doubt(uncertainty, corners) == [1, 3, 0, 2]


def test_what_is_like_the_taken_comes_later():
    # 0 and 1 lie together, 2 far away: after 0 the unlike prompt wins although it is less uncertain.
    places = np.array([[0.0, 0.0], [0.01, 0.0], [5.0, 5.0]])
    assert order_by_doubt(np.array([1.0, 0.9, 0.5]), places) == [0, 2, 1]
    # What nobody doubts gains nothing from its place.
    assert order_by_doubt(np.array([1.0, 0.9, 0.0]), places) == [0, 1, 2]


def test_the_order_is_whole_and_does_not_depend_on_scale():
    rng = np.random.default_rng(0)
    uncertainty, features = rng.random(50), rng.normal(size=(50, 6))
    order = order_by_doubt(uncertainty, features)
    assert sorted(order) == list(range(50))
    assert order_by_doubt(3 * uncertainty, features * 7 + 2) == order
    assert sorted(order_by_doubt(np.zeros(3), np.zeros((3, 2)))) == [0, 1, 2]


def test_the_random_share_is_unbiased_and_repeatable():
    truth = {name: number for number, name in enumerate(NAMES)}
    drawn = [choose_at_random(NAMES, 0.25, seed) for seed in range(400)]
    assert {len(names) for names in drawn} == {10}
    assert choose_at_random(reversed(NAMES), 0.25, 7) == drawn[7]
    # The mean of 0 .. 39 is 19.5; a mean of 10 of them has deviation 3.2, of 400 such means 0.16.
    means = [np.mean([truth[name] for name in names]) for names in drawn]
    assert np.mean(means) == pytest.approx(19.5, abs=0.64)
    counts = np.array([sum(name in names for names in drawn) for name in NAMES])
    assert counts.min() > 60
    assert counts.max() < 140  # 100 each, deviation 8.7
    assert choose_at_random(NAMES, 0.0, 1) == frozenset()
    assert choose_at_random(NAMES, 1.0, 1) == frozenset(NAMES)
    assert len(choose_at_random(NAMES[:3], 0.25, 1)) == 1


def test_marks_of_a_file_take_the_place_of_a_draw(store, make_sets, tmp_path):
    drawn = choose_at_random(NAMES, 0.25, 3)
    rows = [
        {"prompt_id": name, "priority": number / 40, "selection": "random" if name in drawn else "priority"}
        for number, name in enumerate(NAMES)
    ]
    settings = RankingsConfig(overlap=1, priorities=write(tmp_path / "p.jsonl", rows), random_share=0.9)
    publish_for_people(store, make_sets(40), settings, round=1, seed=5)
    found = selections(store)
    assert {name for name, selection in found if selection == "random"} == drawn
    by_priority = [name for name, selection in found if selection == "priority"]
    assert by_priority == sorted(by_priority, key=lambda name: -NAMES.index(name))
    # Both are spread evenly: of every 20 tasks, 5 are random.
    assert [sum(selection == "random" for _, selection in found[start : start + 20]) for start in (0, 20)] == [5, 5]
    publish_for_people(store, make_sets(40), settings, round=1, seed=5)
    assert selections(store) == found


def test_answers_are_known_with_how_their_prompts_were_selected(store, make_sets, person, answer, tmp_path):
    rows = [{"prompt_id": f"p-{number}", "priority": number, "selection": "priority"} for number in range(3)]
    rows.append({"prompt_id": "p-3", "priority": 0, "selection": "random"})
    settings = RankingsConfig(overlap=1, repeat_share=0.0, priorities=write(tmp_path / "p.jsonl", rows))
    publish_for_people(store, make_sets(4), settings, round=0, seed=1)
    assert answered_selections(store, 0) == {}
    answer(store, person("Ada"))
    answer(store, person("Ada"))
    assert answered_selections(store, 0) == {"p-3": "random", "p-2": "priority"}
    assert answered_selections(store, 1) == {}
    answer(store, person("Bo"), ranks=(), verdict="skipped", reason="upsetting")
    assert len(answered_selections(store, 0)) == 2


def test_a_run_uses_its_own_priorities_unless_the_recipe_names_others(tmp_path):
    plain = RankingsConfig()
    assert with_own_priorities(plain, tmp_path, 2) == plain
    own = write(priorities_file(tmp_path, 2), [{"prompt_id": "p-0", "priority": 1}])
    assert with_own_priorities(plain, tmp_path, 2).priorities == own
    assert with_own_priorities(plain, tmp_path, 3) == plain
    other = RankingsConfig(priorities=tmp_path / "other.jsonl")
    assert with_own_priorities(other, tmp_path, 2) == other


def test_files_with_and_without_marks(tmp_path):
    rows = [{"prompt_id": "p-0", "priority": 1}, {"prompt_id": "p-1", "priority": 2}]
    assert read_priorities(write(tmp_path / "p.jsonl", rows), NAMES) == Priorities({"p-0": 1.0, "p-1": 2.0})
    rows[1] = {"prompt_id": "p-1", "priority": 2, "selection": "priority"}
    assert read_priorities(write(tmp_path / "p.jsonl", rows), NAMES).at_random == frozenset()
    rows[1] = {"prompt_id": "p-1", "priority": 2, "selection": "best"}
    with pytest.raises(DataError, match=r"selection is 'best'; it is `random` or `priority`"):
        read_priorities(write(tmp_path / "p.jsonl", rows), NAMES)
    with pytest.raises(DataError, match="make it again for these candidates"):
        read_priorities(write(tmp_path / "p.jsonl", [{"prompt_id": "gone", "priority": 1}]), NAMES)
