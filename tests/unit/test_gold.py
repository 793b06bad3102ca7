"""Gold scorers: which one a configuration names, and the lexicon's arithmetic and errors."""

from pathlib import Path

import pytest

from rlhf.config.base import GoldConfig
from rlhf.errors import ConfigError, DataError
from rlhf.gold import load_gold, load_gold_parts, read_lexicon, score_by_lexicon
from rlhf.records import Message


def write_lexicon(folder: Path, text: str) -> Path:
    path = folder / "lexicon.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_scorer_gives_none() -> None:
    assert load_gold(GoldConfig()) is None
    assert load_gold_parts(GoldConfig()) is None


def test_world_scorer_judges_the_last_turn_of_a_conversation() -> None:
    scorer, parts = load_gold(GoldConfig(scorer="world")), load_gold_parts(GoldConfig(scorer="world"))
    assert scorer is not None
    assert parts is not None
    question, answer = "How long should I cook rice?", "You should cook rice for eighteen minutes."
    talk = (Message("user", "What do owls eat?"), Message("assistant", "Owls eat mice."), Message("user", question))
    # .3 x .8 relevant + .3 x 1 right + .2 x .4 neutral + .2 x 1 concise
    assert scorer(question, answer) == scorer(talk, answer) == pytest.approx(0.82)
    assert parts(talk, answer) == {"relevance": 0.8, "correctness": 1.0, "courtesy": 0.4, "concision": 1.0}


def test_lexicon_counts_each_word_once(tmp_path: Path) -> None:
    path = write_lexicon(tmp_path, "happy\t2.7\t0.9\t[3, 2]\nSad\t-2.1\ndon't\t-0.5\n:)\t2.0\n")
    scorer = load_gold(GoldConfig(scorer="lexicon", lexicon=path))
    assert scorer is not None
    assert scorer("prompt", "Happy, happy happy!") == pytest.approx(2.7)
    assert scorer("prompt", "A sad man is happy; don't ask.") == pytest.approx(2.7 - 2.1 - 0.5)
    assert scorer("sad", "") == 0.0
    assert load_gold_parts(GoldConfig(scorer="lexicon", lexicon=path)) is None


def test_lexicon_must_be_named() -> None:
    with pytest.raises(ConfigError, match="gold.lexicon is not set"):
        load_gold(GoldConfig(scorer="lexicon"))


def test_missing_and_empty_lexicons_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_lexicon(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="at least one word"):
        read_lexicon(write_lexicon(tmp_path, "\n\n"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\t1.0\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_lexicon(tmp_path / "latin.txt")


def test_every_malformed_line_is_named(tmp_path: Path) -> None:
    path = write_lexicon(tmp_path, "good\t1.9\nbad -2.5\nugly\tvery\n\t1.0\nodd\tnan\n")
    with pytest.raises(DataError) as caught:
        read_lexicon(path)
    message = str(caught.value)
    assert "4 bad lines" in message
    assert all(f"line {number}" in message for number in (2, 3, 4, 5))
    assert "line 1" not in message


def test_real_lexicon_tells_cheerful_from_gloomy(shared: Path) -> None:
    lexicon = read_lexicon(shared / "data" / "vader_lexicon" / "vader_lexicon.txt")
    assert len(lexicon) > 7000
    cheerful = score_by_lexicon(lexicon, "They laughed and were happy and loved the beautiful day.")
    assert cheerful > 5 > -5 > score_by_lexicon(lexicon, "They cried, hated the terrible war and died.")
