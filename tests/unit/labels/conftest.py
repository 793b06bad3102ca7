"""A store with a clock that the test moves, and a few tasks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from rlhf.labels.accounts import Annotator, ensure_annotator
from rlhf.labels.answers import Receipt, submit
from rlhf.labels.assignment import claim
from rlhf.labels.publishing import publish
from rlhf.labels.store import Place, Store, open_store
from rlhf.labels.submissions import Submission
from rlhf.records import CandidateSet
from tests.postgres import find_programs, running_server


class Clock:
    """Seconds since 1970 that stand still until moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def make_sets(count: int, candidates: int = 3) -> list[CandidateSet]:
    return [
        CandidateSet(f"p-{index}", f"prompt {index}", tuple(f"response {index}.{place}" for place in range(candidates)))
        for index in range(count)
    ]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL database."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: `apt-get install postgresql`")
    with running_server(programs) as url:
        yield url


@pytest.fixture
def postgres(server: str) -> str:
    """The URL of an empty PostgreSQL database."""
    engine = create_engine(server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where an empty store is to be made, in a file and on a server."""
    if request.param == "sqlite":
        return tmp_path / "labels.db"
    return request.getfixturevalue("postgres")


@pytest.fixture
def file_store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """An empty store in a file, for what files alone have."""
    with open_store(tmp_path / "labels.db", create=True, clock=clock) as opened:
        yield opened


@pytest.fixture
def store(place: Place, clock: Clock) -> Iterator[Store]:
    """An empty store."""
    with open_store(place, create=True, clock=clock) as opened:
        yield opened


@pytest.fixture
def person(store: Store) -> Callable[[str], Annotator]:
    """Make (or find) a person by name."""
    return lambda name: ensure_annotator(store, name)


@pytest.fixture
def published(store: Store) -> Store:
    """Two tasks of three candidates, two slots each."""
    publish(store, make_sets(2), overlap=2, seed=1)
    return store


def answer(store: Store, annotator: Annotator, ranks=(1, 2, 3), **fields) -> Receipt:
    """Claim the next task and rank it, as shown."""
    view = claim(store, annotator)
    assert view is not None, "nothing to claim"
    return submit(store, annotator, Submission(view.submission_id, ranks=tuple(ranks), **fields))


@pytest.fixture(name="answer")
def answer_fixture() -> Callable[..., Receipt]:
    """Claim the next task and rank it."""
    return answer


@pytest.fixture(name="make_sets")
def make_sets_fixture() -> Callable[..., list[CandidateSet]]:
    """Make candidate sets."""
    return make_sets
