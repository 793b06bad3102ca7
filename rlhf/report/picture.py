"""A picture of the page: an SVG with its title and a caption that says what is seen and how many were counted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf.report.style import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of the page."""

    name: str
    title: str
    svg: str
    caption: str

    @classmethod
    def of(cls, figure: "Figure", name: str, title: str, caption: str) -> "Picture":
        """Turn a drawing into a picture; `name` is unique on the page."""
        return cls(name, title, to_svg(figure, name, f"{title}. {caption}"), caption)


@dataclass(frozen=True, slots=True)
class Missing:
    """A picture that could not be drawn, and why."""

    title: str
    reason: str


def drawn(pictures: "list[Picture | Missing]") -> list[Picture]:
    """Return the pictures that exist."""
    return [picture for picture in pictures if isinstance(picture, Picture)]


def left_out(pictures: "list[Picture | Missing]") -> list[Missing]:
    """Return what is missing."""
    return [picture for picture in pictures if isinstance(picture, Missing)]
