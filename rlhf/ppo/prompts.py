"""Which prompts an update asks: drawn without replacement in every pass, as a function of the seed and the update."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rlhf.config.training import PpoConfig
from rlhf.errors import DataError
from rlhf.records import Prompt
from rlhf.runtime import Runtime
from rlhf.text import TextFormat


class PromptSource:
    """The prompts as token ids, and this process's share of each batch.

    Attributes:
        ids: Token ids of each prompt.
        share: Episodes of this process in an update.
    """

    def __init__(
        self, prompts: Sequence[Prompt], text: TextFormat, config: PpoConfig, seed: int, runtime: Runtime
    ) -> None:
        if not prompts:
            raise DataError("there are no prompts in the ppo split")
        self.ids = encode_prompts(prompts, text, config)
        self.share = runtime.share(config.batch_size, "ppo.batch_size")
        runtime.share(config.batch_size // config.samples_per_prompt, "ppo.batch_size / ppo.samples_per_prompt")
        self._config, self._seed = config, seed
        self._first = runtime.process_index * self.share

    def draw(self, update: int) -> tuple[list[list[int]], list[int]]:
        """Return this process's prompts of an update, and the numbers of their episodes.

        Episodes of one prompt follow one another.
        """
        first = (update - 1) * self._config.batch_size + self._first
        episodes = range(first, first + self.share)
        places = [episode // self._config.samples_per_prompt for episode in episodes]
        count = len(self.ids)
        rows = [int(prompt_order(self._seed, place // count, count)[place % count]) for place in places]
        return [self.ids[row] for row in rows], list(episodes)


def encode_prompts(prompts: Sequence[Prompt], text: TextFormat, config: PpoConfig) -> list[list[int]]:
    """Return token ids of prompts that leave room for a response.

    Raises:
        ConfigError: The longest one does not.
    """
    ids = [text.encode_prompt(prompt.prompt) for prompt in prompts]
    if ids:
        text.require_room(config.max_new_tokens, "ppo.max_new_tokens", max(map(len, ids)))
    return ids


@lru_cache(maxsize=2)
def prompt_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of prompts in one pass."""
    return np.random.default_rng((seed, epoch)).permutation(count)
