"""Reading rows: every kind of file gives the same rows, and every bad file one clear error."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from rlhf.data.sources import read_source
from rlhf.errors import DataError

ROWS = [{"prompt": "Why is the sky blue?", "response": "It scatters."}, {"prompt": 'Say: ä,\n"ö"', "response": "ü"}]


def values(source: Path | str, **how: bool) -> list[object]:
    return [row.value for row in read_source(str(source), **how)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_jsonl_rows_have_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f"{json.dumps(ROWS[0])}\n\n{json.dumps(ROWS[1])}\n")
    assert [(row.place, row.value) for row in read_source(str(path))] == [
        ("a.jsonl line 1", ROWS[0]),
        ("a.jsonl line 3", ROWS[1]),
    ]


def test_gzipped_jsonl_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in ROWS).encode()))
    assert values(path) == ROWS


@pytest.mark.parametrize("wrapped", [ROWS, {"data": ROWS}])
def test_json_list_is_read(tmp_path: Path, wrapped: object) -> None:
    assert values(write(tmp_path / "a.json", json.dumps(wrapped))) == ROWS


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables_are_read_with_byte_order_mark_and_long_cells(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [*ROWS, {"prompt": "x" * 200_000, "response": "long"}]
    with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "response"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    assert values(tmp_path / name) == rows


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == ROWS


def test_damaged_parquet_is_one_clear_error(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": f"What is {n}?"} for n in range(1000)]), path)
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * 50 + content[150:])
    with pytest.raises(DataError, match="damaged Parquet file"):
        values(path)


def test_text_is_read_by_line_or_by_paragraph(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\ntwo\n\n\nthree\n")
    assert values(path) == ["one", "two", "three"]
    assert [(row.place, row.value) for row in read_source(str(path), paragraphs=True)] == [
        ("a.txt line 1", "one two"),
        ("a.txt last paragraph", "three"),
    ]


def test_folder_is_read_in_name_order_without_other_files(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a.txt", "first")
    write(tmp_path / "README.md", "not data")
    assert values(tmp_path) == ["first", "second"]


def test_hub_name_reaches_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", "\n".join(json.dumps(row) for row in ROWS))
    assert values(f"hub:{tmp_path / 'set'}") == ROWS


def test_broken_lines_are_rows_with_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"prompt": "x"}\n{"prompt": \n{"prompt": "y"}\n')
    problems = [(row.place, row.problem) for row in read_source(str(path)) if row.problem]
    assert len(problems) == 1
    assert problems[0][0] == "a.jsonl line 2"
    assert problems[0][1].startswith("not JSON")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1" * 5000, "a whole number has thousands of digits; correct it"),
        ("[" * 200_000, "lists or objects are nested too deeply; flatten them"),
        (r'{"prompt": "x\ud800"}', r"the escape '\ud800' is half of a surrogate pair; write the whole character"),
    ],
    ids=["digits", "depth", "surrogate"],
)
def test_json_that_nothing_can_hold_is_a_row_with_a_problem(tmp_path: Path, line: str, problem: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"prompt": "\\ud83d\\ude00"}}\n{line}\n')
    assert [(row.value, row.problem) for row in read_source(str(path))] == [({"prompt": "😀"}, ""), (None, problem)]


def test_table_row_with_another_number_of_columns_is_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt,response\na,b\nc\nd,e,f\n")
    assert [row.place for row in read_source(str(path)) if row.problem] == ["a.csv line 3", "a.csv line 4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("a.jsonl", b'{"prompt": "\xff"}', "not UTF-8 text"),
        ("a.json", b'{"prompt": "x"}\n{"prompt": "y"}', r"belongs into a \.jsonl file"),
        ("a.json", b'{"prompt": "x"}', "expected a list of objects, found dict"),
        ("a.csv", b'prompt\n"open', "not CSV"),
        ("a.jsonl.gz", b"no gzip", "damaged gzip file"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, "damaged gzip file"),
        ("a.json", b"[" * 200_000, "nested too deeply"),
        ("a.json", b"[" + b"1" * 5000 + b"]", "thousands of digits"),
        ("a.parquet", b"no parquet", "not a Parquet file"),
        ("a.docx", b"x", r"files of type '\.docx' are not read; use \.csv, \.json, "),
    ],
)
def test_bad_file_gives_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        values(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jsonl", "no such file or folder"),
        ("hub:", "names no data set"),
        ("hub:nobody/no-such-set", "cannot be loaded"),
    ],
)
def test_absent_source_gives_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        values(source)


def test_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder holds no"):
        values(tmp_path)
