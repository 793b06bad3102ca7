"""Demonstrations as rows of token ids and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
