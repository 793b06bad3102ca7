"""What a row means: the ecosystem's ways to write a prompt, a demonstration and a preference pair.

Two things can be wrong with a row. It may be malformed (a field is missing or of the wrong type): that is a
`DataError`, and the file is refused. Or it may be well-formed and of no use (an empty response, say): that is an
`UnusableRow`, and it is dropped and counted.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from rlhf.errors import DataError, shown
from rlhf.jsonl import parse_json
from rlhf.records import Message, PromptText

# Structured forms first: where a row has both, the plain text is a rendering of the messages.
CONVERSATION_FIELDS = ("messages", "conversations", "conversation")
PROMPT_FIELDS = ("prompt", "instruction", "question", "query", "request", "input", "text", "story", "content")
RESPONSE_FIELDS = ("response", "completion", "output", "answer", "demonstration")
ROLE_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}

_TRANSCRIPT_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}


class UnusableRow(Exception):
    """A well-formed row that cannot serve; the message is the reason it is counted under."""


def read_example(
    row: Any, *, prompt_field: str | None = None, response_field: str | None = None, prompt_words: int | None = None
) -> tuple[PromptText, str | None]:
    """Return the prompt of a row, and its response where it has one.

    Known are: prompt/response columns under their usual names; instruction + input + output; conversations, whose
    last assistant turn is the response; transcripts (`Human: ... Assistant: ...`); plain texts.

    Args:
        row: A JSON object or a text.
        prompt_field: Take the prompt from this field.
        response_field: Take the response from this field.
        prompt_words: Cut the text after this many words: the opening is the prompt, and the rest, with the space
            before it, the response.

    Raises:
        DataError: The row is malformed.
        UnusableRow: The row is of no use.
    """
    if isinstance(row, str):
        row = {"text": row}
    fields = require_object(row)
    name = _find_prompt_field(fields, prompt_field)
    if prompt_words is not None:
        return _cut_opening(fields[name], name, prompt_words)
    prompt, response = split_response(_read_turns_or_text(fields[name], name))
    if name == "instruction" and prompt_field is None and isinstance(prompt, str):
        prompt = _with_input(prompt, fields.get("input"))
    stated = _find_response(fields, name, response_field)
    return prompt, response if stated is None else stated


def require_object(row: Any) -> Mapping[str, Any]:
    """Return the row if it is a JSON object.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"expected a JSON object, found {type(row).__name__}")
    return row


def read_prompt(fields: Mapping[str, Any]) -> PromptText:
    """Return the prompt of a row that carries its responses elsewhere (pairs, candidate sets).

    Raises:
        DataError: The row has no prompt, or it is malformed.
        UnusableRow: The prompt is empty.
    """
    name = _find_prompt_field(fields, None)
    prompt, response = split_response(_read_turns_or_text(fields[name], name))
    if response is not None:
        raise DataError(f"{name} ends with the assistant's turn; the responses belong into their own fields")
    return _with_input(prompt, fields.get("input")) if name == "instruction" and isinstance(prompt, str) else prompt


