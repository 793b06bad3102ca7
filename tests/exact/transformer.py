"""The real loop on a tiny Llama whose every response can be enumerated.

The base is random and frozen, the reference is the base, and the policy is a LoRA adapter on all linear layers but the
output head. The one prompt is a single token.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast

from rlhf.config.base import BaseConfig, LoraSection
from rlhf.config.training import PpoConfig
from rlhf.models.base import LoadedBase, describe_base, load_base
from rlhf.models.logprobs import response_logprobs
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.ppo.loop import train_ppo
from rlhf.records import Prompt
from rlhf.runtime import start_runtime
from rlhf.tensors import unflatten
from rlhf.tracking import Tracker
from tests.exact.world import END, LENGTH, VOCABULARY, Figures, compare, enumerate_responses, random_scores
from tests.tiny import tiny_model

PROMPT = "a"
HIDDEN = 32


def loop_config(kl_coef: float, **changes: Any) -> PpoConfig:
    """Return the settings of a run through the real loop."""
    settings: dict[str, Any] = {
        "updates": 200,
        "batch_size": 512,
        "minibatch_size": 512,
        "micro_batch_size": 512,
        "rollout_batch_size": 512,
        "epochs": 4,
        "learning_rate": 5e-3,
        "critic_learning_rate": 5e-3,
        "critic_warmup_updates": 2,
        "kl_coef": kl_coef,
        "score_clip": 100.0,
        "missing_eos_penalty": 0.0,
        "max_new_tokens": LENGTH,
        "checkpoint_every": 10_000,
        "evaluate_every": 10_000,
    }
    return PpoConfig(**{**settings, **changes})


def train_transformer(folder: Path, config: PpoConfig, rank: int = HIDDEN, seed: int = 0) -> Figures:
    """Train an adapter in a random world through the product's loop, and return where it ends."""
    base = _base(folder / "base", seed)
    lora = LoraSection(rank=rank, alpha=float(rank))
    roles = {
        "reference": RoleSource(fresh=lora),
        "policy": RoleSource(copy_of="reference", trainable=True),
        "critic": RoleSource(fresh=lora, head=True, trainable=True),
    }
    shared = build_shared_base(base, roles, seed=seed)
    prompt_ids = base.text.encode_prompt(PROMPT)
    reference = exact_logprobs(shared, "reference", prompt_ids)
    scores, every = random_scores(reference, seed + 1000), enumerate_responses()

    def score(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        return scores[[every.find(ids) for ids in responses]]

    tracker = Tracker(folder / "ppo", bars=False)
    prompts = [Prompt("only", PROMPT, "ppo")]
    train_ppo(shared, base.text, prompts, [], score, config, seed, folder / "ppo", tracker, start_runtime())
    return compare(exact_logprobs(shared, "policy", prompt_ids), reference, scores, config.kl_coef)


@torch.no_grad()
def exact_logprobs(shared: SharedBase, role: str, prompt_ids: list[int]) -> Tensor:
    """Return the logprob of every response to a prompt, in nats and float64."""
    every = enumerate_responses()
    prompts = torch.tensor(prompt_ids).expand(len(every.tokens), -1)
    ids = torch.cat([prompts, every.tokens], dim=1)
    mask = torch.cat([torch.zeros_like(prompts, dtype=torch.bool), every.mask], dim=1)
    logprobs, _ = response_logprobs(shared, role, ids, None, mask, 1.0)
    return unflatten(logprobs, mask).double().sum(dim=1)


def _base(folder: Path, seed: int) -> LoadedBase:
    folder.mkdir(parents=True)
    letters = [chr(ord("a") + index) for index in range(VOCABULARY - 1)]
    vocabulary = {"<|end|>": END, **{letter: index + 1 for index, letter in enumerate(letters)}}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(json.loads(inner.to_str()))), eos_token="<|end|>"
    )
    model = tiny_model(VOCABULARY, seed=seed, hidden=HIDDEN, scale=2.0)
    model.generation_config = GenerationConfig(eos_token_id=END, bos_token_id=None, pad_token_id=END)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = BaseConfig(prompt_format="plain")
    describe_base(config, folder)
    return load_base(folder, config, "fp32")
