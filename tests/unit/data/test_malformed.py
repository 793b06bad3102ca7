"""Malformed files of preferences: each is refused with one message that says what is wrong, where, and what to do."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.judgements import import_pairs
from rlhf.data.rankings import import_candidates, import_rankings
from rlhf.errors import DataError
from rlhf.records import CandidateSet

ASK = {"role": "user", "content": "Hi?"}
REPLY = {"role": "assistant", "content": "Hello."}
PAIR = {"prompt": "Hi?", "chosen": "A", "rejected": "B"}
SET = {"prompt": "Hi?", "responses": ["a", "b", "c"]}
RANKED = {"prompt_id": "p-1", "annotator": "m"}
KNOWN = CandidateSet("p-1", "Hi?", ("a", "b", "c"))
LIMITS = "-1,000,000 to 1,000,000"
NUL = "a text holds a NUL character, which databases refuse; remove it, and save a UTF-16 file as UTF-8"
WHOLE = "give a list of whole numbers, 1 is best"
FITS = "prompt p-1 has candidates 0-2; fix the label or drop the line"


def import_known_rankings(path: Path) -> object:
    return import_rankings(path, [KNOWN])


def lines(*rows: object) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def said(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(DataError) as error:
        read(path)
    return str(error.value).replace(f"{path.parent}/", "")


# A row of a pair file, and what is said of it.
PAIRS: list[tuple[str, Any, str]] = [
    ("no rejected", {"prompt": "Hi?", "chosen": "A"}, "no field 'rejected'; the row has prompt, chosen"),
    ("no prompt", {"chosen": "A", "rejected": "B"}, "no prompt field, and chosen and rejected do not begin alike"),
    ("list", [PAIR], "expected a JSON object, found list"),
    ("null", None, "expected a JSON object, found NoneType"),
    ("number as prompt", {**PAIR, "prompt": 5}, "prompt is 5; give a text or a list of messages"),
    ("number as side", {**PAIR, "chosen": 5}, "chosen is 5; give a text or a list of messages"),
    ("null side", {**PAIR, "chosen": None}, "chosen is None; give a text or a list of messages"),
    (
        "text and messages",
        {**PAIR, "chosen": [REPLY]},
        "chosen and rejected are of different kinds; give two texts or two message lists",
    ),
    (
        "unknown role",
        {"prompt": [{"role": "tool", "content": "x"}], "chosen": [REPLY], "rejected": [{**REPLY, "content": "No."}]},
        "message role is 'tool'; use one of system, user, assistant",
    ),
    (
        "image",
        {**PAIR, "prompt": [{"role": "user", "content": [{"type": "image"}]}]},
        "prompt holds {'type': 'image'}; only text can be used",
    ),
    (
        "sides of the user",
        {"prompt": "Hi?", "chosen": [ASK], "rejected": [{**ASK, "content": "Ho?"}]},
        "chosen is a turn of the user; a response is the assistant's",
    ),
    (
        "transcript with its answer",
        {**PAIR, "prompt": "Human: Hi?\n\nAssistant: Hello."},
        "prompt ends with the assistant's turn; the responses belong into their own fields",
    ),
    ("NaN", {**PAIR, "margin": float("nan")}, f"margin is nan; give a number from {LIMITS}"),
    ("infinite weight", {**PAIR, "weight": float("inf")}, "weight is inf; give a positive number, at most 1,000,000"),
    ("margin in words", {**PAIR, "margin": "big"}, f"margin is 'big'; give a number from {LIMITS}"),
    ("truth as votes", {**PAIR, "votes": True}, "votes is True; give a whole number from 1 to 1,000,000"),
    (
        "ties above 1",
        {**PAIR, "ties": 1.5},
        "ties is 1.5; give the share of votes that are ties, from 0 to 1",
    ),
    (
        "one score",
        {**PAIR, "chosen_score": 4},
        f"rejected_score is None; give both scores, numbers from {LIMITS}, or neither",
    ),
    (
        "infinite score",
        {**PAIR, "score_chosen": float("-inf"), "score_rejected": 1},
        f"score_chosen is -inf; give both scores, numbers from {LIMITS}, or neither",
    ),
    (
        "score in words",
        {**PAIR, "chosen_rating": "good", "rejected_rating": "bad"},
        f"chosen_rating is 'good'; give both scores, numbers from {LIMITS}, or neither",
    ),
    ("empty id", {**PAIR, "prompt_id": " "}, "prompt_id is ' '; give text"),
    ("truth as id", {**PAIR, "prompt_id": True}, "prompt_id is True; give text"),
    (
        "key twice",
        '{"prompt": "Hi?", "chosen": "A", "chosen": "C", "rejected": "B"}',
        "the key 'chosen' stands twice in one object; keep one",
    ),
    (
        "key twice inside",
        '{"prompt": [{"role": "user", "content": "x", "role": "system"}], "chosen": "A", "rejected": "B"}',
        "the key 'role' stands twice in one object; keep one",
    ),
    ("escaped NUL", {**PAIR, "chosen": "A\0"}, NUL),
    ("raw NUL", '{"prompt": "Hi?\0", "chosen": "A", "rejected": "B"}', NUL),
    ("raw tabulator", '{"prompt": "a\tb"}', "not JSON (Invalid control character at at column 14)"),
    ("cut off", '{"prompt": "Hi?", ', "not JSON (Expecting property name enclosed in double quotes at column 18)"),
    ("two in a line", f"{json.dumps(PAIR)} {json.dumps(PAIR)}", "not JSON (Extra data at column 51)"),
    ("single quotes", str(PAIR), "not JSON (Expecting property name enclosed in double quotes at column 2)"),
]
SETS: list[tuple[str, Any, str]] = [
    ("one candidate", {"prompt": "Hi?", "responses": ["a"]}, "1 candidates; a set holds 2 to 16"),
    (
        "too many",
        {"prompt": "Hi?", "responses": [str(number) for number in range(17)]},
        "17 candidates; a set holds 2 to 16",
    ),
    (
        "no candidates",
        {"prompt": "Hi?"},
        "no candidates; give a list of texts in one of responses, completions, candidates, outputs",
    ),
    ("text for a list", {**SET, "responses": "abc"}, "responses is no list of texts"),
    ("number among texts", {**SET, "responses": ["a", 2]}, "responses is no list of texts"),
    ("empty prompt", {**SET, "prompt": "\n"}, "empty prompt"),
    ("too few sources", {**SET, "sources": ["x"]}, "1 sources for 3 candidates"),
    ("empty turn", {"messages": [{**ASK, "content": ""}], "responses": ["a", "b"]}, "conversation with an empty turn"),
    (
        "prompt that ends with the assistant",
        {"messages": [ASK, REPLY], "responses": ["a", "b"]},
        "messages ends with the assistant's turn; the responses belong into their own fields",
    ),
]
RANKINGS: list[tuple[str, Any, str]] = [
    ("skip", {**RANKED, "ranks": [1, 3, 4]}, "ranks are [1, 3, 4]; use 1..m without gaps (ties share a rank)"),
    ("from zero", {**RANKED, "ranks": [0, 1, 2]}, "ranks are [0, 1, 2]; use 1..m without gaps (ties share a rank)"),
    ("tie at the wrong place", {**RANKED, "ranks": [2, 2, 4]}, "ranks are [2, 2, 4]; use 1..m without gaps (ties share a rank)"),
    ("too few ranks", {**RANKED, "ranks": [1, 2]}, f"ranking has 2 ranks, {FITS}"),
    ("too many ranks", {**RANKED, "ranks": [1, 2, 3, 4]}, f"ranking has 4 ranks, {FITS}"),
    ("fraction", {**RANKED, "ranks": [1, 1.5, 2]}, f"ranks are [1, 1.5, 2]; {WHOLE}"),
    ("truth as rank", {**RANKED, "ranks": [True, 2, 3]}, f"ranks are [True, 2, 3]; {WHOLE}"),
    ("null rank", {**RANKED, "ranks": [1, None, 2]}, f"ranks are [1, None, 2]; {WHOLE}"),
    ("no ranks", RANKED, f"ranks are None; {WHOLE}"),
    ("unknown candidate", {**RANKED, "order": [0, 1, 5]}, f"ranking names candidate 5, {FITS}"),
    ("candidate twice", {**RANKED, "order": [0, 1, 1]}, "order is [0, 1, 1]; name each of the candidates 0-2 of p-1 once"),
    (
        "NaN score",
        {**RANKED, "scores": [1, float("nan"), 2]},
        "scores are [1, nan, 2]; give a list of numbers, one per candidate, higher is better",
    ),
    ("too few scores", {**RANKED, "scores": [1, 2]}, f"ranking has 2 ranks, {FITS}"),
    (
        "unknown prompt",
        {"prompt_id": "p-9", "ranks": [1, 2, 3]},
        "ranking is for prompt 'p-9', which has no candidates; import its candidates too or drop the line",
    ),
    (
        "other candidates",
        {**RANKED, "responses": ["a", "b", "x"], "ranks": [1, 2, 3]},
        "the candidates beside the ranks are not those of prompt p-1",
    ),
    (
        "strengths of merged ranks",
        {**RANKED, "responses": ["a", "b", "c", "c"], "ranks": [1, 2, 3, 4], "strengths": [1, 1, 1]},
        "strengths with empty or repeated candidates, whose ranks are merged; drop one of the two",
    ),
    ("annotations of no kind", {"prompt_id": "p-1", "annotations": {}}, "annotations is no list; give objects with annotator and ranks"),
    ("annotation of no kind", {"prompt_id": "p-1", "annotations": [[1, 2, 3]]}, "expected a JSON object, found list"),
    (
        "one annotator twice in a row",
        {"prompt_id": "p-1", "annotations": [{"annotator": "m", "ranks": [1, 2, 3]}] * 2},
        "'m' ranked p-1 already in x.jsonl line 1; keep one",
    ),
]  # fmt: skip
ROWS = [
    *((import_pairs, *case) for case in PAIRS),
    *((import_candidates, *case) for case in SETS),
    *((import_known_rankings, *case) for case in RANKINGS),
]
# A file of pairs, and all that is said of it.
FILES: list[tuple[str, bytes, str]] = [
    ("x.jsonl", b"", "x.jsonl: the file is empty; it must hold at least one row"),
    ("x.jsonl", b"\xef\xbb\xbf", "x.jsonl: no rows; it must hold at least one"),
    ("x.jsonl", b" \n\n", "x.jsonl: no rows; it must hold at least one"),
    ("x.csv", b"prompt,chosen,rejected\n", "x.csv: no rows; it must hold at least one"),
    (
        "x.jsonl",
        lines(PAIR) + b'{"prompt": "caf\xe9"}\n',
        "x.jsonl line 2: not UTF-8 text (invalid continuation byte); save it as UTF-8",
    ),
    (
        "x.jsonl.gz",
        gzip.compress(lines(PAIR) * 999 + b'{"prompt": "\xe9"}\n'),
        "x.jsonl.gz line 1000: not UTF-8 text (invalid continuation byte); save it as UTF-8",
    ),
    (
        "x.csv",
        "prompt,chosen,rejected\nHi?,A,B\n".encode("utf-16"),
        "x.csv line 1: not UTF-8 text (invalid start byte); save it as UTF-8",
    ),
    ("x.csv", b"prompt,chosen,rejected\nHi?,A,B\0\n", f"x.csv: 1 bad row\n  x.csv line 2: {NUL}"),
    (
        "x.csv",
        b"prompt,chosen,chosen\nHi?,A,B\n",
        "x.csv line 1: the header names 'chosen' twice; rename one of the columns",
    ),
    (
        "x.csv",
        b'prompt,chosen,rejected\nHi?,A\n\n"Hi,\nyou?",A,B,C\n"Ho\n?",A,B\nHi?,A\n',
        "x.csv: 3 bad rows\n"
        "  x.csv line 2: the header names 3 columns, this row has 2\n"
        "  x.csv line 4: the header names 3 columns, this row has 4\n"
        "  x.csv line 8: the header names 3 columns, this row has 2",
    ),
    ("x.csv", b'prompt,chosen,rejected\nHi?,"A,B\n', "x.csv line 2: not CSV (unexpected end of data)"),
    (
        "x.csv",
        b"prompt;chosen;rejected\nHi?;A;B\n",
        "x.csv: 1 bad row\n  x.csv line 2: no field 'chosen'; the row has prompt;chosen;rejected",
    ),
    (
        "x.tsv",
        b"prompt\tchosen\trejected\tmargin\nHi?\tA\tB\t1,5\n",
        f"x.tsv: 1 bad row\n  x.tsv line 2: margin is '1,5'; give a number from {LIMITS}",
    ),
    ("x.json", lines(PAIR), "x.json: expected a list of objects, found dict"),
    ("x.json", lines(PAIR) + b",", "x.json: not JSON (Extra data at line 2 column 1); one object per line belongs into a .jsonl file"),
    ("x.txt", b"Hi?\n", "x.txt: 1 bad row\n  x.txt line 1: expected a JSON object, found str"),
    ("x.xlsx", b"PK", "x.xlsx: files of type '.xlsx' are not read; use .csv, .json, .jsonl, .ndjson, .parquet, .tsv, .txt"),
    (
        "x.jsonl",
        lines({**PAIR, "rejected": " "}, {**PAIR, "chosen": "B"}),
        "x.jsonl: no pair is left: 1 empty rejected response, 1 chosen and rejected are the same\n"
        "  first: x.jsonl line 1: empty rejected response",
    ),
    (
        "x.jsonl",
        lines(*[5] * 22),
        "x.jsonl: 22 bad rows\n"
        + "".join(f"  x.jsonl line {line}: expected a JSON object, found int\n" for line in range(1, 21))
        + "  ... and 2 more",
    ),
]  # fmt: skip


def test_there_are_enough_of_them() -> None:
    names = [case[1] for case in ROWS]
    assert len(names) == len(set(names))
    assert len(ROWS) + len(FILES) >= 40


@pytest.mark.parametrize(("read", "name", "row", "says"), ROWS, ids=[case[1].replace(" ", "-") for case in ROWS])
def test_malformed_row_is_named_with_its_line(
    tmp_path: Path, read: Callable[[Path], object], name: str, row: object, says: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(row))
    assert said(read, path) == f"x.jsonl: 1 bad row\n  x.jsonl line 1: {says}"


@pytest.mark.parametrize(("name", "content", "says"), FILES)
def test_malformed_file_is_one_message(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said(import_pairs, path) == says


def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    for name, content in (("x.jsonl", lines(PAIR)), ("x.csv", b"prompt,chosen,rejected\r\nHi?,A,B\r\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        (pair,) = import_pairs(tmp_path / name).records
        assert (pair.prompt, pair.chosen, pair.rejected) == ("Hi?", "A", "B")
