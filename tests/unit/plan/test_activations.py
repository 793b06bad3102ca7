"""The bytes that the plan says a pass keeps are the bytes that autograd keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlhf.config.base import BaseConfig, LoraSection
from rlhf.models.base import LoadedBase
from rlhf.models.roles import RoleSource, SharedBase, build_shared_base
from rlhf.plan.activations import Pass, kept_per_token
from rlhf.plan.shape import measure_shape

ROWS, WIDTH, RANK = 2, 48, 4
COMMON: dict[str, Any] = {"vocab_size": 300, "hidden_size": 64, "num_attention_heads": 4}
INNER: dict[str, Any] = {**COMMON, "intermediate_size": 160}
GROUPED: dict[str, Any] = {**INNER, "num_key_value_heads": 2}


def settings_of(family: str, layers: int) -> Any:
    made: dict[str, Any] = {
        "llama": LlamaConfig(**GROUPED, num_hidden_layers=layers),
        "qwen2": Qwen2Config(**GROUPED, num_hidden_layers=layers),
        "qwen3": Qwen3Config(**GROUPED, num_hidden_layers=layers, head_dim=16),
        "opt": OPTConfig(**COMMON, ffn_dim=160, num_hidden_layers=layers, word_embed_proj_dim=64),
        "neox": GPTNeoXConfig(**INNER, num_hidden_layers=layers),
        "bloom": BloomConfig(vocab_size=300, hidden_size=64, n_layer=layers, n_head=4),
    }
    return made[family]


def build(settings: Any, dtype: torch.dtype, attention: str, targets: tuple[str, ...]) -> SharedBase:
    model = AutoModelForCausalLM.from_config(settings, attn_implementation=attention).to(dtype).eval()
    model.name_or_path = type(model).__name__
    base: Any = LoadedBase(model.requires_grad_(False), None, "", None)  # pyright: ignore[reportArgumentType]
    lora = LoraSection(rank=RANK, targets=targets)
    return build_shared_base(base, {"policy": RoleSource(fresh=lora, trainable=True)})


def kept_by_autograd(shared: SharedBase, branches: Tensor | None = None) -> int:
    """Return the bytes of all storages that a forward pass keeps, weights and tables of the model left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*shared.parameters(), *shared.buffers())}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(ROWS * WIDTH).view(ROWS, WIDTH)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = shared.hidden("policy", ids, branches=branches)
    assert hidden.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def per_layer(family: str, dtype: torch.dtype, attention: str, targets: tuple[str, ...], **options: Any) -> float:
    """Return what a third layer adds to two, per token."""
    two, three = (
        kept_by_autograd(build(settings_of(family, layers), dtype, attention, targets), **options) for layers in (2, 3)
    )
    return (three - two) / (ROWS * WIDTH)


def planned(family: str, dtype: torch.dtype, attention: str, targets: tuple[str, ...], **how: Any) -> float:
    base = BaseConfig(attention=attention)  # pyright: ignore[reportArgumentType]
    shape = measure_shape(settings_of(family, 1), base)
    lora = LoraSection(rank=RANK, targets=targets)
    return kept_per_token(shape, Pass(lora, dtype.itemsize, **({"layers": "fused", "width": WIDTH} | how)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("llama", "sdpa"), ("llama", "eager"), ("qwen2", "sdpa"), ("qwen3", "sdpa"), ("opt", "sdpa"), ("neox", "sdpa"),
        ("bloom", "eager"),
    ],
)  # fmt: skip
def test_kept_bytes_are_those_that_autograd_keeps(family: str, attention: str, dtype: torch.dtype) -> None:
    found = per_layer(family, dtype, attention, ("all-linear",))
    # In bf16 a CPU's LayerNorm keeps its two numbers per token in bf16; a GPU's are fp32.
    assert planned(family, dtype, attention, ("all-linear",)) == pytest.approx(found, abs=8)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("o_proj", "gate_proj")], ids="-".join)
def test_layers_without_adapter_keep_no_input(targets: tuple[str, ...]) -> None:
    found = per_layer("llama", torch.float32, "sdpa", targets)
    assert planned("llama", torch.float32, "sdpa", targets) == pytest.approx(found, abs=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_pefts_own_pass_keeps_a_copy_of_each_input(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a 4-bit or a sharded base, where layers keep PEFT's forward.
    monkeypatch.setattr("rlhf.models.roles.fuse", lambda layer: None)
    found = per_layer("llama", dtype, "sdpa", ("all-linear",))
    assert planned("llama", dtype, "sdpa", ("all-linear",), layers="peft") == pytest.approx(found, abs=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_mask_of_its_own_keeps_all_heads_and_the_mask(dtype: torch.dtype) -> None:
    branches = (torch.arange(WIDTH) // 16).expand(ROWS, WIDTH)
    found = per_layer("llama", dtype, "sdpa", ("all-linear",), branches=branches)
    assert planned("llama", dtype, "sdpa", ("all-linear",), masked=True) == pytest.approx(found, abs=8)
