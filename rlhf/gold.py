"""Gold scorers: what stands for the truth in simulations.

Scripted annotators rank by one and evaluation reports it; reward training and PPO never see it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rlhf.config.base import GoldConfig
from rlhf.errors import ConfigError, DataError, report_all
from rlhf.records import PromptText
from rlhf.world.gold import gold_parts

GoldScorer = Callable[[PromptText, str], float]
GoldPartsScorer = Callable[[PromptText, str], dict[str, float]]

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


def load_gold(config: GoldConfig) -> GoldScorer | None:
    """Return the scorer of (prompt, response) that a configuration names, or None where it names none.

    Raises:
        ConfigError: The lexicon scorer has no lexicon.
        DataError: The lexicon cannot be read.
    """
    if config.scorer == "world":
        return _score_by_world
    if config.scorer == "lexicon":
        if config.lexicon is None:
            raise ConfigError("gold.scorer is 'lexicon', but gold.lexicon is not set; give a file of word TAB valence")
        lexicon = read_lexicon(config.lexicon)
        return lambda _prompt, response: score_by_lexicon(lexicon, response)
    return None


def load_gold_parts(config: GoldConfig) -> GoldPartsScorer | None:
    """Return the scorer of the parts that the gold score is the weighted sum of; None where it has no parts."""
    return _parts_of_world if config.scorer == "world" else None


def read_lexicon(path: Path) -> dict[str, float]:
    """Read a lexicon in VADER's format: word TAB mean valence, further columns ignored.

    Words are taken in lower case; of a word that comes twice the later line counts.

    Raises:
        DataError: The file is missing, empty or not UTF-8, or lines of it are malformed (all are listed, up to 20).
    """
    if not path.is_file():
        raise DataError(f"gold.lexicon: {path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"gold.lexicon: {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    lexicon: dict[str, float] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, _, rest = line.partition("\t")
        valence = _parse_valence(rest.split("\t")[0])
        if not word.strip() or valence is None:
            problems.append(f"{path.name} line {number}: {line[:60]!r} is not word TAB number")
        else:
            lexicon[word.strip().lower()] = valence
    report_all(DataError, problems, f"{path}: {len(problems)} bad lines")
    if not lexicon:
        raise DataError(f"gold.lexicon: {path}: the file is empty; it must hold at least one word")
    return lexicon


def score_by_lexicon(lexicon: dict[str, float], response: str) -> float:
    """Return the sum of the valences of a response's different words (letters only, lower case).

    Each word counts once: plain valence sums grow with repetition, and a policy that repeats one cheerful word would
    look aligned.
    """
    return math.fsum(lexicon.get(word, 0.0) for word in set(_WORD.findall(response.lower())))


def _parse_valence(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _request(prompt: PromptText) -> str:
    """Return what is to be answered: of a conversation its last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1].content


def _score_by_world(prompt: PromptText, response: str) -> float:
    return gold_parts(_request(prompt), response).total


def _parts_of_world(prompt: PromptText, response: str) -> dict[str, float]:
    return asdict(gold_parts(_request(prompt), response))
