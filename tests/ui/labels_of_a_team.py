"""A label database as a team leaves it after twelve days: six people with habits, gold and repeat items, disputes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sqlalchemy import update

from rlhf.labels.accounts import Annotator, create_session, ensure_annotator, list_annotators, set_paused
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.drafts import TaskView, save_draft
from rlhf.labels.items import KnownItem, publish_known
from rlhf.labels.publishing import Distribution, publish, published_sets
from rlhf.labels.schema import annotators
from rlhf.labels.store import Store, open_store
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet, prompt_to_json

NOW = 1_795_608_000.0
DAY_S = 86_400

QUESTIONS = [
    ("Why does water boil sooner on a mountain?", "less air presses on it, so it boils below 100 °C"),
    ("How do I get red wine out of a wool carpet?", "blot it, then cold water and a little white vinegar; never rub"),
    ("Write a polite reminder for an unpaid invoice.", "a short note that names the invoice, the date and what to do"),
    ("What is the difference between a virus and a bacterium?", "a bacterium lives by itself; a virus needs a cell"),
    ("My neighbour's dog barks all night. What can I do?", "talk first, keep a log, then ask the council"),
    ("Explain compound interest to a ten-year-old.", "interest on the interest: a snowball that grows as it rolls"),
    ("Which plants survive in a north-facing room?", "aspidistra, snake plant, ivy, most ferns"),
    ("Is it safe to take ibuprofen with blood thinners?", "no; ask the doctor or pharmacist about other painkillers"),
    ("Give me three names for a bakery by the sea.", "Salt & Crumb, The Morning Tide, Harbour Loaf"),
    ("How long do I boil an egg so that the yolk stays soft?", "six minutes from boiling water, then cold water"),
]
# From best to worst: what is done with the gist of the answer.
MANNERS: list[Callable[[str, str], str]] = [
    lambda ask, gist: f"In short: **{gist}**.\n\nIf you tell me a little more I can say what fits your case best.",
    lambda ask, gist: f"{gist[0].upper()}{gist[1:]}.",
    lambda ask, gist: (
        f'Great question! "{ask}" is something many people ask. There are many aspects to it, and opinions differ. '
        "In general it depends on the circumstances, and there is no single answer that fits every situation. "
        f"Some say: {gist}.\n\n- It may vary.\n- It is worth reading more about it."
    ),
    lambda ask, gist: "I would not worry about that.",
]

Habit = Callable[[np.random.Generator, np.ndarray, np.ndarray, int], np.ndarray]


def careful(rng: np.random.Generator, quality: np.ndarray, lengths: np.ndarray, places: int) -> np.ndarray:
    return quality + rng.gumbel(size=places) * 0.55


def as_shown(rng: np.random.Generator, quality: np.ndarray, lengths: np.ndarray, places: int) -> np.ndarray:
    return 0.7 * quality - 1.1 * np.arange(places) + rng.gumbel(size=places) * 0.5


def likes_length(rng: np.random.Generator, quality: np.ndarray, lengths: np.ndarray, places: int) -> np.ndarray:
    return 0.4 * quality + 1.6 * np.log(lengths) + rng.gumbel(size=places) * 0.5


def hasty(rng: np.random.Generator, quality: np.ndarray, lengths: np.ndarray, places: int) -> np.ndarray:
    return 0.3 * quality + rng.gumbel(size=places)


# Name, habit, seconds per task, share of its days on which the person works.
TEAM: list[tuple[str, Habit, float, float]] = [
    ("Amara Okafor", careful, 58, 0.95),
    ("Björn Lindqvist", careful, 71, 0.8),
    ("Chen Yu", careful, 44, 0.9),
    ("Dalia Haddad", as_shown, 39, 0.7),
    ("Eitan Levi", hasty, 5, 0.6),
    ("Farah Rahimi", likes_length, 66, 0.75),
]


def team_sets(count: int) -> list[CandidateSet]:
    """Return candidate sets whose responses are the manners, in any order."""
    rng = np.random.default_rng(1)
    return [
        CandidateSet(
            f"p-{number:03d}",
            ask if number < len(QUESTIONS) else f"{ask} (Please keep it short, reader {number}.)",
            tuple(MANNERS[place](ask, gist) for place in rng.permutation(len(MANNERS))),
        )
        for number in range(count)
        for ask, gist in [QUESTIONS[number % len(QUESTIONS)]]
    ]


def quality_of(response: str) -> int:
    """Return a response's place among the manners, 0 for the best."""
    marks = [("In short", 0), ("Great question", 2), ("not worry", 3)]
    return next((place for mark, place in marks if mark in response), 1)


