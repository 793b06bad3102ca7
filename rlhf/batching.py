"""Cut an optimiser step into forward passes of neighbouring lengths, equally many on all processes.

An item is what must stay in one pass: an episode, or a prompt with all its candidates.
"""

from collections.abc import Iterator, Sequence

from rlhf.runtime import Runtime


def micro_batches(
    widths: Sequence[int],
    items: Sequence[int],
    size: int,
    tokens: int | None = None,
    *,
    rows: Sequence[int] | None = None,
) -> Iterator[list[int]]:
    """Yield the items in groups of neighbouring widths, so that little is padded.

    Args:
        widths: Tokens of each item's longest row, whether the item is to be grouped or not.
        items: Which items to group.
        size: Most items in a group.
        tokens: Most tokens in a group, padding included; a larger item is a group of its own.
        rows: Rows of each item; None is one each.
    """
    order = sorted(items, key=lambda item: (widths[item], item))
    start, height = 0, 0
    for end, item in enumerate(order):
        height += 1 if rows is None else rows[item]
        full = end - start == size or (tokens is not None and height * widths[item] > tokens)
        if full and end > start:
            yield order[start:end]
            start, height = end, 1 if rows is None else rows[item]
    if order:
        yield order[start:]


def even_out(
    groups: Sequence[Sequence[list[int]]], runtime: Runtime, *, spare: list[int] | None = None
) -> list[list[tuple[list[int], float]]]:
    """Give every process the same number of micro-batches in each group, and each micro-batch its weight.

    Every micro-batch is a collective operation somewhere, so processes with fewer would hang the others. What is added
    has weight 0: it is `spare`, which a process needs that may have none of its own, or else a repetition.
    """
    counts = runtime.gather([[len(parts) for parts in groups]])
    wanted = [max(column) for column in zip(*counts, strict=True)]
    return [
        [(part, 1.0) for part in parts] + [(spare or parts[0], 0.0) for _ in range(count - len(parts))]
        for parts, count in zip(groups, wanted, strict=True)
    ]
