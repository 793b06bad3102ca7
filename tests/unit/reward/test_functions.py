"""Python functions as sources of scores: what they are given, and one message for each way to be wrong."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import ConfigError, DataError
from rlhf.records import Message, PromptText
from rlhf.reward.functions import call_function, load_function, source_file

PROMPTS: list[PromptText] = ["the cat", (Message("system", "be kind"), Message("user", "the dog"))]
RESPONSES, IDS = [" sat", " ran off"], [[5, 6, 0], [7, 8]]


def score(function: Callable[..., Any]) -> list[float]:
    return call_function(function, "rules.py:f", PROMPTS, RESPONSES, IDS)


def test_a_function_is_called_as_trl_calls_it() -> None:
    seen: dict[str, Any] = {}

    def f(prompts: Any, completions: Any, completion_ids: Any, **kwargs: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, completion_ids=completion_ids, **kwargs)
        return [1, 2.5]

    assert score(f) == [1.0, 2.5]
    assert seen == {
        "prompts": ["the cat", [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the dog"}]],
        "completions": [" sat", [{"role": "assistant", "content": " ran off"}]],
        "completion_ids": [[5, 6, 0], [7, 8]],
    }


def raises_on_the_second(prompts: list[Any], **kwargs: Any) -> list[float]:
    if not isinstance(prompts[-1], str):
        raise KeyError("tone")
    return [0.0] * len(prompts)


def raises_on_two(prompts: list[Any], **kwargs: Any) -> list[float]:
    if len(prompts) > 1:
        raise ValueError("only one at a time")
    return [0.0]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda **_: [1.0], "row 1 of 2 (prompt 'system: be kind\\nuser: the dog'): it returned [1.0], not a list of 2"),
        (lambda **_: [1.0, 2.0, 3.0], "row 1 of 2"),
        (lambda **_: 1.0, "row 1 of 2"),
        (lambda **_: None, "it returned None, not a list of 2 numbers"),
        (lambda **_: "ab", "it returned 'ab', not a list of 2 numbers"),
        (lambda **_: [None, 1.0], "row 0 of 2 (prompt 'the cat'): it returned None; every response needs a number"),
        (lambda **_: [1.0, float("nan")], "row 1 of 2 (prompt 'system: be kind\\nuser: the dog'): it returned nan"),
        (lambda **_: [1.0, float("inf")], "it returned inf; every response needs a finite number"),
        (lambda **_: [1.0, "high"], "row 1 of 2 (prompt 'system: be kind\\nuser: the dog'): it returned 'high', which"),
        (raises_on_the_second, "row 1 of 2 (prompt 'system: be kind\\nuser: the dog'): KeyError: 'tone' (test_functions"),
        (raises_on_two, "score function rules.py:f on 2 rows: ValueError: only one at a time (test_functions.py line"),
        (lambda prompts: [1.0, 2.0], "row 0 of 2 (prompt 'the cat'): TypeError"),
    ],
    ids=[
        "short", "long", "number", "none", "text", "None", "NaN", "inf", "word", "raises", "batch", "signature",
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_function_and_row(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(DataError) as error:
        score(function)
    assert str(error.value).startswith("score function rules.py:f")
    assert says in str(error.value)


def test_a_file_and_a_module_are_found_without_running_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "polite_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "rules.py").write_text("def f(**_):\n    return [1.0, 2.0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert source_file(f"{package}/rules.py:f") == package / "rules.py"
    assert source_file("polite_package.rules:f") == package / "rules.py"
    assert "polite_package" not in sys.modules
    assert score(load_function(f"{package}/rules.py:f")) == [1.0, 2.0]
    with pytest.raises(ConfigError, match=r"does not load: RuntimeError: imported \(__init__.py line 1\)"):
        load_function("polite_package.rules:f")
    (package / "__init__.py").write_text("")
    assert score(load_function("polite_package.rules:f")) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (None, "f", "no such file"),
        ("def f(:\n", "f", "does not load: SyntaxError"),
        ("import nowhere_at_all\n", "f", r"ModuleNotFoundError: No module named 'nowhere_at_all' \(rules.py line 1\)"),
        ("def g(): ...\n", "f", "has no function 'f'"),
        ("f = 3\n", "f", "has no function 'f'"),
        ("async def f(**_): ...\n", "f", "write a plain `def`"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_told(tmp_path: Path, content: str | None, name: str, says: str) -> None:
    if content is not None:
        (tmp_path / "rules.py").write_text(content)
    with pytest.raises(ConfigError, match=says):
        load_function(f"{tmp_path}/rules.py:{name}")


@pytest.mark.parametrize(
    "reference", ["nowhere_at_all:f", "json.nowhere:f", "json.decoder.deeper:f", "_struct:f", ".:f"]
)
def test_a_module_that_is_not_there_is_told(reference: str) -> None:
    with pytest.raises(ConfigError, match="no module"):
        source_file(reference)
