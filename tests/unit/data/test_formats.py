"""What a row means: the forms of prompts, demonstrations and pairs that people use."""

from typing import Any

import pytest

from rlhf.data.formats import UnusableRow, parse_transcript, read_example, read_pair
from rlhf.errors import DataError
from rlhf.records import Message

ASK = {"role": "user", "content": "Hi?"}
REPLY = {"role": "assistant", "content": "Hello."}
HI = (Message("user", "Hi?"),)
LONG = (Message("user", "Hi?"), Message("assistant", "Hello."), Message("user", "More"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("Hi?", ("Hi?", None)),
        ({"prompt": "Hi?"}, ("Hi?", None)),
        ({"prompt": "Hi?", "completion": "Hello."}, ("Hi?", "Hello.")),
        ({"question": "Hi?", "answer": "Hello."}, ("Hi?", "Hello.")),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, ("Add.\n\n1 2", "3")),
        ({"instruction": "Greet.", "input": "", "output": "Hello."}, ("Greet.", "Hello.")),
        ({"input": "Hi?", "output": "Hello."}, ("Hi?", "Hello.")),
        ({"messages": [ASK]}, (HI, None)),
        ({"messages": [ASK, REPLY]}, (HI, "Hello.")),
        ({"prompt": [ASK], "completion": [REPLY]}, (HI, "Hello.")),
        ({"messages": [ASK, REPLY, {"role": "user", "content": "More"}]}, (LONG, None)),
        ({"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]}, (HI, "Hello.")),
        ({"messages": '[{"role": "user", "content": "Hi?"}]'}, (HI, None)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}]}, (HI, None)),
        ({"prompt": "\n\nHuman: Hi?\n\nAssistant: Hello."}, (HI, "Hello.")),
        ({"prompt": "Human: Hi?\n\nAssistant:", "messages": [ASK]}, (HI, None)),
        ({"text": "Once upon a time", "label": 1}, ("Once upon a time", None)),
    ],
)
def test_usual_forms_are_recognised(row: Any, expected: object) -> None:
    assert read_example(row) == expected


def test_named_fields_win_over_usual_names() -> None:
    row = {"prompt": "no", "response": "no", "ask": "Hi?", "gold": "Hello."}
    assert read_example(row, prompt_field="ask", response_field="gold") == ("Hi?", "Hello.")


def test_opening_and_rest_make_the_whole_text() -> None:
    text = "Once upon a time,\nthere was a fox.  It ran."
    prompt, rest = read_example({"text": text}, prompt_words=5)
    assert prompt == "Once upon a time,\nthere"
    assert rest is not None
    assert f"{prompt}{rest}" == text


@pytest.mark.parametrize(
    ("row", "how", "reason"),
    [
        ({"prompt": " "}, {}, "empty prompt"),
        ({"prompt": "Hi?", "response": ""}, {}, "empty response"),
        ({"messages": [ASK, {"role": "assistant", "content": ""}]}, {}, "conversation with an empty turn"),
        ({"messages": [REPLY]}, {}, "conversation without a prompt"),
        ({"text": "one two"}, {"prompt_words": 2}, "no more than 2 words"),
    ],
)
def test_rows_of_no_use_are_dropped_with_a_reason(row: Any, how: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow, match=reason):
        read_example(row, **how)


