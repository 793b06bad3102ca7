"""Rankings of four responses with a hidden linear preference, the same for both sides of the reward benchmark.

Responses are made of `WORDS` words, each with a hidden worth drawn from N(0, 1); the response with the higher mean worth is
better. Prompts and responses have mixed lengths, and no length is better than another. Some prompts are held out.

Run as a program it writes model and rankings: `python -m benchmarks.rankings SHAPE RANKINGS FOLDER`.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.shapes import END, SHAPES, Shape, write_model

FIRST_WORD, WORDS = 3, 64
CANDIDATES = 4
SHORTEST = 8
HELD_OUT = 128
DATA_SEED = 5
FILE = "rankings.json"
SMALL = replace(
    SHAPES["15m"], vocabulary=128, hidden=64, intermediate=128, layers=2, heads=4, kv_heads=4, prompt=16, response=24
)
"""A model that learns the preference within seconds: accuracy is compared on it, speed on the 15M shape."""


@dataclass(frozen=True)
class RankedIds:
    """Token ids of a prompt and of its responses, best first; each response ends with the end token."""

    prompt: list[int]
    responses: list[list[int]]

    def pairs(self) -> Iterator[tuple[list[int], list[int]]]:
        """Yield (chosen, rejected), whole sequences, of all pairs."""
        for better, chosen in enumerate(self.responses):
            for rejected in self.responses[better + 1 :]:
                yield [*self.prompt, *chosen], [*self.prompt, *rejected]


def make_rankings(shape: Shape, count: int) -> tuple[list[RankedIds], list[RankedIds]]:
    """Return `count` rankings to learn from and `HELD_OUT` others.

    Prompts and responses have 8 tokens up to those of the shape, any number as likely as another.
    """
    draw = np.random.default_rng(DATA_SEED)
    worth = draw.standard_normal(WORDS)

    def ranking() -> RankedIds:
        prompt = draw.integers(FIRST_WORD, FIRST_WORD + WORDS, draw.integers(SHORTEST, shape.prompt + 1))
        texts = [draw.integers(0, WORDS, draw.integers(SHORTEST, shape.response)) for _ in range(CANDIDATES)]
        texts.sort(key=lambda words: -worth[words].mean())
        return RankedIds(prompt.tolist(), [[*(words + FIRST_WORD).tolist(), END] for words in texts])

    made = [ranking() for _ in range(count + HELD_OUT)]
    return made[:count], made[count:]


def write_rankings(shape: Shape, count: int, folder: Path) -> None:
    """Write what `read_rankings` reads."""
    sides = [[asdict(ranking) for ranking in side] for side in make_rankings(shape, count)]
    (folder / FILE).write_text(json.dumps(sides), encoding="utf-8")


def read_rankings(folder: Path) -> tuple[list[RankedIds], list[RankedIds]]:
    """Return the rankings to learn from and the held-out ones."""
    train, held_out = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return [RankedIds(**row) for row in train], [RankedIds(**row) for row in held_out]


if __name__ == "__main__":
    chosen, target = SMALL if sys.argv[1] == "small" else SHAPES[sys.argv[1]], Path(sys.argv[3])
    write_model(chosen, target)
    write_rankings(chosen, int(sys.argv[2]), target)
