"""The ranking page's handlers, called as the page calls them, and as it never would."""

import math
from types import SimpleNamespace

import pytest

from labeling_ui.app import COOKIE, page_functions, script, stylesheet
from rlhf.labels.accounts import create_session, ensure_annotator, set_guidelines, set_paused
from rlhf.labels.answers import UNDO_S
from rlhf.labels.items import KnownItem, publish_known
from rlhf.labels.publishing import Distribution, publish
from rlhf.labels.store import open_store
from rlhf.labels.submissions import MAX_COMMENT, MAX_EDIT
from rlhf.records import CandidateSet

HANDLERS = ("cancel", "compare", "correct", "load", "save", "submit", "undo", "work")
TAB = {"tab": "one", "revision": 0}


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def store(tmp_path, now):
    with open_store(tmp_path / "labels.db", create=True, clock=lambda: now[0]) as opened:
        sets = [CandidateSet(f"p-{i}", f"Why {i}?", ("Because of air.", "Because of water.", "No.")) for i in range(3)]
        publish(opened, sets, overlap=5, seed=1)
        yield opened


@pytest.fixture
def call(store):
    handlers = {handler.__name__: handler for handler in page_functions(store)}
    secrets = {}

    def run(name, payload=None, *, who="Ada"):
        if who and who not in secrets:
            secrets[who] = create_session(store, ensure_annotator(store, who))
        cookies = {COOKIE: secrets[who]} if who else {}
        return handlers[name]({} if payload is None else payload, SimpleNamespace(cookies=cookies))

    run.names = tuple(sorted(handlers))  # pyright: ignore[reportFunctionMemberAccess]
    return run


def first_task(call, who="Ada"):
    return call("load", who=who)["screen"]["task"]


def answer(task, **values):
    given = {"verdict": "ranked", "reason": "", "ranks": [1, 2, 3], "strengths": [], "flags": [], "all_bad": False}
    return {"submission_id": task["submission_id"], **given, "comment": "", "active_seconds": 9.0, **TAB, **values}


def draft(**values):
    given = {"levels": [1, 0, 0], "strengths": [], "flags": [[], [], []], "all_bad": False, "comment": ""}
    return given | values


def test_every_handler_is_in_the_table(call):
    assert call.names == HANDLERS


@pytest.mark.parametrize("name", HANDLERS)
def test_nobody_gets_anything_without_a_session(call, name):
    refused = call(name, who=None)
    assert refused == {"ok": False, "signed_out": True, "error": "Your session has ended. Sign in again."}