class Days:
    """A clock for the twelve days."""

    now = NOW - 12 * DAY_S

    def __call__(self) -> float:
        return self.now


def make_labels(place: Path, tasks: int = 160, answers: int = 420) -> Path:
    """Fill a database; the same numbers give the same answers."""
    clock, rng = Days(), np.random.default_rng(4)
    with open_store(place, create=True, clock=clock) as store, store.transaction():
        ensure_annotator(store, "Mira Castellanos")
        distribution = Distribution(gold_share=0.1, repeat_share=0.1)
        publish(store, team_sets(tasks), overlap=3, seed=7, distribution=distribution)
        publish(store, team_sets(12), overlap=2, round=1, seed=8)
        gold = [KnownItem(item, tuple(quality_of(text) + 1 for text in item.responses)) for item in team_sets(8)]
        publish_known(store, [_renamed(item, "gold") for item in gold], purpose="gold")
        publish_known(store, [_renamed(item, "training") for item in gold[:2]], purpose="training")
        people = [(ensure_annotator(store, name), habit, pace, share) for name, habit, pace, share in TEAM]
        for number in range(answers):
            clock.now = NOW - 12 * DAY_S + (number + rng.random()) / answers * 11.9 * DAY_S
            person, habit, pace, share = people[int(rng.integers(len(people)))]
            if rng.random() < share:
                _answer(store, clock, person, habit, pace, rng)
        clock.now = NOW - 60
        view = claim(store, people[0][0], round=0)
        if view is not None:
            save_draft(store, people[0][0], view.submission_id, {"levels": [1, 0, 0, 0]})
        set_paused(store, people[4][0], True)
    return place


def open_labels(place: Path) -> Store:
    """Open the database at the moment at which the twelve days end, whatever the date is."""
    return open_store(place, clock=lambda: NOW)


def manager_session(place: Path, name: str = "Mira Castellanos", role: str = "manager") -> str:
    """Give somebody a role and open a session for him; return its secret."""
    with open_labels(place) as store:
        person = ensure_annotator(store, name)
        with store.transaction() as connection:
            connection.execute(update(annotators).where(annotators.c.id == person.id).values(role=role))
        (person,) = (found for found in list_annotators(store) if found.id == person.id)
        return create_session(store, person)


def _renamed(item: KnownItem, prefix: str) -> KnownItem:
    found = item.candidates
    return KnownItem(CandidateSet(f"{prefix}-{found.prompt_id}", found.prompt, found.responses), item.ranks, "")


def _answer(store: Store, clock: Days, person: Annotator, habit: Habit, pace: float, rng: np.random.Generator) -> None:
    view = claim(store, person, round=0)
    if view is None:
        return
    seconds = float(pace * rng.gamma(6.0) / 6.0)
    clock.now += seconds
    if rng.random() < 0.03:
        submit(store, person, Submission(view.submission_id, "skipped", reason="unfamiliar", active_seconds=seconds))
        return
    ranks = _ranks(view, habit, rng)
    comment = "Close call between the first two." if rng.random() < 0.06 else ""
    flags = tuple(("false",) if "not worry" in text and rng.random() < 0.3 else () for text in view.responses)
    submit(
        store,
        person,
        Submission(view.submission_id, ranks=ranks, flags=flags, comment=comment, active_seconds=seconds),
    )


def _ranks(view: TaskView, habit: Habit, rng: np.random.Generator) -> tuple[int, ...]:
    quality = [-quality_of(text) for text in view.responses]
    lengths = np.array([len(text) for text in view.responses], dtype=float)
    liking = habit(rng, np.array(quality, dtype=float), lengths, len(quality))
    # What one likes nearly alike is a tie.
    ordered = np.sort(liking)[::-1]
    steps = np.concatenate([[0], np.cumsum(ordered[:-1] - ordered[1:] > 0.12)])
    return tuple((steps[np.searchsorted(-ordered, -liking)] + 1).tolist())


def list_tasks_for_the_model(database: Path, count: int) -> None:
    """Write the list of a reward model that prefers the last response of round 0's first tasks, beside the database."""
    folder = database.parent / "round-0" / "reward"
    folder.mkdir(parents=True)
    with open_labels(database) as store:
        sets = [item for item in published_sets(store, 0) if len(item.responses) == 4][:count]
    rows = [
        {
            "prompt_id": item.prompt_id,
            "prompt": prompt_to_json(item.prompt),
            "disagreement": (95 - number) / 100,
            "responses": list(item.responses),
            "scores": [float(place) for place in range(4)],
            "shares": [1.0, 0.6, 0.4, 0.0],
        }
        for number, item in enumerate(sets)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "disagreements.jsonl").write_text(text, encoding="utf-8")
