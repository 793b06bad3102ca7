"""JSON from outside, one value per line or one text: whatever cannot be read is one message with its place."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from rlhf.errors import DataError, shown

NUL_PROBLEM = "a text holds a NUL character, which databases refuse; remove it, and save a UTF-16 file as UTF-8"


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, parsed JSON) of a JSONL file.

    Raises:
        DataError: The file is missing or empty, is not UTF-8, or a line is not JSON.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    lines = 0
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                lines += 1
                yield number, _parse_line(path, number, line)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not lines:
        raise DataError(f"{path}: the file is empty; it must hold at least one record")


def _parse_line(path: Path, number: int, line: str) -> Any:
    try:
        return parse_json(line.strip())
    except DataError as error:
        raise DataError(f"{path.name} line {number}: {error}") from error


def parse_json(text: str) -> Any:
    """Parse JSON from outside.

    Raises:
        DataError: It is not JSON, names a key of an object twice, is nested too deeply, or holds a number or a character
            that nothing else can hold.
    """
    if "\0" in text:
        raise DataError(NUL_PROBLEM)
    try:
        value = json.loads(text, object_pairs_hook=_object)
        if "\\u" in text:
            # Only an escape can bring half of a surrogate pair into a file that is valid UTF-8.
            json.dumps(value, ensure_ascii=False).encode()
    except DataError:
        raise
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        raise DataError(f"not JSON ({error.msg} at {line}column {error.colno})") from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise DataError(f"the escape {half} is half of a surrogate pair; write the whole character") from error
    except RecursionError as error:
        raise DataError("lists or objects are nested too deeply; flatten them") from error
    except ValueError as error:
        raise DataError("a whole number has thousands of digits; correct it") from error
    if "\\u0000" in text and holds_nul(value):
        raise DataError(NUL_PROBLEM)
    return value


def holds_nul(value: Any) -> bool:
    """Tell whether a text anywhere in a JSON value holds the character NUL."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(holds_nul(item) for item in cast(dict[Any, Any], value).values())
    return isinstance(value, list) and any(holds_nul(item) for item in cast(list[Any], value))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # The json module keeps the last of equal keys and says nothing: half of such a row would be lost.
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise DataError(f"the key {shown(twice)} stands twice in one object; keep one")
    return found
