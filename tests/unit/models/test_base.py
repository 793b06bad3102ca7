"""Loading the base and holding it to its identity."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations import deepspeed

from rlhf.config.base import BaseConfig
from rlhf.errors import ArtifactError, ConfigError
from rlhf.models.base import describe_base, hash_weights, load_base, load_base_text, read_base_spec
from rlhf.models.roles import RoleSource, build_shared_base
from tests.tiny import TINY_LORA, tiny_base, tiny_folder


def test_the_identity_is_written_and_read_back(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "base")
    described = describe_base(BaseConfig(), folder)
    spec = read_base_spec(folder)
    assert described["weights_hash"] == spec.weights_hash
    assert (spec.kind, spec.model, spec.prompt_format, spec.end_token_ids) == ("embedded", ".", "chat", [0])
    model = load_base(folder, BaseConfig(), "fp32").model
    assert spec.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_local_folder_is_pointed_at(tmp_path: Path) -> None:
    source, artifact = tiny_folder(tmp_path / "model"), tmp_path / "base"
    artifact.mkdir()
    config = BaseConfig(model=str(source))
    describe_base(config, artifact)
    assert sorted(path.name for path in artifact.iterdir()) == ["base.json"]
    assert load_base(artifact, config, "bf16").model.dtype == torch.bfloat16


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    tiny_base(tmp_path)
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="weights changed"):
        tiny_base(tmp_path)


def test_a_changed_template_is_refused(tmp_path: Path) -> None:
    tiny_base(tmp_path)
    path = tmp_path / "base" / "chat_template.jinja"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ArtifactError, match="chat template"):
        load_base_text(tmp_path / "base", BaseConfig())


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin.*pickled"):
        describe_base(BaseConfig(), folder)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run the stage `base` first"):
        load_base(tmp_path, BaseConfig(), "fp32")
    with pytest.raises(ConfigError, match="no such folder"):
        describe_base(BaseConfig(model="./nowhere"), tmp_path)
    (tmp_path / "base.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        read_base_spec(tmp_path)


def test_the_weight_hash_sees_the_base_and_not_the_adapters(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    bare = hash_weights(base.model)
    shared = build_shared_base(base, {"policy": RoleSource(fresh=TINY_LORA, trainable=True)})
    assert hash_weights(shared.model) == bare
    with torch.no_grad():
        shared.lm_head.weight[3, 3] += 1e-6
    assert hash_weights(shared.model) != bare


def test_a_model_that_caps_its_logits_is_refused(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    folder = tiny_folder(tmp_path / "base")
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.05,
        max_position_embeddings=128,
    )
    model = Gemma2ForCausalLM(config)
    (folder / "generation_config.json").unlink()
    model.save_pretrained(folder)
    with pytest.raises(ConfigError, match="changes its logits"):
        describe_base(BaseConfig(attention="eager"), folder)


def test_dropout_is_off_even_in_training_mode(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "base")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_dropout": 0.5}))
    describe_base(BaseConfig(), folder)
    model = load_base(folder, BaseConfig(), "fp32").model.train()
    ids = torch.arange(2, 12)[None]
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_four_bit_weights_are_not_sharded(tmp_path: Path) -> None:
    class Settings:
        config: ClassVar[dict[str, Any]] = {}

        def is_zero3(self) -> bool:
            return True

    folder, settings = tiny_folder(tmp_path / "base"), Settings()
    describe_base(BaseConfig(), folder)
    deepspeed.set_hf_deepspeed_config(settings)
    try:
        with pytest.raises(ConfigError, match=r"launch.zero is 3 and base.quantization is 4bit"):
            load_base(folder, BaseConfig(quantization="4bit"), "bf16")
    finally:
        deepspeed.unset_hf_deepspeed_config()
