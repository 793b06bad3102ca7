"""The real loop on a tiny Llama whose every response can be enumerated, and the same Llama with all weights trained.

The base is random and frozen, the reference is the base, and policy and critic are LoRA adapters on all linear layers
but the output layer. The one prompt is a single token. The yardstick trains every weight of the same model, embeddings
and output layer included, by the same maths with a table of values as its critic. Scores are `pair_scores`: with
independent ones the model is the limit (its exact gradient closes .97 of the gap), and this is about the loop.
"""

from functools import cache
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
from tests.exact.tabular import Estimator, table_config, train
from tests.exact.world import (
    END,
    LENGTH,
    PREFIXES,
    VOCABULARY,
    Figures,
    compare,
    enumerate_responses,
    pair_scores,
    table_logprobs,
)
from tests.tiny import tiny_model

PROMPT, PROMPT_ID = "a", 1
HIDDEN, RANK = 64, 16


def loop_config(kl_coef: float, estimator: Estimator = "gae", **changes: Any) -> PpoConfig:
    """Return the settings of a run, through the real loop or of the yardstick."""
    settings: dict[str, Any] = {
        "updates": 45,
        "rollout_batch_size": 2048,
        "learning_rate": 6e-3,
        "critic_learning_rate": 4e-3,
        "critic_warmup_updates": 2,
        "checkpoint_every": 10_000,
        "evaluate_every": 10_000,
    }
    return table_config(kl_coef, estimator, episodes=2048, **{**settings, **changes})


def train_adapter(folder: Path, config: PpoConfig, rank: int = RANK, seed: int = 0) -> Figures:
    """Train an adapter in a random world through the product's loop, and return where it ends."""
    base = _base(folder / "base", seed)
    lora = LoraSection(rank=rank, alpha=float(rank))
    roles = {
        "reference": RoleSource(fresh=lora),
        "policy": RoleSource(copy_of="reference", trainable=True),
    }
    if config.advantage == "gae":
        roles["critic"] = RoleSource(fresh=lora, head=True, trainable=True)
    shared = build_shared_base(base, roles, seed=seed)
    prompt_ids = base.text.encode_prompt(PROMPT)
    assert prompt_ids == [PROMPT_ID]
    reference = exact_logprobs(shared, "reference", prompt_ids)
    scores, every = pair_scores(reference, seed + 1000), enumerate_responses()

    def score(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        return scores[[every.find(ids) for ids in responses]]

    tracker = Tracker(folder / "ppo", bars=False)
    prompts = [Prompt("only", PROMPT, "ppo")]
    train_ppo(shared, base.text, prompts, [], score, config, seed, folder / "ppo", tracker, start_runtime())
    return compare(exact_logprobs(shared, "policy", prompt_ids), reference, scores, config.kl_coef)


def train_every_weight(config: PpoConfig, seed: int = 0) -> Figures:
    """Train all weights of the same model in the same world; the reference is the model as it began."""
    model = _model(seed)
    rows, places = _places_of_prefixes()
    ids = torch.cat([torch.full((len(_longest_prefixes()), 1), PROMPT_ID), _longest_prefixes()], dim=1)

    def logits() -> Tensor:
        return model(input_ids=ids).logits[rows, places]

    reference = logits().detach()
    scores = pair_scores(table_logprobs(reference), seed + 1000)
    return train(logits, list(model.parameters()), reference, scores, config, seed)


@torch.no_grad()
def exact_logprobs(shared: SharedBase, role: str, prompt_ids: list[int]) -> Tensor:
    """Return the logprob of every response to a prompt, in nats and float64."""
    every = enumerate_responses()
    prompts = torch.tensor(prompt_ids).expand(len(every.tokens), -1)
    ids = torch.cat([prompts, every.tokens], dim=1)
    mask = torch.cat([torch.zeros_like(prompts, dtype=torch.bool), every.mask], dim=1)
    logprobs, _ = response_logprobs(shared, role, ids, None, mask, 1.0)
    return unflatten(logprobs, mask).double().sum(dim=1)


@cache
def _longest_prefixes() -> Tensor:
    """Return all sequences of LENGTH - 1 tokens without an end: every prefix is the beginning of one."""
    words = torch.arange(VOCABULARY)
    return torch.cartesian_prod(*[words[words != END]] * (LENGTH - 1))


@cache
def _places_of_prefixes() -> tuple[Tensor, Tensor]:
    """Return for each heap number a row of `_longest_prefixes` and a position; 0, 0 for prefixes never reached."""
    rows, places = torch.zeros(2, PREFIXES, dtype=torch.long)
    nodes = torch.zeros(len(_longest_prefixes()), dtype=torch.long)
    for place in range(LENGTH):
        rows[nodes], places[nodes] = torch.arange(len(nodes)), place
        if place < LENGTH - 1:
            nodes = VOCABULARY * nodes + 1 + _longest_prefixes()[:, place]
    return rows, places


def _model(seed: int) -> Any:
    """Return a model that is unsure at first and can become sure.

    A constant feature that the output layer does not read is most of the residual stream; what is trained outgrows it.
    """
    model = tiny_model(VOCABULARY, seed=seed, hidden=HIDDEN)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight[:, 0] = 0.0
    return model


def _base(folder: Path, seed: int) -> LoadedBase:
    folder.mkdir(parents=True)
    letters = [chr(ord("a") + index) for index in range(VOCABULARY - 1)]
    inner = Tokenizer(models.BPE(vocab={"<|end|>": END, **{x: n + 1 for n, x in enumerate(letters)}}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    model = _model(seed)
    model.generation_config = GenerationConfig(eos_token_id=END, bos_token_id=None, pad_token_id=END)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>").save_pretrained(folder)
    config = BaseConfig(prompt_format="plain")
    describe_base(config, folder)
    return load_base(folder, config, "fp32")
