"""The talk with both policies: one base, two roles, and a terminal that model output cannot steer."""

import io
import math

import pytest
from rich.console import Console

from rlhf.chat import Answer, answer_both, chat_with_run, converse, side_by_side
from rlhf.errors import ArtifactError, ConfigError, DataError, printable
from tests.tiny import shake, tiny_base, tiny_shared


def console(typed: str = "") -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    made = Console(file=out, width=80, force_terminal=False)
    lines = iter(typed.splitlines())

    def read(*_: object, **__: object) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    made.input = read
    return made, out


def test_equal_policies_give_equal_answers_and_a_moved_one_another(tmp_path):
    shared, text = tiny_shared(tmp_path), tiny_base(tmp_path).text
    settings = {"temperature": 1.0, "seed": 5, "max_new_tokens": 12}
    same = answer_both(shared, text, "the cat", **settings)
    assert same["reference"] == same["policy"]
    shake(shared, "policy", std=0.5)
    moved = answer_both(shared, text, "the cat", **settings)
    assert moved["reference"] == same["reference"]
    assert moved["policy"] != same["policy"]


def test_markup_and_control_characters_of_a_model_are_harmless():
    assert printable("a\x1b[2Jb\x07\nc\u202e") == "a[2Jb\nc"
    made, out = console()
    made.print(side_by_side({"reference": Answer("[bold]x[/]", 3, True), "policy": Answer("", 1, False)}))
    assert "[bold]x[/]" in out.getvalue()
    assert "(empty)" in out.getvalue()
    assert "1 tokens, cut off" in out.getvalue()


def test_a_talk_goes_on_after_a_prompt_that_is_too_long_and_ends_at_an_empty_line():
    asked = []

    def answer(prompt, number):
        asked.append((prompt, number))
        if prompt == "long":
            raise DataError("prompt has too many tokens")
        return {"reference": Answer("one", 1, True), "policy": Answer("two", 1, True)}

    made, out = console("long\nshort\n\nnever\n")
    converse(answer, None, made)
    assert asked == [("long", 0), ("short", 1)]
    assert "too many tokens" in out.getvalue()
    assert "two" in out.getvalue()


def test_what_cannot_work_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(DataError, match="empty"):
        chat_with_run(tmp_path, "  ")
    with pytest.raises(ArtifactError, match="ppo"):
        chat_with_run(tmp_path, "hello")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        *(({"temperature": value}, "give 0") for value in (-1, math.nan, math.inf, 1e-320, 9e-4)),
        *(({"seed": value}, "whole number from 0 to 2147483647") for value in (-1, 2**31, 10**26)),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, says):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"--{name} is .*; give .*") as error:
        chat_with_run(tmp_path, "hello", **settings)
    assert says in str(error.value)


def test_bytes_that_are_no_text_are_one_message_and_the_talk_goes_on(tmp_path):
    shared, text = tiny_shared(tmp_path), tiny_base(tmp_path).text
    made, out = console("hi\udcff\nhi <|end|>\nthe cat\n")
    settings = {"temperature": 1.0, "seed": 5, "max_new_tokens": 4}
    converse(lambda prompt, _: answer_both(shared, text, prompt, **settings), None, made)
    assert "is not valid UTF-8" in out.getvalue()
    assert "spells '<|end|>'" in out.getvalue()
    assert "aligned" in out.getvalue()
    with pytest.raises(DataError, match="not valid UTF-8"):
        answer_both(shared, text, "\udcff\udcfe", **settings)


def test_input_that_cannot_be_decoded_ends_the_talk_with_one_message(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hi\xff\n"), encoding="utf-8"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        converse(lambda *_: {}, None, Console(file=io.StringIO()))
