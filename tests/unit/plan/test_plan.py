"""Whole plans: what fits where, advice that the plan itself confirms, and one message for each mistake."""

import re
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli import main
from rlhf.config.load import load_config
from rlhf.errors import ConfigError
from rlhf.plan.advice import advise
from rlhf.plan.plan import fits, make_plan
from rlhf.plan.tell import assumptions, describe_advice, override_line, parse_memory, parse_rate
from tests.conftest import REPOSITORY
from tests.unit.plan.shapes import BLOOM_176B, HAND, LLAMA_8B, LLAMA_65B, LLAMA_70B, QWEN_05B, recipe, shape_of

CONFIGS = REPOSITORY / "configs"
EIGHT = CONFIGS / "llama-3.1-8b-8gpu.yaml"
BASES = {"0.5b": QWEN_05B, "8b": LLAMA_8B, "70b": LLAMA_70B, "176b": BLOOM_176B}


def test_a_65b_base_in_four_bits_trains_within_48_gb() -> None:
    # Dettmers et al. 2023: one GPU of 48 GB, adapters on all linear layers, gradient checkpointing, single examples.
    config = load_config(
        CONFIGS / "llama-3.1-8b-qlora.yaml", ["sft.batch_size=16", "sft.micro_batch_size=1", "sft.max_tokens=512"]
    )
    (sft,) = (stage for stage in make_plan(config, shape_of(LLAMA_65B), 1).stages if stage.stage == "sft")
    assert sft.load.training is not None
    # 65 billion weights at 4.127 bits are 33.7 GB; in bf16 they alone would be 130 GB.
    assert sft.memory.always["base weights"] == pytest.approx(34.3e9, rel=0.02)
    assert fits(sft.memory.peak, parse_memory("48GB"))
    assert sft.peaks["zero 0"] == sft.memory.peak


