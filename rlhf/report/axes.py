"""Things that several pictures draw alike: intervals, row labels, percentages, names in the colour of their line."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf.report.style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_interval(axes: "Axes", place: int, value: float, low: float, high: float, colour: str, text: str) -> None:
    """Draw a value with its interval on a row, the number above it."""
    axes.plot([low, high], [place, place], color=colour, linewidth=2.4)
    axes.plot(value, place, "o", color=colour, markersize=8)
    axes.annotate(
        text, (value, place), xytext=(0, 8), textcoords="offset points", ha="center", color=INK, fontweight="bold"
    )


def name_rows(axes: "Axes", labels: Sequence[str]) -> None:
    """Name the rows of a picture whose vertical axis is a list."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK)


def as_percent(axes: "Axes", *, vertical: bool = False) -> None:
    """Write an axis of shares in percent, with as many decimals as tell its ticks apart."""
    from matplotlib.ticker import PercentFormatter

    (axes.yaxis if vertical else axes.xaxis).set_major_formatter(PercentFormatter(1.0))


def write_note(
    axes: "Axes", text: str, x: float, y: float, colour: str, offset: tuple[int, int], *, bold: bool = False
) -> None:
    """Write a word beside a point."""
    axes.annotate(
        text, (x, y), xytext=offset, textcoords="offset points", ha="left", color=colour, fontsize=9.5 if bold else 8.5,
        fontweight="bold" if bold else "normal",
    )  # fmt: skip


def name_colours(axes: "Axes", names: Sequence[tuple[str, str]]) -> None:
    """Name the colours above the plot: no legend box, no overlap with the data."""
    for place, (label, colour) in enumerate(names):
        axes.annotate(
            f"● {label}", (1, 1), xycoords="axes fraction", xytext=(-66 * (len(names) - 1 - place), 4),
            textcoords="offset points", ha="right", va="bottom", color=colour, fontsize=9,
        )  # fmt: skip
