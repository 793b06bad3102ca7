"""A frozen sequence classifier of another family as a source of scores: its own tokenizer, chat template and context.

    score = logit                                            one label, or labels that do not exclude each other
    score = logit - log(sum of exp of the other logits)      the log-odds of a label among several that do

Log-odds are what a reward model trained on pairs gives too (Bradley and Terry 1952), up to a constant and a scale.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.config.score import ClassifierConfig
from rlhf.errors import ArtifactError, ConfigError
from rlhf.models.base import DTYPES, hash_weight_files, local_device
from rlhf.models.classifiers import ClassifierText, load_classifier_model, locate_model
from rlhf.records import PromptText
from rlhf.tensors import lengths_to_mask, pad_right


class Classifier:
    """A frozen classifier on this process's device.

    Attributes:
        text: How it reads prompt and response.
        weights_hash: Hash of its safetensors files.
    """

    def __init__(self, model: Any, text: ClassifierText, label: int, weights_hash: str) -> None:
        self.text, self.weights_hash = text, weights_hash
        self._model, self._label = model, label

    @torch.no_grad()
    def score(self, prompts: Sequence[PromptText], responses: Sequence[str], batch_size: int) -> list[float]:
        """Return the raw score of each response, in the given order.

        Texts of like length are scored together; a score does not depend on the batch it was in.

        Raises:
            DataError: The chat template does not take a conversation.
        """
        scores = [0.0] * len(responses)
        for chosen, inputs in self._batches(prompts, responses, batch_size):
            logits = self._model(**inputs).logits.float()
            for index, value in zip(chosen, self._read(logits).tolist(), strict=True):
                scores[index] = value
        return scores

    @torch.no_grad()
    def mean_states(
        self, prompts: Sequence[PromptText], responses: Sequence[str], batch_size: int
    ) -> Float[Tensor, "responses hidden"]:
        """Return the trunk's mean hidden state over the tokens of prompt and response, on the CPU."""
        found: dict[int, Tensor] = {}
        for chosen, inputs in self._batches(prompts, responses, batch_size):
            mask = inputs["attention_mask"][..., None].float()
            hidden = self._model.base_model(**inputs).last_hidden_state.float()
            means = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            found |= dict(zip(chosen, means.cpu(), strict=True))
        return torch.stack([found[index] for index in range(len(found))])

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer."""
        self._model.save_pretrained(folder)
        self.text.save(folder)

    def _batches(
        self, prompts: Sequence[PromptText], responses: Sequence[str], batch_size: int
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        rows = [self.text.encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids = pad_right([rows[index] for index in chosen], self.text.pad_token_id, torch.long)
            mask = lengths_to_mask(torch.tensor([len(rows[index]) for index in chosen]), ids.shape[1])
            device = self._model.device
            yield chosen, {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}

    def _read(self, logits: Float[Tensor, "batch labels"]) -> Float[Tensor, " batch"]:
        own = logits[:, self._label]
        if logits.shape[1] == 1 or self._model.config.problem_type == "multi_label_classification":
            return own
        others = [index for index in range(logits.shape[1]) if index != self._label]
        return own - logits[:, others].logsumexp(dim=1)


def load_classifier(name: str, config: ClassifierConfig, precision: Literal["fp32", "bf16"]) -> Classifier:
    """Load a classifier that a recipe names, frozen, on this process's device.

    Args:
        name: Its name in the recipe, for messages.
        config: Its section.
        precision: Number format of the weights.

    Raises:
        ArtifactError: The weights are missing, not safetensors, or those of another kind of model.
        ConfigError: There is no such folder, label or padding token, or a hub model is not pinned.
    """
    owner = f"score.classifiers.{name}"
    return open_classifier(locate_model(config.model, config.revision, owner), owner, precision, label=config.label)


def open_classifier(
    source: Path, owner: str, precision: Literal["fp32", "bf16"], *, label: str | None = None
) -> Classifier:
    """Load the classifier in a folder, frozen, on this process's device; see `load_classifier`."""
    weights = hash_weight_files(source, owner)
    model, tokenizer, lacking = load_classifier_model(source, owner, DTYPES[precision])
    if lacking:
        missing = ", ".join(sorted(lacking)[:3])
        raise ArtifactError(f"{owner} {source}: the weights lack {missing}; this is no trained sequence classifier")
    chosen = _find_label(model.config.id2label, label, owner)
    text = ClassifierText(model.config, tokenizer, owner)
    model.requires_grad_(False)
    return Classifier(model.to(local_device()).eval(), text, chosen, weights)


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
