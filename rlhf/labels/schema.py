"""The tables of the ranking store.

Two tables are append-only and held so by triggers: `events`, a hash chain of everything that counts, and
`answers`, the versions of what people said. They hold random annotator ids and salted digests only. Names,
secrets and free text live in `people`, `texts` and `edits`, so that they can be erased without breaking the chain.

A task is shared (`owner` is empty: its slots are published with it) or belongs to one annotator (a repeat item).
`free` counts its free slots, so that the next task is found by an index alone, however many tasks there are.

JSON columns hold text written by `canonical_json`, so that equal content has equal bytes in every database.
"""

import json
from typing import Any

from sqlalchemy import (
    DDL,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    false,
)

SCHEMA_VERSION = 2

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)

annotators = Table(
    "annotators",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("pseudonym", String(40), nullable=False, unique=True),
    Column("kind", String(10), nullable=False),
    Column("role", String(10), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("task_limit", Integer),
)

people = Table(
    "people",
    metadata,
    Column("annotator_id", String(32), ForeignKey("annotators.id"), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("secret", Text),
    UniqueConstraint("kind", "name"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("annotator_id", String(32), ForeignKey("annotators.id"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

login_tokens = Table(
    "login_tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("annotator_id", String(32), ForeignKey("annotators.id")),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
    Column("kind", String(10), nullable=False, server_default="local"),
    Column("role", String(10), nullable=False, server_default="annotator"),
)

# Failed logins by salted digests of the name and of the address, so that guessing can be slowed down.
login_failures = Table(
    "login_failures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False),
    Column("at", Float, nullable=False),
    Index("login_failures_by_key", "key", "at"),
)

guidelines = Table(
    "guidelines",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

# How a round is given out.
rounds = Table(
    "rounds",
    metadata,
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("overlap", Integer, nullable=False),
    Column("max_overlap", Integer, nullable=False),
    Column("extra_below", Float),
    Column("repeat_share", Float, nullable=False),
    Column("gold_share", Float, nullable=False),
    Column("task_limit", Integer),
    Column("seed", Integer, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("round", Integer, nullable=False),
    Column("prompt_id", String(200), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("purpose", String(10), nullable=False),
    Column("candidate_count", Integer, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("responses", Text, nullable=False),
    Column("priority", Float, nullable=False),
    Column("position", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("published_at", Float, nullable=False),
    Column("started", Boolean, nullable=False),
    Column("state", String(10), nullable=False),
    Column("free", Integer, nullable=False),
    Column("selection", String(10), nullable=False),
    Column("owner", String(32), nullable=False),
    Column("source", Integer, ForeignKey("tasks.id")),
    Column("key", Text),
    Column("explanation", Text),
    UniqueConstraint("round", "prompt_id", "content_hash", "purpose", "owner"),
)
# The queue of a round, in its order; and the few tasks that are no part of it.
_in_queue = (tasks.c.state == "open") & (tasks.c.purpose == "label") & (tasks.c.free > 0)
_queue_order = (tasks.c.round, tasks.c.started.desc(), tasks.c.position, tasks.c.id)
Index("tasks_in_queue", *_queue_order, sqlite_where=_in_queue, postgresql_where=_in_queue)
_is_item = tasks.c.purpose != "label"
Index(
    "tasks_of_items", tasks.c.purpose, tasks.c.round, tasks.c.position, sqlite_where=_is_item, postgresql_where=_is_item
)

slots = Table(
    "slots",
    metadata,
    Column("task_id", Integer, ForeignKey("tasks.id"), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("status", String(10), nullable=False),
    Column("annotator_id", String(32), ForeignKey("annotators.id")),
    Column("expires_at", Float),
    Column("display_order", Text, nullable=False),
    UniqueConstraint("task_id", "annotator_id"),
    Index("slots_by_annotator", "annotator_id", "status"),
    Index("slots_by_status", "status", "expires_at"),
)

drafts = Table(
    "drafts",
    metadata,
    Column("task_id", Integer, ForeignKey("tasks.id"), primary_key=True),
    Column("annotator_id", String(32), ForeignKey("annotators.id"), primary_key=True),
    Column("submission_id", String(80), nullable=False, unique=True),
    Column("display_order", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("shown_at", Float, nullable=False),
    Column("first_action_at", Float),
    Column("active_seconds", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("drafts_by_annotator", "annotator_id", "updated_at"),
)

answers = Table(
    "answers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("event", Integer, ForeignKey("events.seq"), nullable=False, unique=True),
    Column("task_id", Integer, ForeignKey("tasks.id"), nullable=False),
    Column("annotator_id", String(32), ForeignKey("annotators.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("supersedes", Integer, ForeignKey("answers.id")),
    Column("submission_id", String(80), nullable=False, unique=True),
    Column("verdict", String(15), nullable=False),
    Column("ranks", Text, nullable=False),
    Column("strengths", Text, nullable=False),
    Column("flags", Text, nullable=False),
    Column("all_bad", Boolean, nullable=False),
    Column("reason", String(40), nullable=False),
    Column("display_order", Text, nullable=False),
    Column("guidelines", Integer),
    Column("shown_at", Float),
    Column("first_action_at", Float),
    Column("submitted_at", Float, nullable=False),
    Column("active_seconds", Float),
    Column("surplus", Boolean, nullable=False),
    Column("comment_digest", String(64), nullable=False),
    Column("confidence", Integer),
    Column("edit_of", Integer),
    Column("edit_digest", String(64)),
    Column("adjudicates", Boolean),
    UniqueConstraint("task_id", "annotator_id", "version"),
    Index("answers_by_annotator", "annotator_id", "task_id"),
)

texts = Table(
    "texts",
    metadata,
    Column("answer_id", Integer, ForeignKey("answers.id"), primary_key=True),
    Column("annotator_id", String(32), ForeignKey("annotators.id"), nullable=False),
    Column("nonce", String(32), nullable=False),
    Column("text", Text, nullable=False),
)

# Better answers that people wrote, beginning from one of the candidates.
edits = Table(
    "edits",
    metadata,
    Column("answer_id", Integer, ForeignKey("answers.id"), primary_key=True),
    Column("annotator_id", String(32), ForeignKey("annotators.id"), nullable=False),
    Column("nonce", String(32), nullable=False),
    Column("text", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("actor", String(32), nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)


def _forbid(table: Table, verb: str) -> DDL:
    return DDL(
        f"CREATE TRIGGER {table.name}_no_{verb.lower()} BEFORE {verb} ON {table.name} "
        f"BEGIN SELECT RAISE(ABORT, '{table.name} is append-only'); END"
    )


_REFUSE = """
CREATE OR REPLACE FUNCTION rlhf_append_only() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$ LANGUAGE plpgsql
"""

event.listen(metadata, "before_create", DDL(_REFUSE).execute_if(dialect="postgresql"))
for _table in (events, answers):
    for _verb in ("UPDATE", "DELETE"):
        event.listen(_table, "after_create", _forbid(_table, _verb).execute_if(dialect="sqlite"))
    event.listen(
        _table,
        "after_create",
        DDL(
            f"CREATE TRIGGER {_table.name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {_table.name} "
            "FOR EACH STATEMENT EXECUTE FUNCTION rlhf_append_only()"
        ).execute_if(dialect="postgresql"),
    )


def canonical_json(value: Any) -> str:
    """Return JSON text that is the same for equal values: sorted keys, no spaces, no escapes, no NaN."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