@pytest.mark.parametrize(
    ("row", "how", "message"),
    [
        (3, {}, "expected a JSON object, found int"),
        ({"foo": "Hi?"}, {}, "no prompt found; the row has foo: name the column with prompt_field"),
        ({"foo": "Hi?"}, {"prompt_field": "bar"}, "no field 'bar'"),
        ({"prompt": 3}, {}, "prompt is 3; give a text or a list of messages"),
        ({"prompt": "Hi?", "gold": "x"}, {"response_field": "god"}, "no field 'god'"),
        ({"prompt": []}, {}, "prompt is \\[\\]"),
        ({"messages": ["Hi?"]}, {}, "a message has role and content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, {}, "message role is 'robot'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, {}, "only text can be used"),
        ({"messages": "[broken"}, {}, "messages looks like JSON and cannot be read: not JSON"),
        ({"messages": "[" * 200_000}, {}, "nested too deeply"),
        ({"messages": "[" + "1" * 5000}, {}, "thousands of digits"),
        ({"messages": [ASK]}, {"prompt_words": 3}, "prompt_words cuts texts only"),
        ({"instruction": "Add", "input": 3}, {}, "input is 3; give text"),
    ],
)
def test_malformed_rows_are_refused(row: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_example(row, **how)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Hi?", "chosen": "A", "rejected": "B"}, ("Hi?", "A", "B")),
        ({"prompt": [ASK], "chosen": [REPLY], "rejected": [{**REPLY, "content": "No."}]}, (HI, "Hello.", "No.")),
        ({"messages": [ASK], "prompt": "Human: x", "chosen": "A", "rejected": "B"}, (HI, "A", "B")),
        ({"chosen": [ASK, REPLY], "rejected": [ASK, {**REPLY, "content": "No."}]}, (HI, "Hello.", "No.")),
        (
            {"prompt": "Hi?", "chosen": [ASK, REPLY], "rejected": [ASK, {**REPLY, "content": "No."}]},
            (HI, "Hello.", "No."),
        ),
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, ("The sky is", " blue.", " green.")),
        (
            {"chosen": "\n\nHuman: Hi?\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."},
            (HI, "Hello.", "No."),
        ),
        ({"prompt": "\n\nHuman: Hi?\n\nAssistant:", "chosen": "A", "rejected": "B"}, (HI, "A", "B")),
    ],
)
def test_every_preference_form_is_recognised(row: Any, expected: object) -> None:
    assert read_pair(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi?", "chosen": "A", "rejected": " "}, "empty rejected response"),
        ({"prompt": "Hi?", "chosen": "A", "rejected": "A"}, "the same"),
        ({"chosen": [ASK, REPLY], "rejected": [ASK, REPLY]}, "the same"),
        (
            {"chosen": "\n\nHuman: Hi?\n\nAssistant: A", "rejected": "\n\nHuman: Ho?\n\nAssistant: B"},
            "differ before the last turn",
        ),
        ({"chosen": "Human: Hi?\n\nAssistant: A", "rejected": "Human: Hi?\n\nAssistant:"}, "empty rejected response"),
        ({"chosen": "Human: Hi?\n\nAssistant: ", "rejected": "Human: Hi?\n\nAssistant: B"}, "empty chosen response"),
        (
            {"prompt": [ASK], "chosen": [REPLY, ASK, REPLY], "rejected": [REPLY]},
            "more than one turn after the prompt",
        ),
    ],
)
def test_pairs_of_no_use_are_dropped(row: Any, reason: str) -> None:
    with pytest.raises(UnusableRow, match=reason):
        read_pair(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi?", "chosen": "A"}, "no field 'rejected'; the row has prompt, chosen"),
        ({"prompt": "Hi?", "chosen": "A", "rejected": [REPLY]}, "of different kinds"),
        ({"prompt": "Hi?", "chosen": [ASK], "rejected": [{**ASK, "content": "Ho"}]}, "a response is the assistant's"),
        ({"chosen": "Blue.", "rejected": "Green."}, "do not begin alike"),
        ({"prompt": [ASK, REPLY], "chosen": "A", "rejected": "B"}, "ends with the assistant's turn"),
        ({"prompt": 5, "chosen": "A", "rejected": "B"}, "prompt is 5"),
    ],
)
def test_malformed_pairs_are_refused(row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pair(row)


def test_swapping_the_sides_swaps_the_answers() -> None:
    row = {"chosen": "I like red apples", "rejected": "I like red wine"}
    prompt, chosen, rejected = read_pair(row)
    assert read_pair({"chosen": row["rejected"], "rejected": row["chosen"]}) == (prompt, rejected, chosen)


@pytest.mark.parametrize("text", ["Human: Hi?", "Say 'Human: Hi?\n\nAssistant: x'", "Assistant: x\n\nHuman: y"])
def test_other_texts_are_no_transcripts(text: str) -> None:
    assert parse_transcript(text) is None
