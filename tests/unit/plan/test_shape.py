"""What the plan reads from a configuration is what transformers and PEFT make of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from rlhf.config.base import BaseConfig, LoraSection
from rlhf.errors import ConfigError
from rlhf.models.adapters import attach_lora
from rlhf.plan.shape import FOUR_BIT_BYTES, read_shape
from tests.unit.plan.shapes import (
    BLOOM_176B,
    GPT_175B,
    HAND,
    LLAMA_8B,
    LLAMA_65B,
    LLAMA_70B,
    QWEN_05B,
    shape_of,
)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        # As their authors publish them.
        (QWEN_05B, 494_032_768),
        (LLAMA_8B, 8_030_261_248),
        (LLAMA_65B, 65_285_660_672),
        (LLAMA_70B, 70_553_706_496),
        (BLOOM_176B, 176_247_271_424),
    ],
)
def test_parameters_are_those_of_the_published_model(settings: Any, parameters: int) -> None:
    assert shape_of(settings).parameters == parameters


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj")])
@pytest.mark.parametrize("settings", [HAND, QWEN_05B], ids=["hand", "0.5b"])
def test_an_adapter_has_as_many_weights_as_peft_gives_it(settings: Any, targets: tuple[str, ...]) -> None:
    lora = LoraSection(rank=4, targets=targets)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
        model.name_or_path = "shape"
        model = attach_lora(model, lora, "policy", trainable=True)
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert shape_of(settings).adapter_parameters(lora) == learning


def test_lora_of_rank_4_on_gpt_3_learns_one_weight_in_ten_thousand() -> None:
    # Hu et al. 2021, abstract. Two projections of 12,288 x 12,288 in each of 96 layers: 96 * 2 * 4 * (12288 + 12288).
    shape = shape_of(GPT_175B)
    learning = shape.adapter_parameters(LoraSection(rank=4, targets=("q_proj", "v_proj")))
    assert learning == 18_874_368
    assert shape.parameters == pytest.approx(175e9, rel=0.01)
    assert shape.parameters / learning == pytest.approx(10_000, rel=0.1)


def test_a_block_is_seen_as_it_is_built() -> None:
    shape = shape_of(HAND)
    (first, _) = shape.blocks
    places = {place: [(linear.inputs, linear.outputs) for linear in first.at(place)] for place in
              ("attention_in", "attention_out", "mlp_in", "mlp_out")}  # fmt: skip
    assert places == {
        "attention_in": [(8, 8), (8, 4), (8, 4)],
        "attention_out": [(8, 8)],
        "mlp_in": [(8, 16), (8, 16)],
        "mlp_out": [(16, 8)],
    }
    assert (shape.query_width, shape.key_width, shape.rotary, shape.slots) == (8, 4, True, True)


def test_four_bit_packs_the_linear_layers_of_blocks_alone() -> None:
    # Per block 64 + 32 + 32 + 64 + 3 * 128 = 576 packed; 1,704 - 2 * 576 = 552 weights stay in bf16.
    assert shape_of(HAND).weight_bytes("bf16", "4bit") == round(1152 * FOUR_BIT_BYTES + 2 * 552)
    # Half a byte, an 8-bit scale for 64 weights, an fp32 scale for 256 of those (Dettmers et al. 2023).
    assert pytest.approx(4.127, abs=1e-3) == FOUR_BIT_BYTES * 8


def test_experts_count_in_full_and_work_in_part() -> None:
    settings = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    shape = shape_of(settings)
    with torch.device("meta"):
        assert shape.parameters == AutoModelForCausalLM.from_config(settings).num_parameters()
    # 2 layers of 8 experts of three 16 x 32 matrices, of which a token passes two.
    assert sum(block.expert_weights for block in shape.blocks) == 2 * 8 * 3 * 16 * 32
    assert shape.active_weights - shape.linear_weights == 2 * 2 * 3 * 16 * 32


def test_an_unknown_target_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"\['query'\].*down_proj, gate_proj"):
        shape_of(HAND).targets(LoraSection(targets=("query",)))


def test_the_embedded_base_and_a_folder_are_read(tmp_path: Path) -> None:
    assert read_shape(BaseConfig()).parameters > 900_000
    HAND.save_pretrained(tmp_path)
    assert read_shape(BaseConfig(model=str(tmp_path))).parameters == 1704


def test_a_configuration_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config.json cannot be read .*readable config.json there"):
        read_shape(BaseConfig(model=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"there is no such folder"):
        read_shape(BaseConfig(model=str(tmp_path / "gone")))
    BLOOM_176B.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"set base.attention: eager"):
        read_shape(BaseConfig(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("old", "new"), [('"llama"', '"vit"'), ('"num_attention_heads": 2', '"num_attention_heads": 3')]
)
def test_a_configuration_without_usable_model_is_one_message(tmp_path: Path, old: str, new: str) -> None:
    HAND.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert old in text
    (tmp_path / "config.json").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=r"base.model is '.*': (its config.json cannot be read|no model can be made)"):
        read_shape(BaseConfig(model=str(tmp_path)))
