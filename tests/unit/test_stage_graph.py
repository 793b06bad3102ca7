"""The stage graph: what an import makes superfluous, what a change makes stale, and why."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.artifacts import RunFolder
from rlhf.config.load import parse_config
from rlhf.config.recipe import Config
from rlhf.errors import ConfigError
from rlhf.pipeline import RunOptions, run_pipeline
from rlhf.stage_graph import STAGES, fields_of, inputs_of, needed_stages, read_parents, stage_states


def recipe(root: Path, **values: Any) -> Config:
    return parse_config({"run": str(root), **values}, "test")


def finish_all(config: Config) -> RunFolder:
    run = RunFolder.open(config.run)
    for stage in needed_stages(config):
        inputs = inputs_of(stage, config, run, read_parents(stage, config, run))
        with run.draft(inputs, config_text="") as draft:
            (draft.path / "data.txt").write_text(f"{stage} {inputs.key}")
    return run


def stale(config: Config, run: RunFolder) -> dict[str, tuple[str, ...]]:
    return {state.stage: state.reasons for state in stage_states(config, run) if state.state != "finished"}


def test_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    assert stale(config, finish_all(config)) == {}


def test_learning_rate_of_ppo_reruns_ppo_and_below_only(tmp_path: Path) -> None:
    run = finish_all(recipe(tmp_path))
    found = stale(recipe(tmp_path, ppo={"learning_rate": 5e-5}), run)
    assert list(found) == ["ppo", "evaluate", "export"]
    assert found["ppo"] == ("ppo.learning_rate 1e-05 -> 5e-05",)
    assert found["evaluate"] == ("ppo runs again",)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"seed": 2}, "base"),
        ({"prompts": {"max_tokens": 99}}, "prompts"),
        ({"candidates": {"temperature": 0.5}}, "candidates"),
        ({"pairs": {"policy": "hard"}}, "pairs"),
        ({"evaluate": {"best_of": 8}}, "evaluate"),
        ({"export": {"name": "other"}}, "export"),
    ],
)
def test_change_reaches_exactly_what_lies_below(tmp_path: Path, change: dict[str, Any], first: str) -> None:
    run = finish_all(recipe(tmp_path))
    assert next(iter(stale(recipe(tmp_path, **change), run))) == first


@pytest.mark.parametrize(
    "change",
    [
        {"ppo": {"micro_batch_size": 16}},
        {"ppo": {"checkpoint_every": 3}},
        {"tracking": {"progress": False}},
        {"launch": {"processes": 2}},
        {"rankings": {"scripted": {"agreement": 0.9}}},
        {"base": {"attention": "eager"}},
    ],
)
def test_speed_output_and_unused_settings_make_nothing_stale(tmp_path: Path, change: dict[str, Any]) -> None:
    run = finish_all(recipe(tmp_path))
    assert stale(recipe(tmp_path, **change), run) == {}


def test_changed_outside_file_is_named(tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text("one\n")
    config = recipe(tmp_path / "run", prompts={"sources": [str(source)]})
    run = finish_all(config)
    source.write_text("two!\n")
    assert stale(config, run)["prompts"] == (f"file {source} changed",)


@pytest.mark.parametrize(
    ("content", "says"), [("cut", "is 3 bytes, was"), (None, "is gone")], ids=["truncated", "removed"]
)
def test_damaged_file_makes_its_stage_and_those_below_stale(tmp_path: Path, content: str | None, says: str) -> None:
    config = recipe(tmp_path)
    run = finish_all(config)
    path = run.folder("ppo") / "data.txt"
    path.unlink()
    if content is not None:
        path.write_text(content)
    found = stale(config, run)
    assert list(found) == ["ppo", "evaluate", "export"]
    assert found["ppo"][0].startswith(f"{path} {says}")
    changed = stale(recipe(tmp_path, sft={"epochs": 9}), run)
    assert changed["ppo"][0] == found["ppo"][0]
    assert "sft runs again" in changed["ppo"]


def test_a_recipe_that_says_nothing_of_scores_has_the_inputs_it_always_had(tmp_path: Path) -> None:
    for score in ({}, {"reward": 1.0, "length": {"free_tokens": 0}}, {"normalisation_prompts": 99}):
        fields = fields_of("ppo", recipe(tmp_path, score=score)) | fields_of("evaluate", recipe(tmp_path, score=score))
        assert not [name for name in fields if name.startswith("score.")]
    tone = {"model": "a/b", "revision": "0" * 40}
    fields = fields_of("ppo", recipe(tmp_path, score={"normalisation_prompts": 99, "classifiers": {"tone": tone}}))
    assert fields["score.normalisation_prompts"] == 99
    assert fields["score.classifiers.tone.revision"] == "0" * 40


def test_score_sources_and_their_files_belong_to_ppo_and_evaluation(tmp_path: Path) -> None:
    rules, tone = tmp_path / "rules.py", tmp_path / "tone"
    rules.write_text("def f(**_): ...\n")
    tone.mkdir()
    (tone / "config.json").touch()
    (tone / "model.safetensors").write_text("weights")
    score = {"functions": {"polite": {"function": f"{rules}:f"}}, "classifiers": {"tone": {"model": str(tone)}}}
    config = recipe(tmp_path / "run", score=score)
    run = finish_all(config)
    assert stale(config, run) == {}
    rules.write_text("def f(**_): return []\n")
    found = stale(config, run)
    assert list(found) == ["ppo", "evaluate", "export"]
    assert found["ppo"] == (f"file {rules} changed",)
    rules.write_text("def f(**_): ...\n")
    (tone / "model.safetensors").write_text("weights!")
    assert stale(config, run)["ppo"] == (f"file {tone} changed",)
    (tone / "model.safetensors").write_text("weights")
    score["functions"]["polite"]["weight"] = 2  # pyright: ignore[reportArgumentType]
    found = stale(recipe(tmp_path / "run", score=score), run)
    assert found["ppo"] == ("score.functions.polite.weight 1.0 -> 2.0",)


def test_without_the_reward_model_nothing_that_only_it_needs_is_run(tmp_path: Path) -> None:
    length = {"length": {"weight": 0.1}}
    assert needed_stages(recipe(tmp_path, score=length)) == STAGES
    needed = needed_stages(recipe(tmp_path, score={"reward": 0, **length}))
    assert needed == ("base", "prompts", "sft", "ppo", "evaluate", "export")
    finish_all(recipe(tmp_path, score={"reward": 0, **length}))


def test_an_imported_policy_is_not_made_anew_for_another_score(tmp_path: Path) -> None:
    config = recipe(tmp_path, ppo={"import_path": "p"}, score={"length": {"weight": 0.1}})
    assert "score.length.weight" not in fields_of("ppo", config)
    assert fields_of("evaluate", config)["score.length.weight"] == 0.1


def test_imports_make_what_lies_above_superfluous(tmp_path: Path) -> None:
    assert needed_stages(recipe(tmp_path)) == STAGES
    reward = recipe(tmp_path, reward={"import_path": "r"})
    assert not {"candidates", "rankings", "pairs"} & set(needed_stages(reward))
    pairs = recipe(tmp_path, pairs={"import_path": "p"})
    assert not {"candidates", "rankings"} & set(needed_stages(pairs))
    assert "prompts" in needed_stages(recipe(tmp_path, sft={"method": "none"}))


def test_imported_stage_ignores_its_training_settings(tmp_path: Path) -> None:
    fields = fields_of("reward", recipe(tmp_path, reward={"import_path": "r", "epochs": 9}))
    assert "reward.epochs" not in fields
    assert fields["reward.import_path"] == "r"


def test_columns_decide_where_a_file_is_imported(tmp_path: Path) -> None:
    named = {"prompt_field": "ask", "responses_field": "texts"}
    for more in ({}, {"import_path": "c.jsonl"}):
        fields = fields_of("candidates", recipe(tmp_path, candidates={**named, **more}))
        found = {name: value for name, value in fields.items() if name.endswith("_field")}
        assert found == ({"candidates.prompt_field": "ask", "candidates.responses_field": "texts"} if more else {})


def test_embedded_size_does_not_matter_to_another_base(tmp_path: Path) -> None:
    fields = fields_of("base", recipe(tmp_path, base={"model": "some/model"}))
    assert not [name for name in fields if name.startswith("base.embedded.")]
    assert "seed" not in fields


def test_interrupted_stage_is_told_as_partial(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    run = RunFolder.open(config.run)
    (tmp_path / "round-1" / "base.partial").mkdir(parents=True)
    first = stage_states(config, run)[0]
    assert (first.state, first.reasons) == ("partial", ("begun and not finished",))


def test_a_base_of_the_reward_models_own_belongs_to_the_stage_reward(tmp_path: Path) -> None:
    plain = recipe(tmp_path)
    assert not {name for name in fields_of("reward", plain) if name.startswith(("reward.base", "reward.tuning"))}
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").touch()
    (other / "model.safetensors").write_text("weights")
    own = {"base": {"model": str(other)}}
    config = recipe(tmp_path / "run", reward=own)
    run = finish_all(config)
    assert stale(config, run) == {}
    assert stale(recipe(tmp_path / "run", reward={**own, "init": "fresh"}), run) == {}
    found = stale(recipe(tmp_path / "run", reward={**own, "tuning": "full"}), run)
    assert list(found) == ["reward", "ppo", "evaluate", "export"]
    assert found["reward"][0].startswith("reward.lora.alpha")
    assert 'reward.tuning "lora" -> "full"' in found["reward"]
    base = {**own["base"], "gradient_checkpointing": True}
    assert stale(recipe(tmp_path / "run", reward={"base": base}), run) == {}
    (other / "model.safetensors").write_text("weights!")
    assert stale(config, run)["reward"] == (f"file {other} changed",)


def test_a_hub_model_without_a_commit_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for section in ({"reward": {"base": {"model": "a/b"}}}, {"score": {"classifiers": {"tone": {"model": "a/b"}}}}):
        with pytest.raises(ConfigError, match=r"revision is None; a/b is no local folder"):
            run_pipeline(recipe(tmp_path, **section), RunOptions())
    assert not list(tmp_path.glob("round-1/*"))
