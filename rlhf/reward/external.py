"""A sequence classifier of another family as a source of scores: its own tokenizer, chat template and context.

    score = logit                                            one label, or labels that do not exclude each other
    score = logit - log(sum of exp of the other logits)      the log-odds of a label among several that do

Log-odds are what a reward model trained on pairs gives too (Bradley and Terry 1952), up to a constant and a scale.
A text that is longer than the classifier reads loses its beginning, never its end.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.config.score import ClassifierConfig
from rlhf.errors import ArtifactError, ConfigError, DataError
from rlhf.models.base import DTYPES, fetch_model, hash_weight_files, local_device
from rlhf.records import PromptText
from rlhf.tensors import lengths_to_mask, pad_right
from rlhf.text import format_exchange

log = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Classifier:
    """A frozen classifier on this process's device.

    Attributes:
        weights_hash: Hash of its safetensors files.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, label: int, weights_hash: str) -> None:
        self.weights_hash = weights_hash
        self._name, self._model, self._tokenizer, self._label = name, model, tokenizer, label
        self._limit = _longest(model, tokenizer)
        self._told = False

    @torch.no_grad()
    def score(self, prompts: Sequence[PromptText], responses: Sequence[str], batch_size: int) -> list[float]:
        """Return the raw score of each response, in the given order.

        Texts of like length are scored together; a score does not depend on the batch it was in.

        Raises:
            DataError: The chat template does not take a conversation.
        """
        rows = [self._encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
        scores = [0.0] * len(rows)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids = pad_right([rows[index] for index in chosen], self._tokenizer.pad_token_id, torch.long)
            mask = lengths_to_mask(torch.tensor([len(rows[index]) for index in chosen]), ids.shape[1])
            device = self._model.device
            logits = self._model(input_ids=ids.to(device), attention_mask=mask.long().to(device)).logits.float()
            for index, value in zip(chosen, self._read(logits).tolist(), strict=True):
                scores[index] = value
        return scores

    def _read(self, logits: Float[Tensor, "batch labels"]) -> Float[Tensor, " batch"]:
        own = logits[:, self._label]
        if logits.shape[1] == 1 or self._model.config.problem_type == "multi_label_classification":
            return own
        others = [index for index in range(logits.shape[1]) if index != self._label]
        return own - logits[:, others].logsumexp(dim=1)

    def _encode(self, prompt: PromptText, response: str) -> list[int]:
        from jinja2 import TemplateError

        try:
            text = format_exchange(self._tokenizer, prompt, response)
        except TemplateError as error:
            raise DataError(
                f"score.classifiers.{self._name}: its chat template refuses a conversation of these prompts ({error})"
            ) from error
        options = {"add_special_tokens": not self._tokenizer.chat_template, "verbose": False}
        ids = self._tokenizer(text, **options)["input_ids"]
        if self._limit is None or len(ids) <= self._limit:
            return ids
        if not self._told:
            log.warning(
                "score.classifiers.%s reads %d tokens; longer texts lose their beginning, the first one has %d",
                self._name,
                self._limit,
                len(ids),
            )
            self._told = True
        return self._tokenizer(text, truncation=True, max_length=self._limit, **options)["input_ids"]


def load_classifier(name: str, config: ClassifierConfig, precision: Literal["fp32", "bf16"]) -> Classifier:
    """Load a classifier, frozen, on this process's device.

    Args:
        name: Its name in the recipe, for messages.
        config: Its section.
        precision: Number format of the weights.

    Raises:
        ArtifactError: The weights are missing, not safetensors, or those of another kind of model.
        ConfigError: There is no such folder, label or padding token, or a hub model is not pinned.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    owner = f"score.classifiers.{name}"
    source = Path(config.model).expanduser()
    if not source.is_dir():
        source = _fetch(config, owner)
    weights = hash_weight_files(source, owner)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        with _unsharded():
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=DTYPES[precision], use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"{owner} {source}: the classifier does not load ({error})") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise ArtifactError(f"{owner} {source}: the weights lack {missing}; this is no trained sequence classifier")
    label = _find_label(model.config.id2label, config.label, owner)
    _agree_on_padding(model, tokenizer, owner)
    tokenizer.truncation_side = "left"
    model.requires_grad_(False)
    return Classifier(name, model.to(local_device()).eval(), tokenizer, label, weights)


def _fetch(config: ClassifierConfig, owner: str) -> Path:
    if config.model.startswith((".", "/", "~")):
        raise ConfigError(f"{owner}.model is {config.model!r}; there is no such folder")
    if config.revision is None or not _COMMIT.fullmatch(config.revision):
        raise ConfigError(
            f"{owner}.revision is {config.revision}; {config.model} is no local folder, and a model on the hub needs "
            "the 40 digits of a commit, which cannot move"
        )
    return fetch_model(config.model, config.revision, owner)


def _find_label(names: dict[int, str], wanted: str | None, owner: str) -> int:
    if wanted is None and len(names) == 1:
        return next(iter(names))
    known = ", ".join(names.values())
    if wanted is None:
        raise ConfigError(f"{owner}: the classifier has {len(names)} labels; name one as {owner}.label: {known}")
    for index, name in names.items():
        if name == wanted:
            return index
    raise ConfigError(f"{owner}.label is {wanted!r}; the classifier knows {known}")


def _agree_on_padding(model: Any, tokenizer: Any, owner: str) -> None:
    """Make model and tokenizer pad alike: decoders read the score at the last token that is no padding."""
    inner = model.config.get_text_config()
    if tokenizer.pad_token_id is None:
        if inner.pad_token_id is None and tokenizer.eos_token_id is None:
            raise ConfigError(f"{owner}: its tokenizer has neither a padding nor an end token; set pad_token there")
        tokenizer.pad_token_id = tokenizer.eos_token_id if inner.pad_token_id is None else inner.pad_token_id
    inner.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id


def _longest(model: Any, tokenizer: Any) -> int | None:
    """Return the most tokens that the classifier reads; None where nothing limits it."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = [limit for limit in (positions, tokenizer.model_max_length) if limit and limit < 1e9]
    return min(known, default=None)


@contextmanager
def _unsharded() -> Iterator[None]:
    """Load whole weights under ZeRO-3 too: whoever scores alone can gather no shards."""
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held
