"""How every figure looks, and how it becomes SVG inside the page.

Figures are drawn with placeholder colours, which are then replaced by CSS variables: one drawing serves the light
and the dark page. Text stays text (it can be selected, searched and read aloud) and takes the page's font.
"""

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
SFT, BEST, PPO, TRAIN, HELD_OUT, BAD = "#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a"
CSS_NAMES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    SFT: "sft",
    BEST: "best",
    PPO: "ppo",
    TRAIN: "train",
    HELD_OUT: "held-out",
    BAD: "bad",
}
WIDTH, HEIGHT = 4.4, 2.8
"""Inches; at this size 9.5 pt is easy to read both in two columns on a screen and on a phone."""
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.7,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": INK,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def new_figure(height: float = HEIGHT) -> "tuple[Figure, Axes]":
    """Return an empty figure in the page's style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.add_subplot()


def to_svg(figure: "Figure", name: str, title: str) -> str:
    """Return a figure as an SVG element for inline use; the same figure gives the same text.

    Args:
        figure: The drawing.
        name: Prefix of all ids, so that several drawings can stand on one page.
        title: What a screen reader says.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    settings: dict[Any, Any] = {**_SETTINGS, "svg.hashsalt": name}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#(0[0-9a])\1\1", lambda match: _css_colour(match.group()), text)
    # Matplotlib fixes a size in points; without it the drawing fills the column it stands in.
    text = re.sub(r'(<svg [^>]*?)\s(?:width="[^"]*pt"\s)', r"\1 ", text, count=1)
    text = re.sub(r'(<svg [^>]*?)\sheight="[^"]*pt"', r"\1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{_attribute(title)}" ', 1).strip()


def _css_colour(placeholder: str) -> str:
    return f"var(--{CSS_NAMES[placeholder]})" if placeholder in CSS_NAMES else placeholder


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