UNREADABLE = [
    ("save", {"submission_id": 1}), ("save", {"draft": []}), ("save", {"draft": draft(levels="1")}),
    ("save", {"draft": draft(levels=[1] * 10)}), ("save", {"draft": draft(levels=[True, 1, 2])}),
    ("save", {"draft": draft(flags=[["x" * 41]])}), ("save", {"draft": draft(comment="x" * (MAX_COMMENT + 1))}),
    ("save", {"draft": draft(edit="x" * (MAX_EDIT + 1))}), ("save", {"draft": draft(edit_of=-1)}),
    ("save", {"draft": draft(confidence="3")}), ("save", {"draft": draft(), "active_seconds": math.nan}),
    ("save", {"draft": draft(), "active_seconds": -1}), ("save", {"draft": draft(), "revision": -1}),
    ("save", {"draft": draft(), "tab": ""}), ("save", {"draft": draft(comment="\ud800")}),
    ("submit", {"verdict": ["ranked"]}), ("submit", {"ranks": {"0": 1}}), ("submit", {"comment": 7}),
    ("submit", {"tab": "x" * 100}), ("compare", {"first": 0, "second": 3}), ("compare", {"first": "0", "second": 1}),
    ("compare", {"first": 0}), ("correct", {}), ("correct", {"task_id": 2**70}), ("undo", {"task_id": "1"}),
    ("cancel", {"submission_id": None}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values"), UNREADABLE)
def test_unreadable_payloads_are_refused(call, name, values):
    task = first_task(call)
    refused = call(name, {**answer(task), **values})
    assert refused["ok"] is False
    assert "unreadable" in refused["error"]


@pytest.mark.parametrize("payload", [[], "x", 7, None])
def test_what_is_no_object_is_refused(store, call, payload):
    (load,) = (handler for handler in page_functions(store) if handler.__name__ == "load")
    secret = create_session(store, ensure_annotator(store, "Ada"))
    assert "unreadable" in load(payload, SimpleNamespace(cookies={COOKIE: secret}))["error"]


def test_others_submission_ids_are_worth_nothing(call):
    task = first_task(call)
    assert call("save", {**answer(task), "draft": draft()}, who="Bo")["gone"]
    assert "not handed to you" in call("submit", answer(task), who="Bo")["error"]
    assert "not in your hands" in call("compare", {**answer(task), "first": 0, "second": 1}, who="Bo")["error"]
    stored = call("submit", answer(task))
    assert "not among your answers" in call("correct", {"task_id": stored["task_id"]}, who="Bo")["error"]
    assert "no answer of yours" in call("undo", {"task_id": stored["task_id"]}, who="Bo")["error"]
    assert "belongs to somebody else" in call("submit", answer(task), who="Bo")["error"]


def test_everything_a_person_said_comes_back_for_correction(call):
    task = first_task(call)
    said = {"flags": [["false"], [], []], "strengths": [0, 3], "all_bad": True, "comment": "close", "confidence": 2}
    stored = call("submit", answer(task, **said, edit_of=1, edit="Better."))
    assert (stored["message"], stored["undo_s"], stored["feedback"]) == ("", UNDO_S, None)
    assert stored["screen"]["task"]["task_id"] != task["task_id"]
    again = call("correct", {"task_id": stored["task_id"]})["screen"]["task"]
    assert again["draft"] == {"levels": [1, 2, 3], **said, "edit_of": 1, "edit": "Better."}
    assert again["version"] == 1
    assert call("submit", answer(again, ranks=[2, 1, 3]))["ok"]
    assert first_task(call)["version"] == 0


def test_nul_does_not_reach_the_store(call):
    task = first_task(call)
    stored = call("submit", answer(task, comment="a\x00b", edit_of=0, edit="c\x00"))
    again = call("correct", {"task_id": stored["task_id"]})["screen"]["task"]
    assert (again["draft"]["comment"], again["draft"]["edit"]) == ("ab", "c")


def test_an_older_tab_neither_saves_nor_submits(call):
    task = first_task(call)
    call("save", {**answer(task), "draft": draft(), "tab": "one", "revision": 0})
    assert first_task(call)["revision"] == 1
    call("save", {**answer(task), "draft": draft(comment="two"), "tab": "two", "revision": 1})
    for name in ("save", "submit"):
        refused = call(name, {**answer(task), "draft": draft(), "tab": "one", "revision": 1})
        assert (refused["ok"], refused["stale"], refused["revision"]) == (False, True, 2)
    kept = first_task(call)
    assert (kept["draft"]["comment"], kept["tab"]) == ("two", "two")
    assert "tab" not in kept["draft"]
    assert call("submit", {**answer(task), "tab": "one", "revision": 2})["ok"], "told to, it may"
    repeated = call("submit", {**answer(task), "tab": "two", "revision": 2})
    assert "stored already" in repeated["message"]


def test_undo_gives_the_task_back_for_a_minute(call, now):
    task = first_task(call)
    stored = call("submit", answer(task, comment="oops"))
    back = call("undo", {"task_id": stored["task_id"]})["screen"]["task"]
    assert (back["task_id"], back["draft"]["levels"], back["draft"]["comment"]) == (task["task_id"], [1, 2, 3], "oops")
    assert back["version"] == 0, "what was taken back is no answer to correct"
    assert call("work")["history"] == []
    call("submit", answer(back))
    now[0] += UNDO_S + 1
    assert "60 seconds" in call("undo", {"task_id": stored["task_id"]})["error"]


def test_compare_gives_plain_parts(call):
    task = first_task(call)
    texts = [output["text"] for output in task["outputs"]]
    air, water = texts.index("Because of air."), texts.index("Because of water.")
    parts = call("compare", {**answer(task), "first": air, "second": water})["parts"]
    assert parts == [["same", "Because of "], ["first", "air."], ["second", "water."]]


def test_training_comes_first_and_teaches(store, call):
    item = KnownItem(CandidateSet("t-1", "Which?", ("One", "Two", "Three")), (2, 1, 3), "Two is **right**.")
    publish_known(store, [item], purpose="training")
    screen = call("load")["screen"]
    task = screen["task"]
    assert (task["training"], screen["progress"]["training_left"]) == (True, 1)
    key = [{"One": 2, "Two": 1, "Three": 3}[output["text"]] for output in task["outputs"]]
    stored = call("submit", answer(task, ranks=key))
    assert stored["feedback"] == {
        "ranks": key,
        "agreement": 1.0,
        "explanation": "<p>Two is <strong>right</strong>.</p>\n",
    }
    assert stored["undo_s"] == 0
    assert not stored["screen"]["task"]["training"]
    assert call("work")["history"] == [], "training is no work"


@pytest.mark.parametrize("why", ["done", "paused", "limit"])
def test_the_page_learns_why_there_is_nothing(store, call, why):
    if why == "paused":
        set_paused(store, ensure_annotator(store, "Ada"), True)
    if why == "limit":
        sets = [CandidateSet("p-9", "Why?", ("A", "B"))]
        publish(store, sets, overlap=5, seed=1, round=1, distribution=Distribution(task_limit=1))
    rounds = page_functions(store, open_round=1 if why == "limit" else 0)
    handlers = {handler.__name__: handler for handler in rounds}
    request = SimpleNamespace(cookies={COOKIE: create_session(store, ensure_annotator(store, "Ada"))})
    screen = handlers["load"]({}, request)["screen"]
    while screen["task"] is not None:
        ranks = list(range(1, len(screen["task"]["outputs"]) + 1))
        screen = handlers["submit"](answer(screen["task"], ranks=ranks), request)["screen"]
    assert (screen["task"], screen["none"]) == (None, why)


def test_guidelines_carry_their_version(store, call):
    found = call("load")["screen"]["guidelines"]
    assert (found["version"], found["answered_under"]) == (0, 0)
    assert "What to look for" in found["html"]
    set_guidelines(store, "# Ours\n\n<script>x</script>")
    task = first_task(call)
    assert call("submit", answer(task))["screen"]["guidelines"]["version"] == 1
    found = call("load")["screen"]["guidelines"]
    assert (found["version"], found["answered_under"]) == (1, 1)
    assert "<script>" not in found["html"]


def test_my_work_counts_and_explains(call):
    for verdict in ("ranked", "cannot_judge", "skipped"):
        task = first_task(call)
        ranked = verdict == "ranked"
        reason = "other" if verdict == "skipped" else ""
        call("submit", answer(task, verdict=verdict, ranks=[2, 1, 3] if ranked else [], reason=reason))
    work = call("work")
    assert [row["verdict"] for row in work["history"]] == ["skipped", "cannot_judge", "ranked"]
    assert [work["totals"][name] for name in ("ranked", "cannot_judge", "skipped", "available")] == [1, 1, 1, 0]
    assert work["hours"] == [{"hour": 0, "tasks": 2, "seconds": 18.0}]
    assert {row["name"] for row in work["figures"]} >= {"agreement", "gold", "consistency", "reliability", "first_wins"}
    assert call("work", who="Bo")["history"] == []


def test_page_and_style_hold_no_address_of_elsewhere():
    for text in (script(), stylesheet()):
        assert "http://" not in text
        assert "https://" not in text
        assert "__" not in text.replace("__proto__", ""), "every placeholder is filled in"
