"""The manager pages: how far the labels are, whether they can be trusted, who needs a word, what is in dispute.

As the labeling page, this is one Gradio HTML component whose server functions are the only way to the store. Each asks
whose session it is and whether that person manages labels, before it does anything. Names are shown here, because
managers pay people; prompts, responses and comments are hostile, and go out as sanitised HTML or as plain text that the
page never parses.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# isort: split
# Sets what Gradio reads while it is imported.
from labeling_ui.app import guarded

# isort: split
import gradio as gr

from labeling_ui.render import render
from rlhf.errors import LabelError
from rlhf.labels.accounts import MANAGING, Annotator, list_annotators, set_paused, set_task_limit
from rlhf.labels.answers import adjudicate
from rlhf.labels.events import head
from rlhf.labels.figures import Figure
from rlhf.labels.modelviews import ModelView, read_model_views
from rlhf.labels.overview import (
    PAGE,
    Dispute,
    Forecast,
    RoundProgress,
    closing,
    disputes,
    forecast,
    read_disputes,
    round_progress,
)
from rlhf.labels.personal import AnnotatorFigures, no_figures
from rlhf.labels.publishing import close_round, find_round, list_rounds
from rlhf.labels.quality import Measures, measures
from rlhf.labels.remembered import Remembered
from rlhf.labels.store import Store
from rlhf.labels.submissions import MAX_COMMENT
from rlhf.records import MAX_SHOWN

PAGES = Path(__file__).parent / "widget" / "manage"
SCRIPTS = ("core.js", "pictures.js", "overview.js", "annotators.js", "disagreements.js", "rounds.js", "start.js")
STYLES = ("frame.css", "parts.css")
LEASES_S = 5
"""Leases run out without an event, so that progress is counted anew after so many seconds in any case."""
HOURS_SHOWN = 24 * 35
MAX_LIMIT = 1_000_000
LARGEST = 2**53


def build_manage(store: Store, *, open_round: int | None = None, run: Path | None = None) -> gr.Blocks:
    """Build the manager pages on an open store.

    Args:
        store: The ranking store.
        open_round: The round to show first; without it the latest.
        run: The run folder that the labels belong to: its reward models say on which tasks they differ from people.
    """
    with gr.Blocks(title="Labels", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            html_template=(PAGES / "manage.html").read_text(encoding="utf-8"),
            js_on_load="\n".join((PAGES / name).read_text(encoding="utf-8") for name in SCRIPTS),
            elem_id="manage",
            apply_default_css=False,
            server_functions=manage_functions(store, open_round, run),
        )
    return page.queue(default_concurrency_limit=None)


def manage_functions(
    store: Store, open_round: int | None = None, run: Path | None = None
) -> list[Callable[[Any, Any], dict[str, Any]]]:
    """Return the component functions, each of which asks first who calls."""
    office = _Office(store, open_round, run)
    handlers = {
        "overview": office.overview,
        "annotators": office.annotators,
        "disagreements": office.disagreements,
        "rounds": office.rounds,
        "pause": office.pause,
        "limit": office.limit,
        "decide": office.decide,
        "closing": office.closing,
        "close_round": office.close_round,
    }
    return [guarded(store, name, handler, roles=MANAGING) for name, handler in handlers.items()]


def stylesheet() -> str:
    """Return the pages' CSS, which Gradio takes when the pages are mounted."""
    return "\n".join((PAGES / name).read_text(encoding="utf-8") for name in STYLES)


