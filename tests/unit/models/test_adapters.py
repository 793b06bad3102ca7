"""Adapters on disk and in memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rlhf.config.base import LoraSection
from rlhf.errors import ArtifactError, ConfigError
from rlhf.models.adapters import (
    adapter_parameters,
    attach_lora,
    copy_adapter,
    load_adapter,
    read_safetensors,
    same_adapter,
    save_adapter,
    write_safetensors,
)
from tests.tiny import TINY_LORA, shake, tiny_base, tiny_shared

IDS = torch.randint(2, 250, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    shared = tiny_shared(tmp_path)
    shake(shared, "policy")
    shared.save_role("policy", tmp_path / "policy")
    return tmp_path / "policy"


def test_unknown_targets_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    model = tiny_base(tmp_path).model
    with pytest.raises(ConfigError, match=r"query.*down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"):
        attach_lora(model, LoraSection(targets=("q_proj", "query")), "policy", trainable=True)


def test_all_linear_takes_every_linear_layer_but_the_output(tmp_path: Path) -> None:
    model = attach_lora(tiny_base(tmp_path).model, TINY_LORA, "policy", trainable=True)
    keys = [key for key, _ in adapter_parameters(model, "policy")]
    assert len(keys) == 2 * 2 * 7  # A and B, two blocks, seven linear layers
    assert not any("lm_head" in key for key in keys)


def test_a_second_adapter_leaves_the_flags_of_the_first(tmp_path: Path) -> None:
    model = attach_lora(tiny_base(tmp_path).model, TINY_LORA, "one", trainable=True)
    attach_lora(model, TINY_LORA, "two", trainable=False)
    copy_adapter(model, "one", "three", trainable=True)
    flags = {name: {p.requires_grad for _, p in adapter_parameters(model, name)} for name in ("one", "two", "three")}
    assert flags == {"one": {True}, "two": {False}, "three": {True}}
    assert same_adapter(model, "one", "three")
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".lora_" not in n)


def test_names_that_contain_each_other_are_kept_apart(tmp_path: Path) -> None:
    model = attach_lora(tiny_base(tmp_path).model, TINY_LORA, "policy", trainable=True)
    attach_lora(model, TINY_LORA, "policy2", trainable=True)
    assert len(list(adapter_parameters(model, "policy"))) == 28


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT uses transformers' old name
def test_plain_peft_reads_the_folder(tmp_path: Path, saved: Path) -> None:
    shared = tiny_shared(tmp_path)
    shared.load_role("policy", saved)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), saved)
    with torch.no_grad():
        logits = plain(input_ids=IDS).logits
        assert torch.allclose(shared.lm_head(shared.hidden("policy", IDS)), logits, atol=1e-5)
    settings = json.loads((saved / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "embedded"  # no one's folders


def test_damage_is_named(tmp_path: Path, saved: Path) -> None:
    weights = saved / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="damaged"):
        load_adapter(tiny_base(tmp_path).model, saved, "policy", trainable=False)
    weights.unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        load_adapter(tiny_base(tmp_path).model, saved, "policy", trainable=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_lora_weights": "pissa"}, "changes the base weights"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"target_modules": ["query"]}, "not in this base"),
        ({"r": 8}, "shape"),
    ],
)
def test_what_cannot_share_a_base_is_refused(tmp_path: Path, saved: Path, change: dict[str, Any], message: str) -> None:
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match=message):
        load_adapter(tiny_base(tmp_path).model, saved, "policy", trainable=False)


def test_missing_tensors_and_bad_numbers_are_refused(tmp_path: Path, saved: Path) -> None:
    path = saved / "adapter_model.safetensors"
    tensors, header = read_safetensors(path)
    first = sorted(tensors)[0]
    write_safetensors({key: value for key, value in tensors.items() if key != first}, path, header)
    with pytest.raises(ArtifactError, match="lacks 1 tensors"):
        load_adapter(tiny_base(tmp_path).model, saved, "policy", trainable=False)
    write_safetensors({**tensors, first: tensors[first] * float("nan")}, path, header)
    with pytest.raises(ArtifactError, match="not finite"):
        load_adapter(tiny_base(tmp_path).model, saved, "policy", trainable=False)


def test_an_empty_shard_is_never_written(tmp_path: Path) -> None:
    model = attach_lora(tiny_base(tmp_path).model, TINY_LORA, "policy", trainable=True)
    next(iter(adapter_parameters(model, "policy")))[1].data = torch.empty(0)
    with pytest.raises(AssertionError, match="without a number"):
        save_adapter(model, "policy", tmp_path / "out", {})
