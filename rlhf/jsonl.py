"""JSON from outside, one value per line or one text: whatever cannot be read is one message with its place."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.errors import DataError


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
        DataError: It is not JSON, is nested too deeply, or holds a number or a character that nothing else can hold.
    """
    try:
        value = json.loads(text)
        if "\\u" in text:
            # Only an escape can bring half of a surrogate pair into a file that is valid UTF-8.
            json.dumps(value, ensure_ascii=False).encode()
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
    return value