class _Office:
    """The handlers; each gets the browser's payload and the manager whose session it is."""

    def __init__(self, store: Store, open_round: int | None, run: Path | None) -> None:
        self._store = store
        self._run = run
        self._open_round = open_round
        self._progress: dict[int, Remembered[RoundProgress]] = {}

    def overview(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        round = self._round(payload)
        found, progress = measures(self._store, round), self._count(round)
        now = self._store.clock()
        recent = found.hours >= found.hours.max(initial=0) - HOURS_SHOWN
        spread = found.position_spread
        return {
            "ok": True,
            **self._frame(manager, round),
            "progress": asdict(progress),
            "forecast": _forecast(forecast(progress, found, now), now),
            "agreement": _agreement(found),
            "bias": {
                "first_wins": _figure(found.bias.first_wins),
                "longer_wins": _figure(found.bias.longer_wins),
                "length_slope": _figure(found.bias.length_slope),
                "rank_by_place": [_figure(figure) for figure in found.bias.rank_by_place],
            },
            "balance": {"tasks": len(spread), "even": int((spread <= 1).sum()), "most": int(spread.max(initial=0))},
            "seconds": _figure(found.seconds),
            "now": now,
            "hours": [found.hours[recent].tolist(), found.per_hour[recent].tolist()],
            "scripted": [
                person.pseudonym
                for person in list_annotators(self._store)
                if person.kind == "scripted" and person.id in found.annotators
            ],
        }

    def annotators(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        round = self._round(payload)
        found = measures(self._store, round)
        everybody = [
            (person, found.annotators.get(person.id) or no_figures(person.id))
            for person in list_annotators(self._store)
        ]
        rows = [
            _person(person, figures)
            for person, figures in everybody
            if person.id in found.annotators or (person.active and person.role == "annotator")
        ]
        overall = {"agreement": found.agreement.strict, "longer_wins": found.bias.longer_wins}
        return {
            "ok": True,
            **self._frame(manager, round),
            "people": rows,
            "overall": {name: _figure(figure) for name, figure in overall.items()},
        }

    def disagreements(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        round, page, decided = self._round(payload), _whole(payload, "page", MAX_LIMIT), payload.get("decided") is True
        found = measures(self._store, round)
        views = [] if self._run is None else read_model_views(self._store, self._run, round)
        listed: dict[int, ModelView] = {}
        if payload.get("model") is True:
            listed = {view.task_id: view for view in views[page * PAGE : (page + 1) * PAGE]}
            rows, total = read_disputes(self._store, found, list(listed)), len(views)
        else:
            rows, total = disputes(self._store, found, page=page, decided=decided)
        return {
            "ok": True,
            **self._frame(manager, round),
            "total": total,
            "judged_by_model": bool(views),
            "tasks": [_dispute(row, listed.get(row.task_id)) for row in rows],
        }

    def rounds(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        rows = [asdict(self._count(round)) for round in list_rounds(self._store)]
        return {"ok": True, **self._frame(manager, self._round(payload)), "progress": rows}

    def pause(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        person = self._person(payload)
        set_paused(self._store, person, payload.get("paused") is True, actor=manager.id)
        return {"ok": True}

    def limit(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        person = self._person(payload)
        limit = None if payload.get("limit") is None else _whole(payload, "limit", MAX_LIMIT)
        set_task_limit(self._store, person, limit, actor=manager.id)
        return {"ok": True}

    def decide(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        task_id, comment = _whole(payload, "task_id", LARGEST), _text(payload, "comment", MAX_COMMENT)
        adjudicate(self._store, manager, task_id, _ranks(payload.get("ranks")), comment)
        stored = read_disputes(self._store, measures(self._store, self._round(payload)), [task_id])
        return {"ok": True, "task": _dispute(stored[0])}

    def closing(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        lost = closing(self._store, self._round(payload))
        return {"ok": True, **asdict(lost), "working": list(lost.working)}

    def close_round(self, payload: dict[str, Any], manager: Annotator) -> dict[str, Any]:
        # What cannot be undone names its round.
        round = find_round(self._store, _whole(payload, "round", LARGEST))
        closed = close_round(self._store, round, manager.id)
        return {"ok": True, "closed": closed}

    def _frame(self, manager: Annotator, round: int) -> dict[str, Any]:
        with self._store.reading() as connection:
            event = head(connection).event
        return {"name": manager.name, "round": round, "rounds": list_rounds(self._store), "event": event}

    def _round(self, payload: dict[str, Any]) -> int:
        if payload.get("round") is not None:
            return find_round(self._store, _whole(payload, "round", LARGEST))
        known = list_rounds(self._store)
        return self._open_round if self._open_round in known else find_round(self._store)

    def _count(self, round: int) -> RoundProgress:
        with self._store.reading() as connection:
            event = head(connection).event
        version = (event, int(time.monotonic() // LEASES_S))
        kept = self._progress.setdefault(round, Remembered())
        return kept.get(version, lambda: round_progress(self._store, round))

    def _person(self, payload: dict[str, Any]) -> Annotator:
        wanted = _text(payload, "annotator", 40)
        for person in list_annotators(self._store):
            if person.id == wanted:
                return person
        raise LabelError("there is no such annotator; reload the page")


# ---- what goes to the browser: plain numbers and texts -------------------------------------------------------------


def _figure(figure: Figure) -> dict[str, Any]:
    return asdict(figure)


def _agreement(found: Measures) -> dict[str, Any]:
    names = ("strict", "tie_aware", "alpha", "alpha_ordinal", "kendalls_w", "kendalls_tau")
    return {name: _figure(getattr(found.agreement, name)) for name in names}


def _forecast(found: Forecast, now: float) -> dict[str, Any]:
    days = found.days
    ends = [None if value is None else now + value * 86400 for value in (days.low, days.value, days.high)]
    return {
        "left": found.left,
        "work_hours": _figure(found.work_hours),
        "per_day": _figure(found.per_day),
        "days": _figure(days),
        "ends": ends,
    }


def _person(person: Annotator, figures: AnnotatorFigures) -> dict[str, Any]:
    return {
        "id": person.id,
        "pseudonym": person.pseudonym,
        "name": person.name,
        "kind": person.kind,
        "role": person.role,
        "active": person.active,
        "paused": person.paused,
        "task_limit": person.task_limit,
        "figures": asdict(figures),
    }


def _dispute(found: Dispute, view: ModelView | None = None) -> dict[str, Any]:
    turns = [("prompt", found.prompt)] if isinstance(found.prompt, str) else [(t.role, t.content) for t in found.prompt]
    return {
        "task_id": found.task_id,
        "prompt_id": found.prompt_id,
        "excerpt": " ".join(turns[-1][1].split())[:160],
        "turns": [{"role": role, "html": render(text)} for role, text in turns],
        "outputs": [{"html": render(text), "text": text} for text in found.responses],
        "agreement": found.agreement,
        "voices": [asdict(voice) for voice in found.voices],
        "consensus": list(found.consensus),
        "decision": list(found.decision),
        "decision_comment": found.decision_comment,
        "scores": list(view.scores) if view else [],
        "difference": view.disagreement if view else None,
    }


# ---- what the browser sends is anybody's guess: take the known fields, in the known types --------------------------


def _unreadable(name: str) -> LabelError:
    return LabelError(f"the page sent something unreadable as {name}; reload it")


def _whole(payload: dict[str, Any], name: str, most: int) -> int:
    value = payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _unreadable(name)
    return value


def _text(payload: dict[str, Any], name: str, most: int) -> str:
    value = payload.get(name, "")
    # Half a surrogate pair is valid JSON and no text.
    if not isinstance(value, str) or len(value) > most or any("\ud800" <= char <= "\udfff" for char in value):
        raise _unreadable(name)
    return value


def _ranks(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_SHOWN:
        raise _unreadable("ranks")
    if not all(isinstance(entry, int) and not isinstance(entry, bool) and 1 <= entry <= 9 for entry in value):
        raise _unreadable("ranks")
    return tuple(value)
