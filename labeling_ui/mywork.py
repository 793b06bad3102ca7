"""What is measured about an annotator, in plain words for that annotator."""

from collections.abc import Callable
from dataclasses import dataclass

from rlhf.labels.figures import Figure
from rlhf.labels.personal import TOO_FAST, AnnotatorFigures

HALF = 0.5


@dataclass(frozen=True, slots=True)
class Explained:
    """A figure as the page shows it.

    Attributes:
        name: The figure's field.
        title: What it is.
        value: The number with its unit; empty where it is undefined.
        range: The interval in words; empty where there is none.
        basis: What it rests on, or "undefined, because ...".
        meaning: One or two sentences.
        scale: Value, low and high as shares, to be drawn; None where there is nothing to draw.
        middle: The value that means "no effect", to be marked; None where there is none.
    """

    name: str
    title: str
    value: str
    range: str
    basis: str
    meaning: str
    scale: tuple[float, float, float] | None = None
    middle: float | None = None


def explain(figures: AnnotatorFigures) -> list[Explained]:
    """Return all figures in the order in which they are shown."""
    chance = figures.unchanged_by_chance
    by_chance = "" if chance is None else f" By chance alone it would be {_percent(chance)}."
    return [
        _share("agreement", "Agreement with others", figures.agreement,
               "Of the pairs that you and somebody else both put in an order, the share with the same order. "
               "Careful people often agree on 63 to 77 %: not every pair has a right order."),
        _share("gold", "Items with a known answer", figures.gold,
               "A few tasks have an answer that is known, and look like all others. The share of their pairs that you "
               "ordered like the key; a tie counts half."),
        _share("consistency", "Agreement with yourself", figures.consistency,
               "Now and then a task comes a second time, in another order. The share of pairs that you ordered as "
               "before."),
        _share("reliability", "Reliability", figures.reliability,
               "An estimate of how often you order a pair as the shared opinion of all does. It begins at 75 %, and "
               "moves with your answers. Answers of people with a higher value count more."),
        _number("seconds_per_1000", "Time", figures.seconds_per_1000, "s per 1000 characters",
                "Your usual time for 1000 characters of text on the screen. There is no target: reading takes as long "
                "as it takes."),
        _too_fast(figures),
        _share("unchanged", "Orders left as shown", figures.unchanged,
               f"How often your order was the one in which the responses were shown.{by_chance}"),
        _share("ties", "Ties", figures.ties,
               "The share of pairs to which you gave the same rank. Neither many nor few are wrong."),
        _effect("first_wins", "Shown earlier wins", figures.first_wins,
                "How often the response shown earlier won against one shown later. The order is drawn at random, so 50 % "
                "means that the place does not sway you.", "what stands first", "what stands last"),
        _effect("longer_wins", "Longer wins", figures.longer_wins,
                "How often the longer of two responses won. Longer ones can be better; far from 50 %, ask yourself "
                "whether length alone speaks for them.", "the longer text", "the shorter text"),
    ]  # fmt: skip


def _share(name: str, title: str, figure: Figure, meaning: str, middle: float | None = None) -> Explained:
    drawn = None
    if figure.value is not None:
        low = figure.value if figure.low is None else figure.low
        high = figure.value if figure.high is None else figure.high
        drawn = (figure.value, low, high)
    return Explained(name, title, *_words(figure, _percent), meaning, drawn, middle)


def _effect(name: str, title: str, figure: Figure, meaning: str, above: str, below: str) -> Explained:
    if figure.low is not None and figure.low > HALF:
        meaning += f" Yours is above that by more than chance: {above} seems to gain."
    elif figure.high is not None and figure.high < HALF:
        meaning += f" Yours is below that by more than chance: {below} seems to gain."
    elif figure.value is not None:
        meaning += " Yours does not differ from that by more than chance."
    return _share(name, title, figure, meaning, middle=HALF)


def _number(name: str, title: str, figure: Figure, unit: str, meaning: str) -> Explained:
    value, spread, basis = _words(figure, lambda number: f"{number:.1f}")
    return Explained(name, title, f"{value} {unit}" if value else "", spread, basis, meaning)


def _too_fast(figures: AnnotatorFigures) -> Explained:
    meaning = (
        f"Answers given faster than {TOO_FAST:.0f} characters per second, which nobody can read. Each is marked for "
        "whoever manages the labels; a single one means nothing."
    )
    if not figures.timed:
        basis = "undefined, because no answer has a known time"
        return Explained("too_fast", "Too fast to have been read", "", "", basis, meaning)
    basis = f"of {_count(figures.timed, 'answers')} with a known time"
    return Explained("too_fast", "Too fast to have been read", f"{figures.too_fast}", "", basis, meaning)


def _words(figure: Figure, show: Callable[[float], str]) -> tuple[str, str, str]:
    if figure.value is None:
        return "", "", f"undefined, because {figure.reason}"
    spread = "" if figure.low is None or figure.high is None else f"{show(figure.low)} to {show(figure.high)}"
    return show(figure.value), spread, f"from {_count(figure.n, figure.unit)}"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit.removesuffix('s') if number == 1 else unit}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
