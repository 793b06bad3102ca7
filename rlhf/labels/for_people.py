"""Publishing a round for people, as the `rankings` section of a recipe says: tasks, guidelines, items, priorities."""

import logging
from collections.abc import Sequence
from pathlib import Path

from rlhf.config.data import RankingsConfig
from rlhf.errors import DataError, LabelError, report_all
from rlhf.labels.accounts import set_guidelines
from rlhf.labels.items import KnownItem, KnownPurpose, publish_known, read_known
from rlhf.labels.leaks import describe_leaks, find_leaks
from rlhf.labels.priorities import Priorities, read_priorities
from rlhf.labels.publishing import Distribution, Published, publish
from rlhf.labels.store import Store
from rlhf.records import MAX_SHOWN, CandidateSet

log = logging.getLogger(__name__)


def publish_for_people(
    store: Store, sets: Sequence[CandidateSet], settings: RankingsConfig, *, round: int, seed: int
) -> Published:
    """Publish candidate sets with everything that the settings name; a repeat changes nothing.

    Raises:
        RlhfError: A file is missing or has bad lines (all of one file are listed), or people's answers would be lost.
    """
    require_rankable(sets)
    guidelines = read_guidelines(settings.guidelines) if settings.guidelines else None
    items: dict[KnownPurpose, list[KnownItem]] = {
        "training": _read_items(settings.training, "training"),
        "gold": _read_items(settings.gold, "gold"),
    }
    priorities = Priorities()
    if settings.priorities:
        _require_file(settings.priorities, "priorities")
        priorities = read_priorities(settings.priorities, [item.prompt_id for item in sets])
    if settings.extra_below is not None and settings.max_overlap is None:
        raise LabelError("extra_below says when a task gets one more annotator; say up to how many with max_overlap")
    leaks = describe_leaks(find_leaks(sets))
    if leaks:
        log.warning(leaks)
    with store.transaction():
        if guidelines is not None:
            set_guidelines(store, guidelines)
        done = publish(
            store,
            sets,
            overlap=settings.overlap,
            round=round,
            seed=seed,
            priorities=priorities.values,
            at_random=priorities.at_random,
            distribution=Distribution(
                max_overlap=settings.max_overlap,
                extra_below=settings.extra_below,
                repeat_share=settings.repeat_share,
                gold_share=settings.gold_share if items["gold"] else 0.0,
                task_limit=settings.task_limit,
                random_share=settings.random_share,
            ),
        )
        for purpose, known in items.items():
            publish_known(store, known, purpose=purpose, round=round)
    return done


def require_rankable(sets: Sequence[CandidateSet]) -> None:
    """Refuse sets of more candidates than people are asked to rank.

    Raises:
        DataError: Lists the sets that are too large.
    """
    problems = [
        f"prompt {item.prompt_id}: {len(item.responses)} candidates" for item in sets if len(item.responses) > MAX_SHOWN
    ]
    report_all(
        DataError,
        problems,
        f"{len(problems)} sets have more than the {MAX_SHOWN} candidates that people rank; leave some of their candidates "
        "out, or take the rankings from a file (rankings.import_path):",
    )


def read_guidelines(path: Path) -> str:
    """Read a Markdown file with what annotators are to look for."""
    _require_file(path, "guidelines")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read as guidelines ({error})") from error
    if not text:
        raise LabelError(f"{path}: the guidelines are empty; write what annotators are to look for")
    return text


def _read_items(path: Path | None, name: str) -> list[KnownItem]:
    if path is None:
        return []
    _require_file(path, name)
    return read_known(path)


def _require_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise DataError(f"rankings.{name}: {path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
