"""The answers that the quality figures rest on: of one round or of all, as arrays, together with what was fitted to them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rlhf.labels.agreement import Votes, agreement_with_others, count_votes, pair_sums
from rlhf.labels.answerlog import LABEL, PURPOSES, RANKED, UNDONE, AnswerLog, current_rows, first_rows
from rlhf.labels.bias import Shown
from rlhf.labels.figures import Floats
from rlhf.labels.ranktable import Ints, Ranks, RankTable
from rlhf.labels.reliability import OneCoin, PairVotes, fit_one_coin, votes_of


@dataclass(frozen=True)
class Judged:
    """What a set of tasks got.

    Managers' decisions are left out: they are made with the annotators' answers in view.

    Attributes:
        log: Where it comes from; do not update it while this is in use.
        first: Rows of the log: each annotator's first answer to each task.
        latest: Rows of the log: each annotator's latest answer to each task, surplus or not.
        rows: Those of them that count as rankings of shared tasks, in the order of `table`.
        seconds: For each of `latest`, the longest time of work that one of its versions reports.
        table: The rankings; prompts are tasks.
        tasks: The task id of each prompt of the table.
        decided: The ids of the tasks that a manager decided.
    """

    log: AnswerLog
    first: Ints
    latest: Ints
    rows: Ints
    seconds: NDArray[np.float32]
    table: RankTable
    tasks: Ints
    decided: Ints

    @cached_property
    def shown(self) -> Shown:
        """How the rankings were shown."""
        return Shown(
            self.log.answers.orders[self.rows],
            self.log.tasks.lengths[self.log.answers.task[self.rows]].astype(np.int64),
        )

    @cached_property
    def parts(self) -> list[Votes]:
        """The counted votes."""
        return list(count_votes(self.table))

    @cached_property
    def with_others(self) -> Floats:
        """Each ranking's agreement with the others of its task, on strictly ordered pairs."""
        return agreement_with_others(self.parts, self.table)

    @cached_property
    def by_task(self) -> Floats:
        """Each task's agreement with ties: sum and count of comparisons."""
        return pair_sums(self.parts, self.table.prompts, strict=False)

    @cached_property
    def votes(self) -> PairVotes:
        """The votes on pairs."""
        return votes_of(self.table)

    @cached_property
    def model(self) -> OneCoin:
        """The one-coin model of all annotators."""
        return fit_one_coin(self.votes)

    def is_task(self, rows: Ints) -> NDArray[np.bool_]:
        """Say which rows answer what looks like a task: all but training items."""
        return self.log.tasks.purpose[self.log.answers.task[rows]] != PURPOSES.index("training")

    def of_purpose(self, name: str) -> Ints:
        """Return the latest rows that ranked an item of this purpose, such as gold."""
        answers = self.log.answers
        rows = self.latest[(self.log.tasks.purpose[answers.task[self.latest]] == PURPOSES.index(name))]
        return rows[answers.verdict[rows] == RANKED]

    def as_table(self, rows: Ints, ranks: Ranks) -> RankTable:
        """Return ranks that belong to rows of the log as a table; prompts are task ids."""
        size = (ranks > 0).sum(axis=1).astype(np.int64)
        answers = self.log.answers
        return RankTable(
            answers.task[rows],
            answers.annotator[rows],
            size,
            ranks,
            len(self.log.tasks.round),
            len(self.log.annotators),
        )


def judge(log: AnswerLog, round: int | None = None) -> Judged:
    """Select what counts now, of one round or of all."""
    answers, facts = log.answers, log.tasks
    inside = ~facts.withdrawn & (facts.round >= 0 if round is None else facts.round == round)
    given = ~answers.adjudicates & inside[answers.task]
    latest = current_rows(answers, given)
    seconds = _longest(log, given, latest)
    latest_kept = answers.verdict[latest] != UNDONE
    latest, seconds = latest[latest_kept], seconds[latest_kept]
    rows = current_rows(answers, given & ~answers.surplus)
    shared = facts.purpose[answers.task[rows]] == LABEL
    rows = rows[shared & (answers.verdict[rows] == RANKED)]
    tasks, prompt = np.unique(answers.task[rows], return_inverse=True)
    ranks = answers.ranks[rows]
    size = (ranks > 0).sum(axis=1).astype(np.int64)
    table = RankTable(
        prompt.astype(np.int64), answers.annotator[rows], size, ranks, len(tasks), max(len(log.annotators), 1)
    )
    # A decision that was taken back has a later version of the same person after it.
    last = current_rows(answers, inside[answers.task])
    decided = np.unique(answers.task[last[answers.adjudicates[last]]])
    return Judged(log, first_rows(answers, given), latest, rows, seconds, table, tasks, decided)


def _longest(log: AnswerLog, given: NDArray[np.bool_], latest: Ints) -> NDArray[np.float32]:
    """Return the longest time among the versions of each answer: a correction takes less time than what it corrects."""
    answers = log.answers
    rows = np.flatnonzero(given & ~np.isnan(answers.seconds))
    people = max(len(log.annotators), 1)
    pairs = answers.task[latest] * people + answers.annotator[latest]
    order = np.argsort(pairs)
    places = order[np.searchsorted(pairs[order], answers.task[rows] * people + answers.annotator[rows])]
    found = np.full(len(latest), -np.inf, dtype=np.float32)
    np.maximum.at(found, places, answers.seconds[rows])
    return np.where(found >= 0, found, np.nan).astype(np.float32)
