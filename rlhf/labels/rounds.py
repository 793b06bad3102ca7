"""What the pipeline asks of the ranking store of a run: is there human work, is a round complete."""

from pathlib import Path

from sqlalchemy import func, select

from rlhf.errors import LabelError
from rlhf.labels.publishing import publish, published_sets, round_status
from rlhf.labels.schema import annotators, answers, tasks
from rlhf.labels.store import Place, Store, make_server_url, open_store
from rlhf.records import CandidateSet, read_jsonl

DATABASE = "labels.db"
SERVER = "server.txt"
"""Beside the place of the file, where a recipe keeps the answers on a PostgreSQL server: its URL, without a password."""


def store_place(folder: Path) -> Place:
    """Return where a run keeps its people's answers: a file in its label folder, or a server that the folder names."""
    server = folder / SERVER
    return server.read_text(encoding="utf-8").strip() if server.is_file() else folder / DATABASE


def use_server(folder: Path, url: str | None) -> None:
    """Let a run keep its answers on a server from now on.

    Raises:
        LabelError: Answers in a file, or on another server, would be left behind; or the URL is none, or has a password.
    """
    place = store_place(folder)
    if url is None or url == place:
        return
    if make_server_url(url).password is not None:
        raise LabelError("rankings.database holds a password; leave it out, and put it into PGPASSWORD or ~/.pgpass")
    if not isinstance(place, Path) or place.exists():
        raise LabelError(
            f"{place} holds this run's answers already; move them with `rlhf label backup {place} {url}`, then write that "
            f"URL into {folder / SERVER}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SERVER).write_text(url + "\n", encoding="utf-8")


def has_store(folder: Path) -> bool:
    """Say whether a run has a label database."""
    place = store_place(folder)
    return not isinstance(place, Path) or place.exists()


def run_store(folder: Path, *, create: bool = False) -> Store:
    """Open the store of a run's label folder."""
    return open_store(store_place(folder), create=create)


def human_answers(folder: Path, round_number: int) -> tuple[int, int]:
    """Return how many answers people gave to the tasks of a round that are still in use, and how many people.

    Imported answers count as people's: they cannot be made again.
    """
    if not has_store(folder):
        return 0, 0
    query = (
        select(func.count(), func.count(func.distinct(answers.c.annotator_id)))
        .select_from(answers)
        .join(tasks, tasks.c.id == answers.c.task_id)
        .join(annotators, annotators.c.id == answers.c.annotator_id)
        .where(tasks.c.round == round_number, tasks.c.state != "withdrawn", annotators.c.kind != "scripted")
        .where(answers.c.verdict != "undone")
    )
    with run_store(folder) as store, store.reading() as connection:
        count, people = connection.execute(query).one()
    return count, people


def describe_risk(answers: int, people: int, round_number: int, why: str) -> str:
    """Say whose answers a change of candidates would orphan, and what can be done instead."""
    return (
        f"{answers} answers by {people} {'person' if people == 1 else 'people'} in round {round_number} judge the "
        f"candidates that this change would replace ({why}). Undo the change, or keep the answers and rank new "
        "candidates in another round (`rlhf run CONFIG --new-round`), or set them aside (`rlhf run CONFIG "
        "--discard-labels`)"
    )


def answers_judge_others(folder: Path, round_number: int, candidates: Path) -> bool:
    """Say whether people answered tasks of a round whose texts are not those of a candidate file."""
    if human_answers(folder, round_number)[0] == 0:
        return False
    present = {(item.prompt_id, item.responses) for item in read_jsonl(candidates, CandidateSet)}
    with run_store(folder) as store:
        return any((item.prompt_id, item.responses) not in present for item in published_sets(store, round_number))


def retire_round(folder: Path, round_number: int) -> int:
    """Withdraw all tasks of a round; their answers stay in the store. Return how many tasks that were."""
    with run_store(folder) as store:
        return publish(store, [], overlap=1, round=round_number, discard_answers=True).withdrawn


def round_complete(folder: Path, round_number: int) -> bool:
    """Say whether all slots of a round are filled, or a manager closed it."""
    if not has_store(folder):
        return False
    with run_store(folder) as store:
        return round_status(store, round_number).complete