@pytest.mark.parametrize("gpus", [1, 8, 64])
@pytest.mark.parametrize("name", BASES)
def test_zero_3_divides_the_base_of_every_stage(name: str, gpus: int) -> None:
    attention = ["base.attention=eager"] if name == "176b" else []
    shape = shape_of(BASES[name])
    plan = make_plan(load_config(EIGHT, ["launch.zero=3", *attention]), shape, gpus)
    by_stage = {stage.stage: stage for stage in plan.stages}
    assert {stage.memory.always["base weights"] for stage in plan.stages} == {-(-2 * shape.parameters // gpus)}
    assert (by_stage["ppo"].sent_per_step > 0) == (gpus > 1)
    peaks = by_stage["ppo"].peaks
    if gpus > 1:
        assert peaks["zero 3"] == by_stage["ppo"].memory.peak
        assert peaks["zero 3"] is not None
        assert peaks["zero 0"] is not None
        assert peaks["zero 3"] < peaks["zero 0"] or name == "0.5b"


def test_what_fits_needs_no_change() -> None:
    advice = advise(load_config(EIGHT), shape_of(LLAMA_8B), 8, 80e9)
    assert (advice.settings, advice.stages) == ({}, ())
    assert list(describe_advice(advice, 80e9, 8)) == ["Every stage fits into 80 GB per GPU."]


@pytest.mark.parametrize(
    ("settings", "gpus", "memory", "expected"),
    [
        (LLAMA_8B, 1, 32e9, {"ppo.rollout_batch_size=32"}),
        (LLAMA_8B, 1, 28e9, {"reward.score_batch_size=32"}),
        (LLAMA_8B, 8, 22e9, {"launch.zero=3"}),
        (LLAMA_8B, 1, 21e9, {"base.quantization=4bit"}),
        (LLAMA_70B, 8, 80e9, {"launch.zero=3"}),
    ],
    ids=["smaller-passes", "smaller-samples", "shards", "four-bit", "70b"],
)
def test_advice_makes_the_recipe_fit(settings: Any, gpus: int, memory: float, expected: set[str]) -> None:
    config, shape = load_config(EIGHT), shape_of(settings)
    before = make_plan(config, shape, gpus)
    assert not all(fits(stage.memory.peak, memory) for stage in before.stages)
    advice = advise(config, shape, gpus, memory)
    assert advice.settings
    line = override_line(advice.settings)
    assert all(word in line for word in expected), line
    # As a user takes it: the line behind the recipe's name.
    after = make_plan(load_config(EIGHT, line.split()), shape, gpus)
    assert all(fits(stage.memory.peak, memory) for stage in after.stages)


def test_what_no_setting_makes_fit_is_named() -> None:
    # An eighth of the base takes 44 of the 70 GB, and attention by `eager` keeps every head's weights of a step.
    config = load_config(EIGHT, ["base.attention=eager"])
    advice = advise(config, shape_of(BLOOM_176B), 8, 70e9)
    assert advice.settings is None
    assert advice.hopeless.keys() == {"reward", "ppo"}
    lines = list(describe_advice(advice, 70e9, 8))
    assert any(re.match(r"No setting makes reward fit: it needs \d+\.\d\d GB at least", line) for line in lines)


def test_gradient_checkpointing_is_advised_before_shards_and_four_bits() -> None:
    long = ["sft.micro_batch_size=1", "sft.max_tokens=8000", "ppo.micro_batch_size=1", "reward.micro_batch_prompts=1"]
    config = load_config(EIGHT, ["base.gradient_checkpointing=false", *long])
    advice = advise(config, shape_of(LLAMA_8B), 8, 80e9)
    assert advice.stages == ("sft",)
    assert advice.settings == {"base.gradient_checkpointing": True}


def test_scores_of_held_out_answers_are_planned_whatever_normalisation_needs() -> None:
    plans = (
        make_plan(
            load_config(EIGHT, ["reward.score_batch_size=128", f"reward.normalisation_prompts={count}"]),
            shape_of(LLAMA_8B),
            8,
        )
        for count in (8, 128)
    )
    few, many = (next(stage.memory for stage in plan.stages if stage.stage == "reward").moments for plan in plans)
    assert few["read"] == many["read"]
    assert few["decode"]["KV cache"] < many["decode"]["KV cache"]


def test_batches_that_do_not_divide_are_named() -> None:
    (line,) = make_plan(load_config(EIGHT), shape_of(LLAMA_8B), 24).refused[:1]
    assert line == "sft.batch_size is 64, which 24 processes do not share evenly; try 48 or 72"
    assert make_plan(load_config(EIGHT), shape_of(LLAMA_8B), 8).refused == ()


@pytest.mark.parametrize(("text", "size"), [("80GB", 80e9), ("80 gib", 80 * 2**30), ("0.5TB", 5e11), ("512MiB", 2**29)])
def test_memory_has_a_unit(text: str, size: float) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["80", "80GX", "GB", "0GB", "-1GB", "1.2.3GB", ""])
def test_memory_without_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--memory is .*such as 80GB"):
        parse_memory(text)


@pytest.mark.parametrize(("text", "rate"), [("400e12", 4e14), ("400T", 4e14), ("1.5P", 1.5e15), ("900g", 9e11)])
def test_rates_are_read(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "0T", "400", "400X", "4e", "1e400", ""])
def test_rates_without_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--flops is .*such as 400T"):
        parse_rate(text)


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A recipe whose base is a folder with nothing but config.json."""
    HAND.save_pretrained(tmp_path / "base")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"run: {tmp_path / 'run'}\nbase: {{model: {tmp_path / 'base'}}}\nprompts: {{sources: [p.jsonl]}}\n")
    return path


def run(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_the_command_prints_tables_assumptions_and_a_verdict(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(planned), "--gpus", "2", "--memory", "24GB", "--flops", "400T", "launch.zero=3"]) == 0
    shown = capsys.readouterr().out
    for word in ("1,704 parameters in fp32", "activations", "merge backup", "zero 3", "4-bit", "Taken for granted",
                 "30% of 400 TFLOP/s", "Every stage fits into 24 GB per GPU."):  # fmt: skip
        assert word in shown, word
    assert not (planned.parent / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "80GX"], "--memory is '80GX'"),
        (["--gpus", "0"], "--gpus is 0; give 1 or more"),
        (["--flops", "many"], "--flops is 'many'"),
        (["sft.lora={targets: [query]}"], "lora.targets names ['query']"),
        (["base.model=./nowhere"], "there is no such folder"),
    ],
)
def test_a_mistake_is_one_message(
    planned: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", str(planned), *options]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_an_imported_stage_is_not_planned() -> None:
    config = recipe(sft={"import_path": "adapter"}, pairs={"import_path": "pairs.jsonl"})
    assert [stage.stage for stage in make_plan(config, shape_of(HAND), 1).stages] == ["reward", "ppo", "evaluate"]


def test_what_is_not_on_the_shared_base_is_said_and_not_counted() -> None:
    own = recipe(reward={"base": {"model": "another"}}, launch={"zero": 3, "offload": "all"})
    plan = make_plan(own, shape_of(HAND), 1)
    assert [stage.stage for stage in plan.stages] == ["sft", "candidates", "ppo", "evaluate"]
    ppo = plan.stages[2].load
    assert [(role.name, role.heads) for role in ppo.roles] == [("reference", 0), ("policy", 0), ("critic", 1)]
    said = " ".join(assumptions(plan, None))
    assert "reward.base" in said
    assert "launch.offload all is not counted" in said
    assert "reward.base" not in " ".join(assumptions(make_plan(recipe(), shape_of(HAND), 1), None))


@pytest.mark.parametrize(
    "change",
    [
        {"launch": {"zero": 3, "offload": "all"}},
        {"reward": {"micro_batch_prompts": 3, "micro_batch_tokens": 64}},
        {"ppo": {"micro_batch_size": 3, "micro_batch_tokens": 64}},
    ],
    ids=["offload", "reward-tokens", "ppo-tokens"],
)
def test_advice_passes_through_no_recipe_that_would_be_refused(change: dict[str, Any]) -> None:
    advice = advise(recipe(**change), shape_of(HAND), 2, 1e6)
    assert advice.settings is None  # not even the room that is left free is there
    assert "ppo" in advice.hopeless
