"""Bringing a label database of an earlier version up to date. Each step is plain SQL, fixed for good.

Only SQLite files can be of version 1. A copy of the file is kept beside it before anything changes, and a step is one
transaction: a process that is killed in the middle leaves the version that was there.
"""

import sqlite3
from pathlib import Path

from rlhf.errors import LabelError

TO_VERSION_2 = """
ALTER TABLE annotators ADD COLUMN paused BOOLEAN DEFAULT 0 NOT NULL;
ALTER TABLE annotators ADD COLUMN task_limit INTEGER;
ALTER TABLE login_tokens ADD COLUMN kind VARCHAR(10) DEFAULT 'local' NOT NULL;
ALTER TABLE login_tokens ADD COLUMN role VARCHAR(10) DEFAULT 'annotator' NOT NULL;
ALTER TABLE answers ADD COLUMN confidence INTEGER;
ALTER TABLE answers ADD COLUMN edit_of INTEGER;
ALTER TABLE answers ADD COLUMN edit_digest VARCHAR(64);
ALTER TABLE answers ADD COLUMN adjudicates BOOLEAN;
CREATE TABLE login_failures (
    id INTEGER NOT NULL, "key" VARCHAR(64) NOT NULL, "at" FLOAT NOT NULL, PRIMARY KEY (id)
);
CREATE INDEX login_failures_by_key ON login_failures ("key", "at");
CREATE TABLE edits (
    answer_id INTEGER NOT NULL, annotator_id VARCHAR(32) NOT NULL, nonce VARCHAR(32) NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (answer_id),
    FOREIGN KEY(answer_id) REFERENCES answers (id), FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
CREATE TABLE rounds (
    round INTEGER NOT NULL, overlap INTEGER NOT NULL, max_overlap INTEGER NOT NULL, extra_below FLOAT,
    repeat_share FLOAT NOT NULL, gold_share FLOAT NOT NULL, task_limit INTEGER, seed INTEGER NOT NULL,
    PRIMARY KEY (round)
);
ALTER TABLE tasks RENAME TO tasks_1;
CREATE TABLE tasks (
    id INTEGER NOT NULL, round INTEGER NOT NULL, prompt_id VARCHAR(200) NOT NULL, content_hash VARCHAR(64) NOT NULL,
    purpose VARCHAR(10) NOT NULL, candidate_count INTEGER NOT NULL, prompt TEXT NOT NULL, responses TEXT NOT NULL,
    priority FLOAT NOT NULL, position INTEGER NOT NULL, seed INTEGER NOT NULL, published_at FLOAT NOT NULL,
    started BOOLEAN NOT NULL, state VARCHAR(10) NOT NULL, free INTEGER NOT NULL, selection VARCHAR(10) NOT NULL,
    owner VARCHAR(32) NOT NULL, source INTEGER, "key" TEXT, explanation TEXT,
    PRIMARY KEY (id), UNIQUE (round, prompt_id, content_hash, purpose, owner), FOREIGN KEY(source) REFERENCES tasks (id)
);
INSERT INTO tasks
    SELECT id, round, prompt_id, content_hash, purpose, candidate_count, prompt, responses, priority, position, seed,
        published_at, started, state,
        (SELECT count(*) FROM slots WHERE slots.task_id = tasks_1.id AND slots.status = 'free'),
        'random', '', NULL, NULL, NULL
    FROM tasks_1;
DROP TABLE tasks_1;
CREATE INDEX tasks_in_queue ON tasks (round, started DESC, position, id)
    WHERE state = 'open' AND purpose = 'label' AND free > 0;
CREATE INDEX tasks_of_items ON tasks (purpose, round, position) WHERE purpose != 'label';
DROP INDEX slots_by_status;
CREATE INDEX slots_by_status ON slots (status, expires_at);
CREATE INDEX drafts_by_annotator ON drafts (annotator_id, updated_at);
INSERT INTO rounds
    SELECT tasks.round, max(counted.slots), max(counted.slots), NULL, 0.0, 0.0, NULL, max(tasks.seed)
    FROM tasks JOIN (SELECT task_id, count(*) AS slots FROM slots GROUP BY task_id) AS counted ON counted.task_id = tasks.id
    GROUP BY tasks.round;
UPDATE meta SET value = '2' WHERE "key" = 'schema_version';
"""
STEPS = {1: TO_VERSION_2}


def migrate(place: Path | str, version: int) -> None:
    """Bring a database from `version` to the newest; the file as it was stays as NAME.version-N.

    Raises:
        LabelError: No way leads from this version.
    """
    if not isinstance(place, Path) or version not in STEPS:
        raise LabelError(f"{place}: schema version {version} cannot be brought up to date by this program")
    connection = sqlite3.connect(place, timeout=30, isolation_level=None)
    try:
        _keep_copy(connection, place.with_name(f"{place.name}.version-{version}"))
        # Foreign keys would forbid the exchange of a table; they are checked at the end of the step.
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA legacy_alter_table=ON")
        connection.execute("PRAGMA synchronous=FULL")
        while version in STEPS:
            version = _step(connection, version)
    except sqlite3.Error as error:
        raise LabelError(
            f"{place}: could not be brought up to date ({error}); it is as it was, free some space or close other programs"
        ) from error
    finally:
        connection.close()


def _step(connection: sqlite3.Connection, version: int) -> int:
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = int(connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])
        if found == version:  # another process may have been quicker
            for statement in STEPS[version].split(";"):
                connection.execute(statement)
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise sqlite3.IntegrityError(f"{len(broken)} rows refer to nothing")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return version + 1


def _keep_copy(connection: sqlite3.Connection, copy: Path) -> None:
    if copy.exists():
        return
    unfinished = copy.with_name(copy.name + ".part")
    unfinished.unlink(missing_ok=True)
    target = sqlite3.connect(unfinished)
    with target:
        connection.backup(target)
    target.close()
    unfinished.rename(copy)
