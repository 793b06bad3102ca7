"""Demonstrations as rows of token ids and labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler

from rlhf.errors import DataError, report_all
from rlhf.records import Demonstration
from rlhf.tensors import pad_right
from rlhf.text import TextFormat

IGNORED = -100
Row = dict[str, list[int]]


def make_rows(text: TextFormat, demonstrations: Sequence[Demonstration], max_tokens: int, kind: str) -> list[Row]:
    """Tokenise demonstrations; labels are the response's ids, its end token included, and IGNORED elsewhere.

    Raises:
        DataError: There are no demonstrations; or lists those that have too many tokens.
    """
    if not demonstrations:
        raise DataError(
            f"no {kind}s, which supervised fine-tuning needs; give prompts.sources with responses in more rows, or "
            "prompts.demonstrations, with prompts.shares.sft and prompts.shares.validation above 0, or set sft.method to none"
        )
    rows: list[Row] = []
    problems: list[str] = []
    for demonstration in demonstrations:
        try:
            example = text.encode_example(demonstration.prompt, demonstration.response, max_length=max_tokens)
        except DataError as error:
            problems.append(f"{kind} {demonstration.prompt_id}: {error}")
            continue
        taught = zip(example.input_ids, example.response_mask, strict=True)
        labels = [token if learned else IGNORED for token, learned in taught]
        rows.append({"input_ids": example.input_ids, "labels": labels})
    report_all(DataError, problems, f"{len(problems)} of {len(demonstrations)} {kind}s cannot be used")
    return rows


def filled_up(rows: Sequence[Row], multiple: int) -> list[Row]:
    """Return the rows with fillers behind them up to a multiple; nothing is learned from a filler."""
    return [*rows, *({"input_ids": [0, 0], "labels": [IGNORED, IGNORED]} for _ in range(-len(rows) % multiple))]


class EpochOrder(Sampler[int]):
    """A new order of the rows in every epoch, a function of seed and epoch; fillers come last, so that each process has some.

    Left to itself accelerate would give the processes without a row in an epoch's last batch rows of its first one again.
    """

    def __init__(self, rows: int, fillers: int, seed: int) -> None:
        self._rows, self._fillers, self._seed = rows, fillers, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows and fillers."""
        return self._rows + self._fillers

    def __iter__(self) -> Iterator[int]:
        """Yield the positions of one epoch."""
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from torch.randperm(self._rows, generator=generator).tolist()
        yield from range(self._rows, self._rows + self._fillers)


@dataclass(frozen=True)
class RightPadding:
    """Stacks rows: what pads the ids is arbitrary, the mask and the labels decide."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`, as wide as the longest row."""
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad_right(ids, self.pad_token_id, torch.long),
            "attention_mask": pad_right([[1] * len(row) for row in ids], 0, torch.long),
            "labels": pad_right([row["labels"] for row in rows], IGNORED, torch.long),
        }
