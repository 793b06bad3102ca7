"""Tasks as people meet them: two to learn from, then a pair, formulas, code, a table and a long answer."""

from rlhf.labels.items import KnownItem
from rlhf.records import CandidateSet, Message

LONG = "\n\n".join(
    f"**Step {number}.** Warm the dough to room temperature, fold it {number} times, and let it rest under a damp cloth "
    "until it has grown by half. Keep it out of the draught; a cold dough rises, but slowly."
    for number in range(1, 15)
)

WATER = KnownItem(
    CandidateSet(
        "t-1",
        "How many litres of water should I drink in a day?",
        (
            "Exactly eight glasses. Everybody needs that.",
            "About one and a half to two litres for most adults, more in heat and with sport. Thirst is a good guide.",
            "I am only a language model.",
        ),
    ),
    (2, 1, 3),
    "The second answers the question, is **true** and says when it is different. The first claims more than is known. "
    "The third does not answer.",
)
LETTER = KnownItem(
    CandidateSet(
        "t-2",
        "Shorten: 'We would hereby like to inform you that the office will be closed on Monday.'",
        ("The office is closed on Monday.", "Closed!", "We inform you that the office will be closed on Monday."),
    ),
    (1, 3, 2),
    "Short **and** complete. The last is hardly shorter; the second has lost what matters.",
)


def lesson_items() -> list[KnownItem]:
    """Return the training items."""
    return [WATER, LETTER]


def lesson_sets() -> list[CandidateSet]:
    """Return the tasks, the pair first."""
    return [
        CandidateSet(
            "s-1",
            "What is the capital of Australia?",
            (
                "The capital of Australia is **Canberra**, chosen in 1908 as a compromise between Sydney and Melbourne.",
                "The capital of Australia is **Sydney**, chosen in 1908 as the largest city of the country.",
            ),
        ),
        CandidateSet(
            "s-2",
            "Solve $x^2 - 5x + 6 = 0$.",
            (
                "Factor it:\n\n$$x^2 - 5x + 6 = (x-2)(x-3)$$\n\nso $x = 2$ or $x = 3$.",
                r"By the formula, \[x = \frac{5 \pm \sqrt{25 - 24}}{2}\] which gives \(x_1 = 3\) and \(x_2 = 2\).",
                "x = 1",
            ),
        ),
        CandidateSet(
            "s-3",
            (
                Message("user", "I bake bread. How do I handle the dough?"),
                Message("assistant", "Which flour do you use?"),
                Message("user", "Rye, mostly."),
            ),
            (
                LONG,
                "| step | time |\n|---|---|\n| knead | 8 min |\n| rest | 1 h |\n\n```python\nfor fold in range(3):\n"
                "    rest(minutes=30)\n```",
                "Knead, rest, fold, bake.",
                "Rye dough is sticky: wet your hands, and do not add flour.",
            ),
        ),
    ]
