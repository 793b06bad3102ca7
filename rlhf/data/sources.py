"""Rows from wherever they are: JSONL, JSON, CSV, TXT and Parquet files, folders of them, data sets on the hub.

A row is a JSON object or a text. What it means is decided in `rlhf.data.formats`.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rlhf.errors import DataError, ResourceError
from rlhf.jsonl import NUL_PROBLEM, holds_nul, parse_json

HUB_PREFIX = "hub:"
DEFAULT_HUB_SPLIT = "train"


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its place (`stories.jsonl line 7`); where it cannot be read, `problem` says why."""

    place: str
    value: Any = None
    problem: str = ""


def read_source(source: str, *, paragraphs: bool = False) -> Iterator[Row]:
    """Yield the rows of a file, of all files below a folder, or of a hub data set (`hub:NAME[:SPLIT]`).

    Args:
        source: A path, or `hub:` and a name.
        paragraphs: Read text files by paragraph, their lines joined, instead of by line.

    Raises:
        DataError: The source is missing, holds no row, or is of no known kind.
        ResourceError: A library that reads this kind is not installed.
    """
    rows = _hub_rows(source) if source.startswith(HUB_PREFIX) else _path_rows(Path(source), paragraphs)
    found = False
    for row in rows:
        found = True
        yield Row(row.place, problem=NUL_PROBLEM) if holds_nul(row.value) else row
    if not found:
        raise DataError(f"{source}: no rows; it must hold at least one")


def _path_rows(path: Path, paragraphs: bool) -> Iterator[Row]:
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file) in _READERS]
        if not files:
            raise DataError(f"{path}: the folder holds no {_known_kinds()} file")
    elif path.is_file():
        files = [path]
    else:
        raise DataError(f"{path}: no such file or folder")
    for file in files:
        yield from _file_rows(file, paragraphs)


def _file_rows(path: Path, paragraphs: bool) -> Iterator[Row]:
    kind = _kind(path)
    if kind not in _READERS:
        raise DataError(f"{path}: files of type {path.suffix or 'none'!r} are not read; use {_known_kinds()}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it must hold at least one row")
    reader = _paragraph_rows if kind == ".txt" and paragraphs else _READERS[kind]
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} line {_undecodable_line(path)}: not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error})") from error


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return name[name.rfind(".") :] if "." in name else ""


def _known_kinds() -> str:
    return ", ".join(sorted(_READERS))


def _open_text(path: Path) -> TextIO:
    # utf-8-sig drops the byte-order mark that spreadsheet programs write.
    if path.suffix.lower() == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _undecodable_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8; the decoder knows its place in a buffer only."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse_json_line(f"{path.name} line {number}", line)


def _parse_json_line(place: str, line: str) -> Row:
    try:
        return Row(place, parse_json(line.strip()))
    except DataError as error:
        return Row(place, problem=str(error))


def _json_rows(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        text = file.read()
    try:
        value = parse_json(text)
    except DataError as error:
        raise DataError(f"{path.name}: {error}; one object per line belongs into a .jsonl file") from error
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of objects, found {type(value).__name__}")
    for number, item in enumerate(value, start=1):
        yield Row(f"{path.name} item {number}", item)


def _csv_rows(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        # The csv module refuses cells over 128 KiB by default; long texts are ordinary here.
        csv.field_size_limit(1 << 30)
        reader = csv.reader(file, delimiter="\t" if _kind(path) == ".tsv" else ",", strict=True)
        line = 1
        try:
            header = next(reader, [])
            _refuse_repeats(header, path)
            line = reader.line_num + 1
            for cells in reader:
                # A cell may hold line breaks: a row is where it begins.
                place, line = f"{path.name} line {line}", reader.line_num + 1
                if cells and len(cells) != len(header):
                    yield Row(place, problem=f"the header names {len(header)} columns, this row has {len(cells)}")
                elif cells:
                    yield Row(place, {name: _cell(text) for name, text in zip(header, cells, strict=True)})
        except csv.Error as error:
            raise DataError(f"{path.name} line {line}: not CSV ({error})") from error


def _refuse_repeats(header: list[str], path: Path) -> None:
    # Half of the row would be lost.
    for place, name in enumerate(header):
        if name in header[:place]:
            raise DataError(f"{path.name} line 1: the header names {name!r} twice; rename one of the columns")


def _cell(text: str) -> Any:
    """Return a conversation where a cell holds one as JSON; every other cell is text."""
    if not text.lstrip().startswith("[{"):
        return text
    try:
        turns = parse_json(text)
    except DataError:
        return text
    is_conversation = all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns)
    return turns if is_conversation else text


def _line_rows(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield Row(f"{path.name} line {number}", line.strip())


def _paragraph_rows(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        lines: list[str] = []
        for number, line in enumerate(file, start=1):
            if line.strip():
                lines.append(line.strip())
            elif lines:
                yield Row(f"{path.name} line {number - len(lines)}", " ".join(lines))
                lines = []
        if lines:
            yield Row(f"{path.name} last paragraph", " ".join(lines))


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ResourceError(f"{path}: Parquet files need pyarrow; pip install 'rlhf-adapters[train]'") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for item in batch.to_pylist():
                    number += 1
                    yield Row(f"{path.name} row {number}", item)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({error})") from error
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = _first_line(error)
        raise DataError(f"{path}: damaged Parquet file ({reason}); make or fetch it again") from error


def _hub_rows(source: str) -> Iterator[Row]:
    name, _, split = source.removeprefix(HUB_PREFIX).partition(":")
    if not name:
        raise DataError(f"{source!r} names no data set; write hub:NAME or hub:NAME:SPLIT")
    try:
        import datasets
    except ImportError as error:
        raise ResourceError(f"{source}: hub data sets need datasets; pip install 'rlhf-adapters[train]'") from error
    try:
        rows = datasets.load_dataset(name, split=split or DEFAULT_HUB_SPLIT)
    except (OSError, ValueError) as error:
        reason = _first_line(error)
        raise DataError(f"{source}: cannot be loaded ({reason}); check name, split, network and access") from error
    for number, item in enumerate(rows, start=1):
        yield Row(f"{source} row {number}", item)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".txt": _line_rows,
    ".parquet": _parquet_rows,
}
