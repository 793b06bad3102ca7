"""Configuration: all mistakes at once, did-you-mean, overrides, tags, schema, round trip."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.fields import effect_of, plain, result_fields
from rlhf.config.load import SNAPSHOT, config_help, dump_config, json_schema, load_config, parse_config, run_folder
from rlhf.config.recipe import Config, unshared_batches
from rlhf.config.score import LengthConfig, ScoreConfig
from rlhf.config.training import PpoConfig, SftConfig, fitted_micro_batch
from rlhf.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def sections(cls: Any = Config) -> list[Any]:
    inner = [entry.type for entry in dataclasses.fields(cls) if dataclasses.is_dataclass(entry.type)]
    return [cls, *(found for kind in inner for found in sections(kind))]


def test_all_mistakes_are_told_at_once_with_paths(tmp_path: Path) -> None:
    path = write(
        tmp_path, "run: x\nsede: 1\nkl_coef: 2\nppo: {learning_rte: 1e-4, kl_coef: -1, epochs: 1.5}\nprecision: fp8\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "6 mistakes" in message
    assert "ppo.learning_rte: no such field; did you mean 'learning_rate'?" in message
    assert "sede: no such field; did you mean 'seed'?" in message
    assert "kl_coef: no such field; it belongs to ppo" in message
    assert "ppo.kl_coef: Input should be greater than or equal to 0, found -1" in message
    assert "precision: " in message
    assert "ppo.epochs: " in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("- a\n", "found list"),
        ("run: [\n", "line 2"),
        ("run: x\nseed: 1\nseed: 2\n", "'seed' is given twice"),
        ("seed: 1\n", "run: missing"),
        ("run: x\nppo: {batch_size: 100, minibatch_size: 33}\n", "must be a multiple"),
        ("run: x\n? [a]\n: 1\n", "line 2 column 3: not YAML that a recipe may hold (found unhashable key)"),
        ("run: x\nexport: {name: 0b_}\n", "'0b_' looks like int and is none; write it in quotes"),
        ("run: x\nseed: !!int ''\n", "line 2 column 7: not YAML that a recipe may hold ('' looks like int"),
        ("run: " + "[" * 5000, "nested too deeply"),
        ('run: "a\\0b"\n', "line 1 column 6: not YAML that a recipe may hold (a NUL character in 'a\\x00b')"),
        ("run: a\0b\n", "special characters are not allowed"),
        ("run: x\nppo: &a {epochs: 1}\nsft: {<<: *a, epochs: 2, epochs: 3}\n", "'epochs' is given twice"),
        (f"run: x\nseed: 0x{'f' * 9000}\n", "found a number of thousands of digits"),
        (f"run: x\nseed: {'x' * 9000}\n", f"found '{'x' * 59}..."),
        (
            "run: x\nreward: {base: m}\n",
            "reward.base: a section, whose fields are model, revision, gradient_checkpointing, found 'm'",
        ),
        (
            "run: x\nppo: 3\n",
            "ppo: a section, whose fields are import_path, start, reference, advantage, samples_per_prompt, critic and others",
        ),
        ("run: x\nscore: {classifiers: {tone: m}}\n", "score.classifiers.tone: a section, whose fields are model"),
        ("run: x\ncandidates: {count: 1}\n", "candidates.count: Input should be greater than or equal to 2, found 1"),
        ("run: x\ncandidates: {count: 10}\n", "candidates.count: Input should be less than or equal to 9, found 10"),
    ],
)
def test_bad_file_is_one_message(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["2026-13-45", "2026-01-02", "2026-01-02 03:04:05", "'0b_'"])
def test_text_that_looks_like_a_date_stays_text(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, f"run: x\nexport: {{name: {text}}}\n")
    name = text.strip("'")
    config = load_config(path)
    assert config.export.name == name
    assert load_config(write(tmp_path, dump_config(config))) == config
    assert load_config(write(tmp_path, "run: x\n"), ["--export.name", text]) == config


@pytest.mark.parametrize(("of_sft", "rank"), [("*shape", 8), ("{<<: *shape, rank: 2}", 2)], ids=["alias", "merge"])
def test_sections_share_settings_and_an_override_reaches_its_own_only(tmp_path: Path, of_sft: str, rank: int) -> None:
    path = write(tmp_path, f"run: x\nreward: {{lora: &shape {{rank: 8, alpha: 4}}}}\nsft: {{lora: {of_sft}}}\n")
    config = load_config(path, ["--reward.lora.rank", "5"])
    assert (config.reward.lora.rank, config.reward.lora.alpha) == (5, 4)
    assert (config.sft.lora.rank, config.sft.lora.alpha) == (rank, 4)


@pytest.mark.parametrize("name", ["a" * 300, "/proc/self/mem"])
def test_unreadable_file_is_one_message(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        load_config(name)


def test_missing_file_names_the_installed_recipes() -> None:
    with pytest.raises(ConfigError, match=r"no such config file; installed recipes are .*quickstart"):
        load_config("nowhere.yaml")


def test_run_folder_and_recipe_stand_for_each_other(tmp_path: Path) -> None:
    run = tmp_path / "moved"
    run.mkdir()
    (run / SNAPSHOT).write_text("run: where it was\nseed: 5\n")
    config = load_config(run, ["--seed", "6"])
    assert (config.run, config.seed) == (run, 6)
    assert run_folder(run) == run
    assert run_folder(write(tmp_path, f"run: {run}\n")) == run
    with pytest.raises(ConfigError, match="no such config file"):
        run_folder(tmp_path / "none.yaml")


def test_overrides_win_in_both_forms(tmp_path: Path) -> None:
    path = write(tmp_path, "run: x\nppo: {learning_rate: 1e-4}\n")
    config = load_config(
        path, ["--ppo.learning-rate", "1e-6", "seed=7", "--sft.method=none", "ppo.whiten_rewards=true"]
    )
    assert (config.ppo.learning_rate, config.seed, config.sft.method, config.ppo.whiten_rewards) == (
        1e-6,
        7,
        "none",
        True,
    )


def test_the_last_override_wins_and_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "run: x\n"), ["seed=3", "--export.name", "a=b", "--seed", "4"])
    assert (config.seed, config.export.name) == (4, "a=b")


@pytest.mark.parametrize("override", ["--ppo.learning-rate", "stray", "--ppo.nothing=1", "--seed.deep=1"])
def test_bad_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, "run: x\n"), [override])


@pytest.mark.parametrize(
    "text", ["[a", "0b_", "{[a]: b}", "{a: 1, a: 2}", '"a\\0b"', "a: b: c", "[" * 5000, "!!bool x", "*a"]
)
def test_override_that_is_no_yaml_is_one_message_with_its_name(tmp_path: Path, text: str) -> None:
    for override in (["--export.name", text], [f"--export.name={text}"], [f"export.name={text}"]):
        with pytest.raises(ConfigError) as caught:
            load_config(write(tmp_path, "run: x\n"), override)
        assert str(caught.value).startswith("--export.name ")


def test_none_is_short_for_the_method(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "run: x\nsft: none\n")).sft.method == "none"


def test_dump_reads_back_unchanged(tmp_path: Path) -> None:
    config = load_config("quickstart")
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_field_has_a_tag_and_a_docstring(section: Any) -> None:
    for name, info in section.__pydantic_fields__.items():
        assert effect_of(section, name) in ("result", "speed", "output")
        assert info.description, f"{section.__name__}.{name} has no docstring"


def test_only_result_fields_decide_results() -> None:
    config = parse_config({"run": "x"}, "test")
    fields = result_fields(config.ppo, "ppo.")
    assert "ppo.learning_rate" in fields
    assert "ppo.micro_batch_size" not in fields
    assert "ppo.checkpoint_every" not in fields


def test_help_shows_docstrings_and_defaults() -> None:
    text = config_help("ppo")
    assert "ppo.kl_coef = 0.1  [result]" in text
    assert "Weight of the per-token KL term" in text
    assert "sft.epochs" not in text


def test_schema_describes_nested_fields() -> None:
    schema = json_schema()
    assert schema["$defs"]["PpoConfig"]["properties"]["kl_coef"]["minimum"] == 0
    assert schema["$defs"]["PpoConfig"]["additionalProperties"] is False


def test_configuration_is_frozen() -> None:
    config = parse_config({"run": "x"}, "test")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 2  # pyright: ignore[reportAttributeAccessIssue]
    assert plain(config)["seed"] == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("batch_size: 100, minibatch_size: 64", "batch_size is 100 and minibatch_size is 64"),
        ("minibatch_size: 128, micro_batch_size: 24", "minibatch_size is 128 and micro_batch_size is 24"),
        ("samples_per_prompt: 3", "samples_per_prompt is 3"),
        ("advantage: rloo", "rloo needs samples_per_prompt of 2 or more"),
    ],
)
def test_batches_that_do_not_divide_are_refused(tmp_path: Path, settings: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(write(tmp_path, f"run: x\nppo: {{{settings}}}\n"))


def test_score_sources_are_given_by_name_and_overridden_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("run: x\nscore:\n  functions: {polite: {function: rules.py:polite}}\n")
    config = load_config(path, ["--score.functions.polite.weight", "0.5", "--score.length.weight", "0.1"])
    assert config.score.functions["polite"].weight == 0.5
    assert config.score.length.weight == 0.1
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config
    text = config_help("score")
    assert "score.functions.NAME.weight = 1.0  [result]" in text
    assert "score.classifiers.NAME.model = null  [result]" in text


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ({"functions": {"f": {"functoin": "a.py:f"}}}, "did you mean 'function'?"),
        ({"functions": {"f": {}}}, "score.functions.f.function: missing"),
        ({"functions": {"f": {"function": "rules.py"}}}, "write path/to/file.py:function or module:function"),
        ({"functions": {"F f": {"function": "a.py:f"}}}, "'F f': use small letters"),
        ({"functions": {"mean": {"function": "a.py:f"}}}, "'mean' is taken"),
        ({"functions": {"x": {"function": "a:f"}}, "classifiers": {"x": {"model": "m"}}}, "'x' is taken"),
        ({"classifiers": {"x": {"model": "m", "mean": 1}}}, "give both, or neither"),
        ({"classifiers": {"x": {"model": "m", "mean": 1, "std": 0}}}, "score.classifiers.x.std"),
        ({"reward": 0}, "every weight is 0"),
        ({"length": {"weight": -1}}, "score.length.weight"),
        ({"classifiers": 3}, "score.classifiers"),
    ],
)
def test_mistakes_in_score_sources_are_told(score: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config({"run": "x", "score": score}, "test")
    assert says in str(error.value)


def test_a_micro_batch_is_the_largest_that_divides_the_share() -> None:
    assert [fitted_micro_batch(8, most) for most in (1, 3, 4, 7, 8, 32)] == [1, 2, 4, 4, 8, 8]
    assert fitted_micro_batch(7, 4) == 1


def test_batches_that_processes_cannot_share_are_named_with_what_would_do() -> None:
    config = Config(run=Path("runs/x"), ppo=PpoConfig(advantage="rloo", samples_per_prompt=4, batch_size=128))
    assert unshared_batches(config, 1) == unshared_batches(config, 4) == []
    said = unshared_batches(config, 64)
    assert "ppo.batch_size / ppo.samples_per_prompt is 32, which 64 processes do not share evenly; try 64" in said
    without_training = Config(
        run=Path("runs/x"), sft=SftConfig(method="none"), score=ScoreConfig(reward=0.0, length=LengthConfig(weight=1.0))
    )
    assert {line.split(" ")[0] for line in unshared_batches(without_training, 7)} == {
        "ppo.batch_size",
        "ppo.minibatch_size",
    }
