"""Forward passes hold neighbouring lengths, keep to their budget, and are equally many on all processes."""

import random
from collections.abc import Sequence
from typing import Any

from rlhf.batching import even_out, micro_batches
from rlhf.runtime import Runtime


class TwoProcesses(Runtime):
    """The first of two processes; the other has `theirs` passes in each group."""

    theirs = (3, 1)

    def gather(self, items: Sequence[Any]) -> list[Any]:
        return [*items, list(self.theirs)]


def test_neighbouring_lengths_share_a_pass() -> None:
    assert list(micro_batches((9, 1, 8, 2), [0, 1, 2, 3], 2)) == [[1, 3], [2, 0]]


def test_passes_keep_to_the_token_budget_and_what_is_larger_goes_alone() -> None:
    assert list(micro_batches((9, 1, 8, 2, 30), range(5), 8, tokens=18)) == [[1, 3], [2, 0], [4]]


def test_rows_count_as_wide_as_the_widest_of_their_pass() -> None:
    # 2 rows of 3, then 1 row of 4: together 3 x 4 = 12; 2 rows of 5 more would make 5 x 5 = 25.
    cut = list(micro_batches((3, 4, 5), range(3), 8, tokens=12, rows=(2, 1, 2)))
    assert cut == [[0, 1], [2]]


def test_no_budget_is_broken_and_nothing_is_lost() -> None:
    draw = random.Random(0)
    for _ in range(200):
        count, tokens, size = draw.randint(1, 30), draw.randint(1, 300), draw.randint(1, 9)
        widths = [draw.randint(1, 60) for _ in range(count)]
        rows = [draw.randint(1, 6) for _ in range(count)]
        parts = list(micro_batches(widths, range(count), size, tokens, rows=rows))
        assert sorted(item for part in parts for item in part) == list(range(count))
        for part, after in zip(parts, [*parts[1:], None], strict=True):
            assert len(part) <= size
            padded = sum(rows[item] for item in part) * max(widths[item] for item in part)
            assert padded <= tokens or len(part) == 1
            if after is not None and len(part) < size:  # the next item would not have fitted
                assert (sum(rows[item] for item in part) + rows[after[0]]) * widths[after[0]] > tokens


def test_nothing_to_group_gives_no_pass() -> None:
    assert list(micro_batches((3, 4), [], 2)) == []


def test_processes_take_the_same_number_of_passes() -> None:
    found = even_out([[[0], [1]], [[2], [3]]], TwoProcesses(None))
    assert found == [[([0], 1.0), ([1], 1.0), ([0], 0.0)], [([2], 1.0), ([3], 1.0)]]


def test_a_process_without_passes_of_its_own_takes_spare_ones() -> None:
    found = even_out([[], [[2]]], TwoProcesses(None), spare=[7])
    assert found == [[([7], 0.0)] * 3, [([2], 1.0)]]
