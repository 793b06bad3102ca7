"""Masked statistics and padding."""

import torch

from rlhf.tensors import (
    branch_mask,
    branch_positions,
    last_true_index,
    lengths_to_mask,
    masked_mean,
    masked_sum,
    masked_variance,
    pad_left,
    pad_right,
    positions_from_mask,
    unflatten,
    whiten,
)

MASK = torch.tensor([[True, True, False], [True, False, False]])
VALUES = torch.tensor([[1.0, 3.0, 100.0], [5.0, float("nan"), float("inf")]])


def test_statistics_count_every_true_entry_once_and_ignore_the_rest() -> None:
    assert masked_sum(VALUES, MASK) == 9.0  # 1 + 3 + 5
    assert masked_mean(VALUES, MASK) == 3.0  # 9 / 3, not the mean of row means (2 + 5) / 2
    assert torch.isclose(masked_variance(VALUES, MASK), torch.tensor(8 / 3))  # (4 + 0 + 4) / 3


def test_an_empty_mask_has_mean_zero() -> None:
    assert masked_mean(VALUES, torch.zeros_like(MASK)) == 0.0


def test_whitening_gives_mean_zero_and_deviation_one_inside_the_mask() -> None:
    white = whiten(VALUES, MASK, masked_mean(VALUES, MASK), masked_variance(VALUES, MASK))
    assert abs(masked_mean(white, MASK)) < 1e-6
    assert abs(masked_variance(white, MASK) - 1) < 1e-5
    assert (white[~MASK] == 0).all()


def test_whitening_without_shift_keeps_signs_and_ratios() -> None:
    white = whiten(VALUES, MASK, masked_mean(VALUES, MASK), masked_variance(VALUES, MASK), shift_mean=False)
    assert torch.isclose(white[0, 1] / white[0, 0], torch.tensor(3.0))


def test_padding_sides() -> None:
    assert pad_right([[1], [2, 3]], 9, torch.long).tolist() == [[1, 9], [2, 3]]
    assert pad_right([[1]], 0, torch.long, width=3).tolist() == [[1, 0, 0]]
    assert pad_left([[1], [2, 3]], 9).tolist() == [[9, 1], [2, 3]]


def test_masks_positions_and_last_entries() -> None:
    assert lengths_to_mask(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]
    left = torch.tensor([[False, False, True, True]])
    assert positions_from_mask(left).tolist() == [[0, 0, 0, 1]]
    assert last_true_index(torch.tensor([[True, False], [True, True]])).tolist() == [0, 1]


def test_unflatten_puts_values_back_into_their_places() -> None:
    grid = torch.arange(6.0).view(2, 3)
    assert unflatten(grid[MASK], MASK).tolist() == [[0, 1, 0], [3, 0, 0]]


def test_branches_see_the_stem_and_themselves() -> None:
    # A stem of two, a branch of two, a branch of one, padding.
    branches = torch.tensor([[0, 0, 1, 1, 2, 0]])
    seen = branch_mask(branches)[0]
    assert seen.int().tolist()[:5] == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
    ]
    assert branch_positions(branches).tolist() == [[0, 1, 2, 3, 2, 2]]


def test_a_branch_of_one_token_behind_another_begins_anew() -> None:
    assert branch_positions(torch.tensor([[0, 3, 1, 2, 2]])).tolist() == [[0, 1, 1, 1, 2]]
