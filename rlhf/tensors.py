"""Masked statistics and padding of token tensors.

Index convention of the whole project: `logprobs[:, t]` belongs to response token `t`; `values[:, t]` is the
estimate *before* that token, read at the position that predicts it; the score lands on the last response
token (the end token, where there is one). A mask is named for what True means.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def masked_sum(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the sum of the values where the mask holds; what lies outside may be anything, even NaN."""
    return values.masked_fill(~mask, 0.0).sum()


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean over the True entries: every token counts the same, whatever its row.

    An empty mask gives 0.
    """
    return masked_sum(values, mask) / mask.sum().clamp_min(1)


def masked_variance(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the population variance (divisor n) over the True entries."""
    return masked_mean((values - masked_mean(values, mask)).square(), mask)


def whiten(
    values: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    mean: Float[Tensor, ""],
    variance: Float[Tensor, ""],
    *,
    shift_mean: bool = True,
    epsilon: float = 1e-8,
) -> Float[Tensor, "*shape"]:
    """Scale to standard deviation 1 with the given moments, and to mean 0 where `shift_mean`; 0 outside the mask.

    The moments are arguments because they belong to the whole batch, over all processes.
    """
    centered = values - mean if shift_mean else values
    return (centered * (variance + epsilon).rsqrt()).masked_fill(~mask, 0.0)


def pad_right(
    rows: Sequence[Sequence[int]] | Sequence[Sequence[float]], fill: float, dtype: torch.dtype, width: int | None = None
) -> Shaped[Tensor, "batch sequence"]:
    """Stack rows of different lengths, filled on the right to the longest one or to `width`."""
    width = max(len(row) for row in rows) if width is None else width
    return torch.tensor([[*row, *([fill] * (width - len(row)))] for row in rows], dtype=dtype)


def pad_left(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "batch sequence"]:
    """Stack rows of different lengths, filled on the left to the longest one."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*([fill] * (width - len(row))), *row] for row in rows], dtype=torch.long)


def lengths_to_mask(lengths: Int[Tensor, " batch"], width: int) -> Bool[Tensor, "batch width"]:
    """Return a mask that is True on the first `lengths[i]` columns of row i."""
    return torch.arange(width, device=lengths.device)[None, :] < lengths[:, None]


def positions_from_mask(attention_mask: Bool[Tensor, "batch sequence"]) -> Int[Tensor, "batch sequence"]:
    """Number the real tokens of each row from 0; padding columns get the number of their neighbour, or 0."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)


def branch_mask(branches: Int[Tensor, "batch sequence"]) -> Bool[Tensor, "batch sequence sequence"]:
    """Return which columns each column sees in rows that hold a stem and, behind it, its branches one after another.

    Args:
        branches: 0 on the stem, a number above 0 on each branch; padding at the end is seen by nobody else.
    """
    same = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    return same.tril()


def branch_positions(branches: Int[Tensor, "batch sequence"]) -> Int[Tensor, "batch sequence"]:
    """Number the stem from 0 and let every branch go on from the stem's end; see `branch_mask`."""
    columns = torch.arange(branches.shape[1], device=branches.device).expand_as(branches)
    stem = (branches > 0).int().argmax(dim=1, keepdim=True)
    begins = branches != branches.roll(1, dims=1)
    start = columns.masked_fill(~begins, 0).cummax(dim=1).values
    # Padding gets a position that exists.
    return torch.where(branches > 0, stem + columns - start, torch.minimum(columns, stem))


def last_true_index(mask: Bool[Tensor, "batch sequence"]) -> Int[Tensor, " batch"]:
    """Return the column of the last True entry of each row.

    Every row must have one.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    return columns.expand_as(mask).masked_fill(~mask, -1).amax(dim=-1)


def unflatten(
    flat: Shaped[Tensor, " tokens"], mask: Bool[Tensor, "batch sequence"], fill: float = 0.0
) -> Shaped[Tensor, "batch sequence"]:
    """Put one value per True entry of the mask back into its place, row after row."""
    return torch.full(mask.shape, fill, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
