"""Scores by Python functions with the signature of TRL's reward functions.

    def polite(prompts, completions, completion_ids, **kwargs) -> list[float]

`prompts` and `completions` have the shape of the data set, as in TRL: two lists of texts, or, where a prompt is a
conversation, its list of role/content messages and the answer as a list of one such message. `completion_ids` are the
response's tokens, end token included. No further keywords are passed: a prompt has no other columns here.

Unlike TRL we refuse None: a sum that lacks a source for some responses would not rank them by the same measure.
"""

import importlib
import importlib.util
import inspect
import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from rlhf.errors import ConfigError, DataError, shown
from rlhf.records import PromptText, prompt_to_json, prompt_to_text

ScoreFunction = Callable[..., Any]


def source_file(reference: str) -> Path:
    """Return the file that `file.py:function` or `module:function` names; runs no code of it.

    Raises:
        ConfigError: There is no such file or module, or the module is not written in Python.
    """
    place = reference.rpartition(":")[0]
    if place.endswith(".py"):
        path = Path(place).expanduser()
        if not path.is_file():
            raise ConfigError(f"score function {reference}: {path}: no such file")
        return path
    origin = _module_file(place)
    if origin is None or not origin.endswith(".py"):
        raise ConfigError(
            f"score function {reference}: no module {place!r} written in Python is installed or on PYTHONPATH; "
            "or did you mean a file: path/to/file.py:function?"
        )
    return Path(origin)


def load_function(reference: str) -> ScoreFunction:
    """Import the file or module, and return the function.

    Raises:
        ConfigError: It does not load, or holds no such function.
    """
    path, (place, _, name) = source_file(reference), reference.rpartition(":")
    try:
        module = _run_file(path) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # the user's own code may raise anything
        raise ConfigError(f"score function {reference}: the file does not load: {_told(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"score function {reference}: {path} has no function {name!r}")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"score function {reference} is `async def`; write a plain `def`")
    return function


def call_function(
    function: ScoreFunction,
    reference: str,
    prompts: Sequence[PromptText],
    responses: Sequence[str],
    response_ids: Sequence[Sequence[int]],
) -> list[float]:
    """Return the function's score of each response.

    Raises:
        DataError: It raised, or did not return one finite number for each response; names the row.
    """
    rows = [
        (prompt_to_json(prompt), _completion(prompt, response), list(ids))
        for prompt, response, ids in zip(prompts, responses, response_ids, strict=True)
    ]

    def refuse(row: int, what: str) -> DataError:
        start = shown(prompt_to_text(prompts[row]))
        return DataError(f"score function {reference}, row {row} of {len(rows)} (prompt {start}): {what}")

    try:
        found = _call(function, rows)
    except Exception as error:
        row = _first_to_raise(function, rows)
        if row is None:
            raise DataError(f"score function {reference} on {len(rows)} rows: {_told(error)}") from error
        raise refuse(row, _told(error)) from error
    values: list[Any] = list(found) if isinstance(found, Iterable) and not isinstance(found, str | dict) else [found]
    if len(values) != len(rows) or not isinstance(found, Iterable):
        row = min(len(values), len(rows) - 1)
        raise refuse(row, f"it returned {shown(found)}, not a list of {len(rows)} numbers, one for each response")
    return [_number(value, lambda what, row=row: refuse(row, what)) for row, value in enumerate(values)]


def _number(value: Any, refuse: Callable[[str], DataError]) -> float:
    if value is None:
        raise refuse("it returned None; every response needs a number: return 0.0 where the function does not apply")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise refuse(f"it returned {shown(value)}, which is no number") from error
    if not math.isfinite(number):
        raise refuse(f"it returned {number}; every response needs a finite number")
    return number


def _call(function: ScoreFunction, rows: Sequence[tuple[Any, Any, list[int]]]) -> Any:
    prompts, completions, ids = (list(column) for column in zip(*rows, strict=True))
    return function(prompts=prompts, completions=completions, completion_ids=ids)


def _first_to_raise(function: ScoreFunction, rows: Sequence[tuple[Any, Any, list[int]]]) -> int | None:
    """Return the first row on which the function raises by itself; None where only a batch makes it raise."""
    for index, row in enumerate(rows):
        try:
            _call(function, [row])
        except Exception:  # noqa: BLE001 (the user's own code may raise anything)
            return index
    return None


def _completion(prompt: PromptText, response: str) -> str | list[dict[str, str]]:
    return response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]


def _told(error: Exception) -> str:
    """Return an error of the user's code with the line it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" ({Path(own[-1].filename).name} line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def _run_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"score_function_{path.stem}", path)
    assert spec is not None, f"{path} is no Python file"
    assert spec.loader is not None, f"{path} has no loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _module_file(name: str) -> str | None:
    """Return where a module is written, without importing the packages it lies in."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top) if top else None
    for depth in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join([top, *rest[: depth + 1]]), spec.submodule_search_locations)
    return None if spec is None else spec.origin
