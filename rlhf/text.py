"""Prompt format, tokenizer and end tokens: the only place that formats a prompt or knows an end token.

Prompt and response are tokenised *together* and split where the prompt's own tokens end. Tokenizers with a dummy
prefix (a space put before every text) would otherwise put a space between the two.

A tokenizer turns the string of a special token, wherever it stands, into the token itself: a text that spells one
could end its own turn and forge the next. Such texts are refused before the chat template adds the true tokens.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf.config.base import BaseConfig
from rlhf.errors import ArtifactError, ConfigError, DataError
from rlhf.hashing import hash_value
from rlhf.records import Message, PromptText, prompt_to_json, prompt_to_text

# Texts that a tokenizer may keep apart from what follows; the first that does serves as the left neighbour.
_ANCHORS = ("a", ".", "\n", ":", "1", " ")
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Example:
    """A prompt and its response as token ids; `response_mask` is True on the response and its end token."""

    input_ids: list[int]
    response_mask: list[bool]


class TextFormat:
    """Turns prompts and responses into token ids and back.

    Attributes:
        tokenizer: The Hugging Face tokenizer.
        style: `chat` formats prompts with the tokenizer's chat template, `plain` continues the bare text.
        end_token_ids: Tokens that end a response; the first is the one taught.
        pad_token_id: Some id inside the vocabulary; masks decide what is padding, never this id.
        context_length: Longest sequence of the base, in tokens.
        tokenizer_hash: Identity of the tokenizer.
        hash: Identity of the prompt format, tokenizer included.
    """

    def __init__(
        self, tokenizer: Any, style: Literal["chat", "plain"], end_token_ids: Sequence[int], context_length: int
    ) -> None:
        self.tokenizer = tokenizer
        self.style = style
        self.end_token_ids = tuple(end_token_ids)
        self.context_length = context_length
        self.pad_token_id: int = self.end_token_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._ends = frozenset(self.end_token_ids)
        self._special = special_pattern(tokenizer)
        self._anchor_ids = self._tokenize("a")
        self._anchor_text = self._decode(self._anchor_ids)
        self.tokenizer_hash = _hash_tokenizer(tokenizer)
        self.hash = hash_value(
            {
                "tokenizer": self.tokenizer_hash,
                "style": style,
                "template": tokenizer.chat_template if style == "chat" else None,
                "end_token_ids": list(self.end_token_ids),
            }
        )

    def encode_prompt(self, prompt: PromptText) -> list[int]:
        """Return the ids that the model reads before it responds, beginning-of-text and template included.

        Raises:
            DataError: The prompt is longer than the model's context, or spells a special token.
        """
        ids = self._prompt_ids(prompt)
        if len(ids) >= self.context_length:
            raise DataError(
                f"prompt {_shorten(prompt)!r} has {len(ids)} tokens; the model reads {self.context_length}, "
                "response included: shorten or drop the prompt"
            )
        return ids

    def count_prompt(self, prompt: PromptText) -> int:
        """Return how many tokens `encode_prompt` would give, also of a prompt that is too long for the model.

        Raises:
            DataError: The prompt spells a special token.
        """
        return len(self._prompt_ids(prompt))

    def _prompt_ids(self, prompt: PromptText) -> list[int]:
        return self._tokenize(self.format_prompt(prompt), special=self.style == "plain")

    def encode_response(self, prompt: PromptText, response: str, *, end: bool = True) -> list[int]:
        """Return the ids of a response to a prompt, with the taught end token after it where `end`.

        Raises:
            DataError: The response spells an end token or another special one, or the tokenizer cannot write it after
                this prompt.
        """
        self.require_ordinary("response", response)
        text, special = self.format_prompt(prompt), self.style == "plain"
        prompt_ids = self._tokenize(text, special=special)
        joint = self._tokenize(text + response, special=special)
        ids = joint[len(prompt_ids) :] if joint[: len(prompt_ids)] == prompt_ids else self._continue(response)
        if not self._ends.isdisjoint(ids):
            raise DataError(f"response {_shorten(response)!r} holds an end token in its text; remove it")
        return [*ids, self.end_token_ids[0]] if end else ids

    def encode_example(
        self, prompt: PromptText, response: str, *, end: bool = True, max_length: int | None = None
    ) -> Example:
        """Return prompt and response in one row, with the mask of what a model learns to say.

        Raises:
            DataError: Longer than `max_length`, or than the context.
        """
        prompt_ids = self.encode_prompt(prompt)
        response_ids = self.encode_response(prompt, response, end=end)
        total, limit = len(prompt_ids) + len(response_ids), min(max_length or self.context_length, self.context_length)
        if total > limit:
            raise DataError(
                f"prompt {_shorten(prompt)!r} and its response have {total} tokens together; the limit is {limit}: "
                "raise max_tokens up to the model's context, or drop the example"
            )
        return Example(prompt_ids + response_ids, [False] * len(prompt_ids) + [True] * len(response_ids))

    def decode_response(self, ids: Sequence[int]) -> str:
        """Return the text of a response up to its first end token, leading space kept.

        Where ordinary tokens spell a special one it is left out too: the text must be one that can be encoded again. The
        character NUL, which no file and no database takes, becomes U+FFFD.
        """
        kept = list(self.cut(ids)[0])
        kept = kept[:-1] if kept and kept[-1] in self._ends else kept
        decoded = self._decode([*self._anchor_ids, *kept])[len(self._anchor_text) :]
        while self._special.search(decoded):
            decoded = self._special.sub("", decoded)
        return decoded.replace("\0", "\ufffd")

    def cut(self, ids: Sequence[int]) -> tuple[list[int], bool]:
        """Return the ids up to and with the first end token, and whether there was one."""
        for index, token in enumerate(ids):
            if token in self._ends:
                return list(ids[: index + 1]), True
        return list(ids), False

    def format_prompt(self, prompt: PromptText) -> str:
        """Return the text that is tokenised for a prompt.

        Raises:
            DataError: The prompt spells a special token.
        """
        self.require_ordinary("prompt", prompt_to_text(prompt))
        if self.style == "plain":
            return prompt_to_text(prompt)
        turns = prompt_to_json((Message("user", prompt),) if isinstance(prompt, str) else prompt)
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def require_ordinary(self, name: str, text: str) -> None:
        """Refuse a text that would not be tokenised as text.

        Args:
            name: What the text is, for the message.
            text: The text, before any template.

        Raises:
            DataError: It spells a special token, or cannot be written as UTF-8.
        """
        found = self._special.search(text)
        if found:
            raise DataError(
                f"{name} {_shorten(text)!r} spells {found[0]!r}, a special token of the base, which would be read as "
                "the token itself; remove it, or write it otherwise (with a space in it, say)"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{name} {_shorten(text)!r} is not valid UTF-8; write it anew") from error

    def require_room(self, max_new_tokens: int, field: str, longest_prompt: int) -> None:
        """Refuse responses that could outgrow the context.

        Args:
            max_new_tokens: Longest response, in tokens.
            field: The configuration field it came from.
            longest_prompt: Length of the longest prompt, in tokens.

        Raises:
            ConfigError: Prompt and response together may be longer than the context.
        """
        if longest_prompt + max_new_tokens > self.context_length:
            raise ConfigError(
                f"{field} is {max_new_tokens} and the longest prompt has {longest_prompt} tokens; the base reads "
                f"{self.context_length}: lower {field} to {max(1, self.context_length - longest_prompt)} or drop "
                "long prompts (prompts.max_tokens)"
            )

    def _continue(self, response: str) -> list[int]:
        """Tokenise a response whose first characters would melt into the prompt's last token."""
        for anchor in _ANCHORS:
            left, joint = self._tokenize(anchor), self._tokenize(anchor + response)
            if joint[: len(left)] == left and self._decode(joint) == self._decode(left) + response:
                return joint[len(left) :]
        ids = self._tokenize(response)
        if self._decode([*self._anchor_ids, *ids]) == self._anchor_text + response:
            return ids
        raise DataError(
            f"response {_shorten(response)!r} cannot be tokenised apart from its prompt; "
            "start it with another character, such as a space"
        )

    def _tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def load_text_format(model: str | Path, config: BaseConfig, revision: str | None = None) -> TextFormat:
    """Load a model's tokenizer, chat template and end tokens.

    Args:
        model: Model folder or hub id.
        config: Prompt format, end tokens and trust settings.
        revision: Commit of a hub model.

    Raises:
        ArtifactError: There is no usable tokenizer.
        ConfigError: An end token is unknown, or `chat` is asked of a tokenizer without template.
    """
    from transformers import AutoConfig, AutoTokenizer

    options = {"revision": revision, "trust_remote_code": config.trust_remote_code}
    try:
        model_config = AutoConfig.from_pretrained(model, **options)
        tokenizer = AutoTokenizer.from_pretrained(model, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ArtifactError(f"base {model}: its configuration or tokenizer does not load ({error})") from error
    inner = model_config.get_text_config()
    if len(tokenizer) > inner.vocab_size:
        raise ConfigError(
            f"base {model}: the tokenizer has {len(tokenizer)} tokens, the embedding {inner.vocab_size}; "
            "embeddings are never resized, use the tokenizer the model was trained with"
        )
    style = config.prompt_format
    if style == "auto":
        style = "chat" if tokenizer.chat_template else "plain"
    if style == "chat" and not tokenizer.chat_template:
        raise ConfigError(f"base.prompt_format is chat, and the tokenizer of {model} has no chat template; use plain")
    ends = _find_end_tokens(model, tokenizer, config, options)
    return TextFormat(tokenizer, style, ends, int(inner.max_position_embeddings))


def _find_end_tokens(model: str | Path, tokenizer: Any, config: BaseConfig, options: dict[str, Any]) -> tuple[int, ...]:
    from transformers import GenerationConfig

    if config.end_tokens is not None:
        vocabulary = tokenizer.get_vocab()
        unknown = [token for token in config.end_tokens if token not in vocabulary]
        if unknown or not config.end_tokens:
            raise ConfigError(f"base.end_tokens names {unknown or 'nothing'}; each must be one token of {model}")
        return tuple(vocabulary[token] for token in config.end_tokens)
    try:
        found = GenerationConfig.from_pretrained(model, **options).eos_token_id
    except OSError:
        found = None
    found = tokenizer.eos_token_id if found is None else found
    if found is None:
        raise ConfigError(f"base {model} names no end token; set base.end_tokens")
    return tuple(found) if isinstance(found, (list, tuple)) else (int(found),)


def format_exchange(tokenizer: Any, prompt: PromptText, response: str) -> str:
    """Return prompt and response as a model of another family reads them: by its chat template, or end to end.

    Strings of its special tokens are left out, so that no response can close its own turn.
    """
    special = special_pattern(tokenizer)
    if not tokenizer.chat_template:
        return special.sub("", prompt_to_text(prompt) + response)
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    said = [(turn.role, turn.content) for turn in turns] + [("assistant", response)]
    cleaned = [{"role": role, "content": special.sub("", content)} for role, content in said]
    return tokenizer.apply_chat_template(cleaned, tokenize=False)


def special_pattern(tokenizer: Any) -> re.Pattern[str]:
    """Return what finds the strings that the tokenizer turns into special tokens; the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    names = sorted(filter(str.strip, added | set(tokenizer.all_special_tokens)), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def _hash_tokenizer(tokenizer: Any) -> str:
    """Hash what decides a tokenizer's ids: its serialised backend, or its vocabulary where it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hash_value(sorted(tokenizer.get_vocab().items()))
    state = json.loads(backend.to_str())
    # Calls may switch these two on; they are no part of the tokenizer's identity.
    state["truncation"] = state["padding"] = None
    return hash_value(state)


def _shorten(prompt: PromptText) -> str:
    text = prompt_to_text(prompt)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