def read_pair(row: Any) -> tuple[PromptText, str, str]:
    """Return prompt, chosen and rejected of a preference row, in any of TRL's forms.

    Standard (texts) and conversational (message lists), with the prompt in a field of its own or as the common
    beginning of both sides, and transcripts in the manner of HH-RLHF (Bai et al. 2022).

    Raises:
        DataError: The row is malformed.
        UnusableRow: A side is empty, or both are the same.
    """
    fields = require_object(row)
    for side in ("chosen", "rejected"):
        if side not in fields:
            raise DataError(f"no field {side!r}; the row has {_names(fields)}")
    chosen, rejected = (_read_side(fields[side], side) for side in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError("chosen and rejected are of different kinds; give two texts or two message lists")
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        prompt, answers = _split_conversations(fields, chosen, rejected)
    elif any(name in fields for name in (*CONVERSATION_FIELDS, *PROMPT_FIELDS)):
        prompt, answers = read_prompt(fields), (str(chosen), str(rejected))
    else:
        prompt, answers = _split_texts(str(chosen), str(rejected))
    for side, answer in zip(("chosen", "rejected"), answers, strict=True):
        if not answer.strip():
            raise UnusableRow(f"empty {side} response")
    if answers[0] == answers[1]:
        raise UnusableRow("chosen and rejected are the same")
    return prompt, *answers


def parse_transcript(text: str) -> tuple[Message, ...] | None:
    """Return the turns of a `Human: ... Assistant: ...` text, or None if it is no such text.

    An empty last turn of the assistant (the text ends with `Assistant:`) is left out.

    Raises:
        UnusableRow: Another turn is empty.
    """
    parts = _TRANSCRIPT_TURN.split(text)
    if len(parts) < 5 or parts[0].strip() or parts[1] != "Human":
        return None
    turns = [(_TRANSCRIPT_ROLES[role], words.strip()) for role, words in zip(parts[1::2], parts[2::2], strict=True)]
    if turns[-1] == ("assistant", ""):
        turns.pop()
    return _messages(turns)


def split_response(value: str | tuple[Message, ...]) -> tuple[PromptText, str | None]:
    """Split a conversation before its last turn, if that is the assistant's.

    Raises:
        UnusableRow: Nothing comes before the assistant's turn.
    """
    if isinstance(value, str) or value[-1].role != "assistant":
        return value, None
    if len(value) == 1:
        raise UnusableRow("conversation without a prompt")
    return value[:-1], value[-1].content


def _find_prompt_field(fields: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in fields:
            raise DataError(f"no field {wanted!r} (prompt_field); the row has {_names(fields)}")
        return wanted
    for name in (*CONVERSATION_FIELDS, *PROMPT_FIELDS):
        if fields.get(name) is not None:
            return name
    raise DataError(f"no prompt found; the row has {_names(fields)}: name the column with prompt_field")


def _find_response(fields: Mapping[str, Any], prompt_name: str, wanted: str | None) -> str | None:
    if wanted is not None and wanted not in fields:
        raise DataError(f"no field {wanted!r} (response_field); the row has {_names(fields)}")
    for name in (wanted,) if wanted is not None else RESPONSE_FIELDS:
        if name == prompt_name or fields.get(name) is None:
            continue
        answer = _read_side(fields[name], name)
        if not isinstance(answer, str):
            answer = _only_answer(answer, name)
        if not answer.strip():
            raise UnusableRow("empty response")
        return answer
    return None


def _read_turns_or_text(value: Any, name: str) -> str | tuple[Message, ...]:
    if name in CONVERSATION_FIELDS and isinstance(value, str):
        value = _parse_cell(value, name)
    if isinstance(value, str):
        if not value.strip():
            raise UnusableRow("empty prompt")
        return parse_transcript(value) or value
    return _read_messages(value, name)


def _parse_cell(value: str, name: str) -> Any:
    """Return a conversation that a CSV cell holds as JSON; a text stays a text."""
    if not value.lstrip().startswith("["):
        return value
    try:
        return parse_json(value)
    except DataError as error:
        raise DataError(f"{name} looks like JSON and cannot be read: {error}") from error


def _read_messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or not value:
        raise DataError(f"{name} is {shown(value)}; give a text or a list of messages")
    return _messages([_read_turn(turn, name) for turn in value])


def _read_turn(turn: Any, name: str) -> tuple[str, str]:
    """Return role and text of a message in OpenAI's (role, content) or ShareGPT's (from, value) spelling."""
    if not isinstance(turn, Mapping):
        raise DataError(f"{name} holds {shown(turn)}; a message has role and content")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(_text_part(part, name) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(f"{name} holds {shown(turn)}; a message has text fields role and content")
    return ROLE_NAMES.get(role, role), content


def _text_part(part: Any, name: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise DataError(f"{name} holds {shown(part)}; only text can be used")


def _messages(turns: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    if any(not content.strip() for _, content in turns):
        raise UnusableRow("conversation with an empty turn")
    return tuple(Message(role, content) for role, content in turns)


def _read_side(value: Any, name: str) -> str | tuple[Message, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [value]
    return _read_messages(value, name)


def _split_conversations(
    fields: Mapping[str, Any], chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[PromptText, tuple[str, str]]:
    shared = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if shared and shared[0].role != "assistant":
        # Both sides hold the whole conversation; what they share is the prompt.
        if len(shared) == len(chosen) == len(rejected):
            raise UnusableRow("chosen and rejected are the same")
        prompt: PromptText = shared
        chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
        if prompt[-1].role == "assistant":
            raise UnusableRow("more than one turn after the prompt")
    else:
        prompt = read_prompt(fields)
    return prompt, (_only_answer(chosen, "chosen"), _only_answer(rejected, "rejected"))


def _only_answer(turns: tuple[Message, ...], name: str) -> str:
    if len(turns) != 1:
        raise UnusableRow("more than one turn after the prompt")
    if turns[0].role != "assistant":
        raise DataError(f"{name} is a turn of the {turns[0].role}; a response is the assistant's")
    return turns[0].content


def _split_texts(chosen: str, rejected: str) -> tuple[PromptText, tuple[str, str]]:
    """Take the common beginning of two texts as the prompt."""
    chosen_turns, rejected_turns = parse_transcript(chosen), parse_transcript(rejected)
    if chosen_turns and rejected_turns:
        # A transcript that ends with `Assistant:` has one turn less.
        for side, own, other in (("chosen", chosen_turns, rejected_turns), ("rejected", rejected_turns, chosen_turns)):
            if own == other[:-1] and other[-1].role == "assistant":
                raise UnusableRow(f"empty {side} response")
        if chosen_turns[:-1] != rejected_turns[:-1]:
            raise UnusableRow("the dialogues differ before the last turn")
        return _split_conversations({}, chosen_turns, rejected_turns)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if same == len(chosen) == len(rejected):
        raise UnusableRow("chosen and rejected are the same")
    # The prompt ends with a whole word; the space before the response stays with the response.
    cut = chosen[:same].rstrip() if chosen[same - 1 : same].isspace() else chosen[:same].rpartition(" ")[0]
    if not cut.strip():
        raise DataError("no prompt field, and chosen and rejected do not begin alike")
    return cut, (chosen[len(cut) :], rejected[len(cut) :])


def _cut_opening(text: Any, name: str, words: int) -> tuple[str, str]:
    if not isinstance(text, str):
        raise DataError(f"{name} is {shown(text)}; prompt_words cuts texts only")
    text = text.strip()
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    if len(ends) <= words:
        raise UnusableRow(f"no more than {words} words (prompt_words)")
    return text[: ends[words - 1]], text[ends[words - 1] :]


def _with_input(instruction: str, given: Any) -> str:
    if given is not None and not isinstance(given, str):
        raise DataError(f"input is {shown(given)}; give text")
    return f"{instruction}\n\n{given}" if given and given.strip() else instruction


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(str(name) for name in fields) or "no fields"
