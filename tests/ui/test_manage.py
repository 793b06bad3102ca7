"""The handlers of the manager pages: who may call them, what they answer, what they refuse."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from labeling_ui.app import COOKIE
from labeling_ui.manage import manage_functions
from rlhf.labels.accounts import list_annotators
from rlhf.labels.assignment import claim
from rlhf.labels.events import verify
from rlhf.labels.store import Store, open_store
from tests.ui.labels_of_a_team import list_tasks_for_the_model, manager_session, open_labels

pytestmark = pytest.mark.ui

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def store(labels: Path, tmp_path: Path) -> Iterator[Store]:
    with open_labels(Path(shutil.copy(labels, tmp_path))) as opened:
        yield opened


@pytest.fixture
def call(store: Store) -> Call:
    """Call a handler as the page does, as somebody of this role."""
    run_folder = Path(str(store.place)).parent
    handlers = {handler.__name__: handler for handler in manage_functions(store, run=run_folder)}

    def run(name: str, payload: Any = None, *, role: str | None = "manager") -> dict[str, Any]:
        secret = manager_session(Path(str(store.place)), f"A {role}", role) if role else "nobody"
        cookies = {COOKIE: secret}
        return handlers[name]({} if payload is None else payload, SimpleNamespace(cookies=cookies))

    run.names = sorted(handlers)  # pyright: ignore[reportFunctionMemberAccess]
    return run


HANDLERS = (
    "annotators", "close_round", "closing", "decide", "disagreements", "limit", "overview", "pause", "rounds",
)  # fmt: skip


def test_every_handler_is_in_the_table(call):
    assert tuple(call.names) == HANDLERS


@pytest.mark.parametrize("name", HANDLERS)
def test_only_managers_may_call(call, store, name):
    before = _rows(store, "SELECT count(*) FROM events")
    assert call(name, role=None)["signed_out"] is True
    refused = call(name, role="annotator")
    assert refused == {"ok": False, "error": "These pages are for whoever manages the labels."}
    assert _rows(store, "SELECT count(*) FROM events WHERE kind <> 'annotator'") == [(before[0][0] - _people(store),)]


def _people(store: Store) -> int:
    return _rows(store, "SELECT count(*) FROM events WHERE kind = 'annotator'")[0][0] - 1


def _rows(store: Store, sql: str) -> list[Any]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def _id(store: Store, name: str) -> str:
    (person,) = (person for person in list_annotators(store) if person.name == name)
    return person.id


@pytest.mark.parametrize("role", ["manager", "admin"])
def test_the_overview_holds_together(call, role):
    found = call("overview", role=role)
    progress = found["progress"]
    assert found["ok"]
    assert found["rounds"] == [0, 1]
    assert found["round"] == 1, "the latest, where nobody says which"
    found = call("overview", {"round": 0}, role=role)
    progress = found["progress"]
    assert progress["filled"] + progress["left"] == progress["slots"] == 480
    assert progress["complete"] + progress["started"] + progress["untouched"] == progress["tasks"] == 160
    assert sum(found["hours"][1]) == progress["filled"]
    assert found["forecast"]["ends"][0] < found["forecast"]["ends"][1] < found["forecast"]["ends"][2]
    assert found["agreement"]["strict"]["low"] < found["agreement"]["strict"]["value"]
    assert found["scripted"] == []


def test_the_habits_of_the_team_show(call):
    people = {row["name"]: row["figures"] for row in call("annotators", {"round": 0})["people"]}
    assert people["Dalia Haddad"]["first_wins"]["low"] > 0.6, "she leaves much as it is shown"
    assert people["Farah Rahimi"]["longer_wins"]["low"] > 0.8
    assert people["Eitan Levi"]["too_fast"] > people["Eitan Levi"]["timed"] / 2
    assert people["Amara Okafor"]["too_fast"] == 0
    assert people["Amara Okafor"]["reliability"]["low"] > people["Eitan Levi"]["reliability"]["high"]


def test_pause_and_limit_reach_the_annotator_and_the_chain(call, store):
    chen = _id(store, "Chen Yu")
    assert call("pause", {"annotator": chen, "paused": True})["ok"]
    assert call("limit", {"annotator": chen, "limit": 12})["ok"]
    (person,) = (person for person in list_annotators(store) if person.id == chen)
    assert (person.paused, person.task_limit) == (True, 12)
    assert claim(store, person, round=1) is None
    assert call("pause", {"annotator": chen, "paused": False})["ok"]
    assert call("limit", {"annotator": chen, "limit": None})["ok"]
    assert _rows(store, "SELECT count(*) FROM events WHERE kind IN ('pause', 'limit')") == [(5,)], "one was there"
    assert verify(store).ok


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("overview", {"round": "0"}),
        ("overview", {"round": 99}),
        ("overview", {"round": True}),
        ("overview", {"round": -1}),
        ("annotators", {"round": 2**70}),
        ("disagreements", {"page": -1}),
        ("disagreements", {"page": 1.5}),
        ("pause", {"annotator": "nobody", "paused": True}),
        ("pause", {"annotator": ["x"], "paused": True}),
        ("limit", {"annotator": "x" * 10_000, "limit": 3}),
        ("decide", {"task_id": "1", "ranks": [1, 2, 3, 4]}),
        ("decide", {"task_id": 1, "ranks": [1, 2, 3, 4] * 9}),
        ("decide", {"task_id": 1, "ranks": [1, 2, "3", 4]}),
        ("decide", {"task_id": 1, "ranks": [1, 2, 3]}),
        ("decide", {"task_id": 1, "ranks": [1, 1, 3, 4]}),
        ("decide", {"task_id": 10_000, "ranks": [1, 2, 3, 4]}),
        ("decide", {"task_id": 1, "ranks": [1, 2, 3, 4], "comment": "x" * 4001}),
        ("decide", {"task_id": 1, "ranks": [1, 2, 3, 4], "comment": "\ud800"}),
        ("close_round", {"round": 7}),
        ("close_round", {"round": None}),
        ("close_round", {}),
    ],
)
def test_what_makes_no_sense_is_refused(call, store, name, payload):
    before = _rows(store, "SELECT count(*) FROM answers")
    refused = call(name, payload | ({"page": 0} if name == "disagreements" and "page" not in payload else {}))
    assert refused["ok"] is False
    assert refused["error"]
    assert _rows(store, "SELECT count(*) FROM answers") == before


def test_payloads_that_are_no_objects_are_refused(call):
    for payload in ([], "x", 3):
        assert call("overview", payload)["ok"] is False


def test_an_empty_store_says_what_to_do(tmp_path):
    with open_store(tmp_path / "labels.db", create=True) as opened:
        overview = next(handler for handler in manage_functions(opened) if handler.__name__ == "overview")
        cookies = {COOKIE: manager_session(tmp_path / "labels.db")}
        answer = overview({}, SimpleNamespace(cookies=cookies))
    assert (answer["ok"], answer["error"]) == (
        False,
        "nothing is published yet; publish candidates with `rlhf label init`",
    )


def test_names_stay_out_of_disagreements(call, store):
    found = call("disagreements", {"round": 0, "page": 0})
    assert found["total"] > 10
    assert len(found["tasks"]) == 10
    agreements = [task["agreement"] for task in found["tasks"]]
    assert agreements == sorted(agreements)
    shown = str(found["tasks"])
    assert not [person.name for person in list_annotators(store) if person.name in shown]


def test_the_reward_models_view_is_of_these_tasks_or_none(call, store):
    place = Path(str(store.place))
    asked = {"round": 0, "page": 0, "model": True}
    assert call("disagreements", asked)["total"] == 0
    assert call("disagreements", {**asked, "model": False})["judged_by_model"] is False
    list_tasks_for_the_model(place, count=3)
    found = call("disagreements", asked)
    assert (found["total"], found["judged_by_model"]) == (3, True)
    assert [task["difference"] for task in found["tasks"]] == [0.95, 0.94, 0.93]
    assert [task["scores"] for task in found["tasks"]] == [[0.0, 1.0, 2.0, 3.0]] * 3
    assert call("disagreements", {**asked, "page": 1})["tasks"] == []
    assert call("disagreements", {**asked, "round": 1})["judged_by_model"] is False
    assert not any(task["scores"] for task in call("disagreements", {"round": 0, "page": 0})["tasks"])
    path = place.parent / "round-0/reward/disagreements.jsonl"
    shutil.copytree(path.parent, place.parent / "round-1/reward")
    for number in (0, 1):  # the same prompts are tasks of both rounds
        listed = {task["task_id"] for task in call("disagreements", {**asked, "round": number})["tasks"]}
        assert len(listed) == 3
        assert listed <= {row[0] for row in _rows(store, f"SELECT id FROM tasks WHERE round = {number}")}
    first, second, third = path.read_text(encoding="utf-8").splitlines()
    other = json.loads(second) | {"responses": ["not", "the", "same", "texts"]}
    path.write_text("\n".join([first[:40], json.dumps(other), '{"prompt_id": 3}', third]), encoding="utf-8")
    assert [task["difference"] for task in call("disagreements", asked)["tasks"]] == [0.93]


def test_closing_and_what_it_names(call, store):
    lost = call("closing", {"round": 0})
    assert lost["working"] == ["Amara Okafor"]
    assert (lost["drafts"], lost["slots"] > 0) == (1, True)
    assert call("close_round", {"round": 0})["closed"] == 160
    after = call("overview", {"round": 0})["progress"]
    assert (after["left"], after["closed"]) == (0, 160)
    (amara,) = (person for person in list_annotators(store) if person.name == "Amara Okafor")
    assert claim(store, amara, round=0) is None
