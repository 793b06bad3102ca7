"""Configuration of what a response is scored by: the sources whose weighted sum PPO raises and evaluation compares."""

import re
from typing import Self

from pydantic import model_validator

from rlhf.config.fields import result, section

# `ppo/score_NAME` must be the name of no other number.
_TAKEN = frozenset({"reward", "length", "mean", "std", "error"})


@section
class ClassifierConfig:
    """A sequence classifier from elsewhere, with its own tokenizer."""

    model: str = result()
    """A local folder, or a model id on the hub; safetensors only."""
    revision: str | None = result(None)
    """Commit of a hub model, all 40 digits: a branch or a tag can move."""
    label: str | None = result(None)
    """The label whose log-odds are the score; not needed where there is one label."""
    weight: float = result(1.0)
    """Its weight in the sum; 0 only logs it."""
    mean: float | None = result(None)
    """Subtracted from the raw score. Without `mean` and `std` both are measured on SFT responses."""
    std: float | None = result(None, gt=0)
    """Divides what is left."""

    @model_validator(mode="after")
    def _constants_come_together(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean is {self.mean} and std is {self.std}: give both, or neither to have them measured")
        return self


@section
class FunctionConfig:
    """A Python function with the signature of TRL's reward functions."""

    function: str = result()
    """`path/to/file.py:function` or `module:function`."""
    weight: float = result(1.0)
    """Its weight in the sum; 0 only logs it."""

    @model_validator(mode="after")
    def _names_a_function(self) -> Self:
        place, _, name = self.function.rpartition(":")
        if not place or not name.isidentifier():
            raise ValueError(f"function is {self.function!r}; write path/to/file.py:function or module:function")
        return self


@section
class LengthConfig:
    """A penalty on length."""

    weight: float = result(0.0, ge=0)
    """Subtracted from the score for each response token beyond `free_tokens`, the end token counted."""
    free_tokens: int = result(0, ge=0)
    """Response tokens that cost nothing."""


@section
class ScoreConfig:
    """What a response is scored by: a weighted sum of sources."""

    reward: float = result(1.0)
    """Weight of the reward model that stage `reward` trains; 0 leaves out that stage and all that only it needs."""
    classifiers: dict[str, ClassifierConfig] = result(dict)
    """Sequence classifiers from elsewhere, by a name of your choice."""
    functions: dict[str, FunctionConfig] = result(dict)
    """Python functions, by a name of your choice."""
    length: LengthConfig = result(lambda: LengthConfig())
    """A penalty on length."""
    normalisation_prompts: int = result(128, ge=8)
    """SFT responses to this many ppo prompts give a classifier its `mean` and `std` where the recipe does not."""

    @property
    def measures(self) -> bool:
        """Whether the scale of a classifier is to be measured."""
        return any(source.std is None for source in self.classifiers.values())

    @model_validator(mode="after")
    def _names_are_usable(self) -> Self:
        for name in (*self.classifiers, *self.functions):
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"source name {name!r}: use small letters, digits and _, a letter first")
            if name in _TAKEN or (name in self.classifiers and name in self.functions):
                raise ValueError(f"source name {name!r} is taken; choose another")
        return self

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        others = [source.weight for source in (*self.classifiers.values(), *self.functions.values())]
        if not any((self.reward, self.length.weight, *others)):
            raise ValueError("every weight is 0, so that no response scores better than another; raise one")
        return self
