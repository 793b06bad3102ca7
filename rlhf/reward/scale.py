"""The responses that give scores their scale: mean 0 and standard deviation 1 on them (Ziegler et al. 2019)."""

from collections.abc import Iterable

from rlhf.config.training import PpoConfig
from rlhf.decoding import InStep
from rlhf.hashing import derive_seed
from rlhf.models.roles import SharedBase
from rlhf.records import Prompt
from rlhf.sampling import Samples, Sampling, sample
from rlhf.text import TextFormat


def scale_samples(
    shared: SharedBase,
    role: str,
    text: TextFormat,
    prompts: Iterable[Prompt],
    count: int,
    rollouts: PpoConfig,
    seed: int,
    batch_size: int,
    in_step: InStep | None = None,
) -> Samples:
    """Draw one response of a role to each of the first ppo prompts, as hot and as long as PPO will.

    Args:
        shared: The shared base.
        role: Who responds: SFT, under the name that it has here.
        text: Prompt format and end tokens.
        prompts: Prompts of any split.
        count: How many to respond to, at most.
        rollouts: PPO's temperature and length.
        seed: Seed of the run.
        batch_size: Most responses decoded together.
        in_step: See `rlhf.sampling.sample`.
    """
    own = scale_prompts(prompts, count)
    return sample(
        shared,
        role,
        [text.encode_prompt(row.prompt) for row in own],
        text,
        Sampling(rollouts.temperature, rollouts.max_new_tokens),
        seed=derive_seed(seed, "normalisation"),
        batch_size=batch_size,
        keys=range(len(own)),
        in_step=in_step,
    )


def scale_prompts(prompts: Iterable[Prompt], count: int) -> list[Prompt]:
    """Return the prompts that `scale_samples` responds to."""
    return [row for row in prompts if row.split == "ppo"][:count]
