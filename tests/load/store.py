"""Many processes work one store off at once: is the overlap exact, the display order balanced, no answer lost?

python -m tests.load.store [--answers 30000] [--processes 8] [--kinds sqlite postgresql]
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import select

from rlhf.labels.accounts import ensure_annotator
from rlhf.labels.answers import submit
from rlhf.labels.assignment import claim
from rlhf.labels.events import verify
from rlhf.labels.publishing import publish, round_status
from rlhf.labels.schema import answers, slots
from rlhf.labels.store import Place, Store, open_store
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet
from tests.postgres import find_programs, running_server

OVERLAP, CANDIDATES = 3, 4


def work(place: Place, name: str, start: Any) -> None:
    """Claim and submit until nothing is left."""
    with open_store(place) as store:
        annotator = ensure_annotator(store, name)
        start.wait()
        while (view := claim(store, annotator)) is not None:
            submit(store, annotator, Submission(view.submission_id, ranks=tuple(range(1, CANDIDATES + 1))))


def measure(place: Place, wanted: int, processes: int) -> dict[str, Any]:
    """Let the processes give `wanted` answers; return what came of it."""
    sets = [
        CandidateSet(f"p-{index}", f"prompt {index}", tuple(f"response {index}.{place}" for place in range(CANDIDATES)))
        for index in range(wanted // OVERLAP)
    ]
    with open_store(place, create=True) as store:
        publish(store, sets, overlap=OVERLAP)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlhf.labels.answers"])
    start = context.Barrier(processes + 1)
    workers = [context.Process(target=work, args=(place, f"worker {n}", start)) for n in range(processes)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began
    with open_store(place) as store:
        return {"processes": processes, "seconds": seconds, "answers_per_second": wanted / seconds} | check(
            store, wanted
        )


def check(store: Store, wanted: int) -> dict[str, Any]:
    """Count what must not be, of a store that was worked off: every figure but the answers is to be 0."""
    found = check_while_open(store)
    with store.reading() as connection:
        given = connection.execute(select(answers.c.task_id)).scalars().all()
        open_slots = connection.execute(select(slots.c.task_id).where(slots.c.status != "done")).all()
    under = sum(count < OVERLAP for count in Counter(given).values())
    return found | {
        "answers_missing": wanted - len(given),
        "tasks_under_overlap": under,
        "slots_not_done": len(open_slots),
        "surplus": round_status(store, 0).surplus,
    }


def check_while_open(store: Store) -> dict[str, Any]:
    """Count what must not be, whether or not there is work left."""
    with store.reading() as connection:
        given = connection.execute(select(answers.c.task_id, answers.c.annotator_id, answers.c.display_order)).all()
    per_task = Counter(row.task_id for row in given)
    places: dict[int, Counter[tuple[int, int]]] = {}
    for row in given:
        places.setdefault(row.task_id, Counter()).update(enumerate(json.loads(row.display_order)))
    return {
        "answers": len(given),
        "tasks_over_overlap": sum(count > OVERLAP for count in per_task.values()),
        "answered_twice": len(given) - len({(row.task_id, row.annotator_id) for row in given}),
        # With fewer annotators than candidates, no candidate may stand twice at one place.
        "tasks_out_of_balance": sum(max(counts.values()) > 1 for counts in places.values()),
        "problems": len(verify(store).problems),
    }


def main() -> None:
    """Measure both kinds of store and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=30_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    options = parser.parse_args()
    wanted = options.answers // OVERLAP * OVERLAP
    for kind in options.kinds:
        with ExitStack() as stack:
            place: Place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "labels.db"
            if kind == "postgresql":
                programs = find_programs()
                if programs is None:
                    sys.exit("no PostgreSQL here: `apt-get install postgresql`")
                place = stack.enter_context(running_server(programs, durable=True))
            found = {"store": kind, **measure(place, wanted, options.processes)}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
