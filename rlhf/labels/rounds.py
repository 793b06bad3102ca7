"""What the pipeline asks of the ranking store of a run: is there human work, is a round complete."""

from pathlib import Path

from sqlalchemy import func, select

from rlhf.labels.publishing import publish, published_sets, round_status
from rlhf.labels.schema import annotators, answers, tasks
from rlhf.labels.store import Store, open_store
from rlhf.records import CandidateSet, read_jsonl

DATABASE = "labels.db"


def run_store(folder: Path, *, create: bool = False) -> Store:
    """Open the store in a run's label folder."""
    return open_store(folder / DATABASE, create=create)


def human_answers(folder: Path, round_number: int) -> tuple[int, int]:
    """Return how many answers people gave to the tasks of a round that are still in use, and how many people.

    Imported answers count as people's: they cannot be made again.
    """
    if not (folder / DATABASE).exists():
        return 0, 0
    query = (
        select(func.count(), func.count(func.distinct(answers.c.annotator_id)))
        .select_from(answers)
        .join(tasks, tasks.c.id == answers.c.task_id)
        .join(annotators, annotators.c.id == answers.c.annotator_id)
        .where(tasks.c.round == round_number, tasks.c.state != "withdrawn", annotators.c.kind != "scripted")
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
    if not (folder / DATABASE).exists():
        return False
    with run_store(folder) as store:
        return round_status(store, round_number).complete
