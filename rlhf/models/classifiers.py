"""Sequence classifiers of another family than the base: their weights, and texts as their own tokenizers write them.

A text that is longer than a classifier reads loses its beginning, never its end.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlhf.errors import ArtifactError, ConfigError, DataError
from rlhf.models.base import fetch_model
from rlhf.models.origin import outside_folder
from rlhf.records import PromptText
from rlhf.text import format_exchange

log = logging.getLogger(__name__)


class ClassifierText:
    """Turns a prompt and a response into the ids that a classifier reads.

    Attributes:
        tokenizer: The classifier's own.
        limit: Most tokens of a text; None where nothing limits them.
        pad_token_id: What its rows are padded with.
    """

    def __init__(self, config: Any, tokenizer: Any, owner: str, max_tokens: int | None = None) -> None:
        """Make model and tokenizer pad alike: decoders read the score at the last token that is no padding.

        Args:
            config: The model's configuration.
            tokenizer: Its tokenizer.
            owner: The section of the recipe, for messages.
            max_tokens: A limit of the recipe's own.

        Raises:
            ConfigError: There is no token to pad with.
        """
        inner = config.get_text_config()
        if tokenizer.pad_token_id is None:
            if inner.pad_token_id is None and tokenizer.eos_token_id is None:
                raise ConfigError(f"{owner}: its tokenizer has neither a padding nor an end token; set pad_token there")
            tokenizer.pad_token_id = tokenizer.eos_token_id if inner.pad_token_id is None else inner.pad_token_id
        inner.pad_token_id = config.pad_token_id = tokenizer.pad_token_id
        positions = getattr(inner, "max_position_embeddings", None)
        known = [limit for limit in (positions, tokenizer.model_max_length, max_tokens) if limit and limit < 1e9]
        self.limit: int | None = min(known, default=None)
        self.tokenizer, self.pad_token_id = tokenizer, int(tokenizer.pad_token_id)
        self._owner, self._told = owner, False

    def encode(self, prompt: PromptText, response: str) -> list[int]:
        """Return the ids of a whole exchange, cut from the left where it is too long.

        Raises:
            DataError: The chat template does not take a conversation.
        """
        from jinja2 import TemplateError

        try:
            text = format_exchange(self.tokenizer, prompt, response)
        except TemplateError as error:
            raise DataError(
                f"{self._owner}: its chat template refuses a conversation of these prompts ({error})"
            ) from error
        options = {"add_special_tokens": not self.tokenizer.chat_template, "verbose": False}
        ids = self.tokenizer(text, **options)["input_ids"]
        if self.limit is None or len(ids) <= self.limit:
            return ids
        if not self._told:
            log.warning(
                "%s reads %d tokens; longer texts lose their beginning, the first one has %d",
                self._owner,
                self.limit,
                len(ids),
            )
            self._told = True
        return self.tokenizer(text, truncation=True, max_length=self.limit, **options)["input_ids"]

    def count(self, response: str) -> int:
        """Return how many tokens a response has by itself."""
        return len(self.tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"])

    def save(self, folder: Path) -> None:
        """Write the tokenizer, which then cuts where this one does."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # else the file would depend on what was tokenised last
            backend.no_truncation()
            backend.no_padding()
        if self.limit is not None:
            self.tokenizer.model_max_length = self.limit
        self.tokenizer.save_pretrained(folder)


def locate_model(model: str, revision: str | None, owner: str) -> Path:
    """Return the folder of a model from elsewhere, downloaded if need be.

    Raises:
        ConfigError: There is no such folder, or the hub model is not pinned.
        ResourceError: It is neither on this machine nor reachable.
    """
    return outside_folder(model, revision, owner) or fetch_model(model, revision, owner)


def load_classifier_text(source: Path, owner: str, max_tokens: int | None = None) -> ClassifierText:
    """Load the tokenizer of a model without its weights.

    Raises:
        ArtifactError: It does not load.
        ConfigError: It has no token to pad with.
    """
    from transformers import AutoConfig

    with _loading(source, owner):
        config, tokenizer = AutoConfig.from_pretrained(source), _load_tokenizer(source)
    return ClassifierText(config, tokenizer, owner, max_tokens)


def load_classifier_model(source: Path, owner: str, dtype: torch.dtype, **options: Any) -> tuple[Any, Any, set[str]]:
    """Load a sequence classifier, whole under any ZeRO stage, on the CPU.

    Args:
        source: Its folder.
        owner: The section of the recipe, for messages.
        dtype: Number format of the weights.
        options: Further arguments of `from_pretrained`.

    Returns:
        The model, its tokenizer, and the names of the weights that the files lack or have in another shape.

    Raises:
        ArtifactError: It does not load.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with _loading(source, owner), unsharded(), _without_report():
        tokenizer = _load_tokenizer(source)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    # Files name no one's folders.
    model.name_or_path = model.config._name_or_path = source.name
    others = {entry if isinstance(entry, str) else entry[0] for entry in loading["mismatched_keys"]}
    return model, tokenizer, {*loading["missing_keys"], *others}


def _load_tokenizer(source: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source, truncation_side="left")
    return tokenizer


@contextmanager
def _loading(source: Path, owner: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"{owner} {source}: the classifier does not load ({error})") from error


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep the library's table of missing weights back: callers say what is missing and what follows."""
    from transformers.utils import logging as library

    before = library.get_verbosity()
    library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(before)


@contextmanager
def unsharded() -> Iterator[None]:
    """Load whole weights under ZeRO-3 too: whoever computes alone can gather no shards."""
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held
