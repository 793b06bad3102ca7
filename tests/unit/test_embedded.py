"""The embedded base on a tiny setting: an ordinary model folder, reproducible, cached by content."""

import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM

from rlhf.config.embedded import EmbeddedConfig
from rlhf.models import embedded
from rlhf.models.embedded import build_embedded_base, cache_key, cached_embedded_base, schedule
from rlhf.tracking import Tracker, read_metrics

TINY = EmbeddedConfig(
    vocabulary=400,
    hidden_size=32,
    layers=1,
    heads=2,
    mlp_size=48,
    context=128,
    documents=200,
    steps=20,
    batch_size=4,
    sequence_length=64,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    facts = build_embedded_base(TINY, 0, folder, Tracker(folder, bars=False))
    assert facts["tokens"] == 20 * 4 * 64
    assert facts["vocabulary"] == 400
    return folder


def test_loss_falls_and_is_logged(built: Path) -> None:
    rows = read_metrics(built / "metrics.jsonl")
    assert [row["step"] for row in rows] == [20]
    # Knowing nothing costs ln 400 = 5.99 nats per token; the mean covers the first steps too.
    assert rows[-1]["base/loss_nats"] < 5.9


def test_folder_is_an_ordinary_model(built: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(built)
    tokenizer = AutoTokenizer.from_pretrained(built)
    assert model.dtype == torch.float32
    assert model.model.embed_tokens.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert {path.suffix for path in built.iterdir()} >= {".safetensors", ".json"}
    generation = GenerationConfig.from_pretrained(built)
    assert generation.eos_token_id == tokenizer.eos_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == generation.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 128
    prompt = tokenizer("<|user|>Hello<|assistant|>", return_tensors="pt", return_token_type_ids=False)
    assert model(**prompt).logits.shape == (1, prompt["input_ids"].shape[1], 400)


def test_chat_template_ends_answers_only_and_matches_pretraining(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}
    answer = {"role": "assistant", "content": "Because."}

    def render(*turns: dict[str, str], generate: bool = False) -> str:
        return tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=generate)

    assert render(user, generate=True) == "<|user|>Why?<|assistant|>"
    assert render(system, user, answer, user, generate=True) == (
        "<|system|>Be brief.<|user|>Why?<|assistant|>Because.<|end|><|user|>Why?<|assistant|>"
    )
    row = next(embedded.pack_rows(tokenizer, [("Why?", "Because.")], TINY, 0)).tolist()
    one = tokenizer(render(user, answer))["input_ids"]
    assert (one * 40)[: TINY.sequence_length] == row


def test_only_answers_and_their_ends_are_learned(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    ids = torch.tensor([tokenizer("<|user|>a<|assistant|>b<|end|><|user|>c<|assistant|>d")["input_ids"]])
    learned = embedded.answer_mask(ids)
    assert tokenizer.decode(ids[learned]) == "b<|end|>d"
    # A row that is cut inside a request has nothing to learn after the cut.
    assert not embedded.answer_mask(ids[:, :2]).any()


def test_text_survives_the_tokenizer(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    text = " Ünïcode, tabs\tand  spaces .  "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_same_seed_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the caller's random state must not matter, nor be changed
    before = torch.get_rng_state()
    build_embedded_base(TINY, 0, tmp_path, Tracker.silent())
    assert torch.equal(before, torch.get_rng_state())
    assert (tmp_path / "model.safetensors").read_bytes() == (built / "model.safetensors").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == (built / "tokenizer.json").read_bytes()
    build_embedded_base(TINY, 1, tmp_path, Tracker.silent())
    assert (tmp_path / "model.safetensors").read_bytes() != (built / "model.safetensors").read_bytes()


def test_cache_is_read_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    left_behind = cache / f".partial-{platform.node()}-{ended.pid}-key"
    other = cache / f".partial-{platform.node()}-{os.getppid()}-key"
    for folder in (left_behind, other, tmp_path / "a"):
        folder.mkdir()
    tracker = Tracker(tmp_path / "a", bars=False)
    tracker.log(7, {"base/loss_nats": 1.0})  # of an attempt that was killed
    first = cached_embedded_base(TINY, 0, cache, tmp_path / "a", tracker)
    assert not first["cached"]
    monkeypatch.setattr(embedded, "build_embedded_base", lambda *_: pytest.fail("built twice"))
    second = cached_embedded_base(TINY, 0, cache, tmp_path / "b", Tracker.silent())
    assert second["cached"]
    assert second["cache_key"] == first["cache_key"]
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert {path.name for path in cache.iterdir()} == {first["cache_key"], other.name}
    for copied in ("a", "b"):
        assert [row["step"] for row in read_metrics(tmp_path / copied / "metrics.jsonl")] == [20]


def test_cache_key_covers_configuration_and_seed() -> None:
    longer = EmbeddedConfig(**{**{name: getattr(TINY, name) for name in TINY.__dataclass_fields__}, "steps": 21})
    assert len({cache_key(TINY, 0), cache_key(TINY, 1), cache_key(longer, 0)}) == 3
    assert cache_key(TINY, 0) == cache_key(TINY, 0)


def test_schedule_warms_up_and_decays() -> None:
    shares = [schedule(step, 100) for step in range(100)]
    # 5 steps of warm-up, then the full rate, then down to 2 %
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert shares[-1] == pytest.approx(0.02, abs=0.002)
