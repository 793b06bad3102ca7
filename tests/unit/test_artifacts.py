"""Artifacts: published whole or not at all, resumable, checked, locked."""

import json
import multiprocessing
from pathlib import Path

import pytest

from rlhf.artifacts import Artifact, Inputs, RunFolder, check_family, check_splits
from rlhf.errors import ArtifactError, ResourceError, RunLockedError
from rlhf.hashing import HashCache, derive_seed, hash_value


def make(run: RunFolder, stage: str = "sft", value: int = 1, *, base: str = "b") -> Artifact:
    inputs = Inputs(stage, {"x": value}, {})
    with run.draft(inputs, config_text="run: x\n") as draft:
        (draft.path / "data.txt").write_text(str(value))
        draft.base = {"base weights": base}
        draft.splits = ("sft",)
        draft.facts["value"] = value
    found = run.find(stage)
    assert found is not None
    return found


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.open(tmp_path / "run")


def test_published_artifact_can_be_read_and_checked(run: RunFolder) -> None:
    artifact = make(run).check()
    assert artifact.facts == {"value": 1}
    assert artifact.file("data.txt").read_text() == "1"
    assert not (artifact.path / "inputs.json").exists()
    assert not run.folder("sft").with_name("sft.partial").exists()


def test_identity_depends_on_content_parents_and_fields_only(tmp_path: Path) -> None:
    first, second = make(RunFolder.open(tmp_path / "a")), make(RunFolder.open(tmp_path / "b"))
    assert first.identity == second.identity
    assert make(RunFolder.open(tmp_path / "c"), value=2).identity != first.identity


def test_failure_leaves_no_artifact_and_keeps_the_work(run: RunFolder) -> None:
    inputs = Inputs("sft", {"x": 1}, {})

    def fail() -> None:
        with run.draft(inputs, config_text="") as draft:
            (draft.path / "half.txt").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert run.find("sft") is None
    with run.draft(inputs, config_text="") as draft:
        assert draft.resumed
        assert (draft.path / "half.txt").read_text() == "half"


def test_partial_work_of_other_inputs_is_dropped(run: RunFolder) -> None:
    def fail() -> None:
        with run.draft(Inputs("sft", {"x": 1}, {}), config_text="") as draft:
            (draft.path / "half.txt").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    with run.draft(Inputs("sft", {"x": 2}, {}), config_text="") as draft:
        assert not draft.resumed
        assert not (draft.path / "half.txt").exists()


def test_replaced_artifact_is_kept(run: RunFolder) -> None:
    make(run, value=1)
    make(run, value=2)
    kept = list((run.root / "round-1" / ".replaced").iterdir())
    assert [Artifact.open(folder).facts["value"] for folder in kept] == [1]


@pytest.mark.parametrize("damage", ["edit", "truncate", "remove"])
def test_damaged_file_is_refused(run: RunFolder, damage: str) -> None:
    artifact = make(run)
    path = artifact.path / "data.txt"
    if damage == "remove":
        path.unlink()
    else:
        path.write_text("" if damage == "truncate" else "2")
    with pytest.raises(ArtifactError, match=r"data\.txt"):
        artifact.check()


def test_damaged_manifest_is_refused(run: RunFolder) -> None:
    artifact = make(run)
    (artifact.path / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged manifest"):
        run.find("sft")


def test_missing_parent_names_the_command(run: RunFolder) -> None:
    with pytest.raises(ArtifactError, match="run `rlhf reward CONFIG` first"):
        run.read("reward", "ppo")


def test_parents_of_two_bases_are_refused(run: RunFolder) -> None:
    parents = {"sft": make(run, "sft", base="one"), "reward": make(run, "reward", base="two")}
    with pytest.raises(
        ArtifactError, match=r"parent reward was made with another base weights \(two\) than sft \(one\)"
    ):
        check_family("ppo", parents)
    assert check_family("ppo", {"sft": parents["sft"]}) == {"base weights": "one"}


def test_split_used_twice_is_refused(run: RunFolder) -> None:
    with pytest.raises(ArtifactError, match="split 'sft' was already used by sft"):
        check_splits("evaluate", ("sft", "test"), {"sft": make(run)})


def test_later_rounds_inherit_base_prompts_and_sft_only(run: RunFolder) -> None:
    make(run, "sft")
    make(run, "reward")
    (run.root / "round-2").mkdir()
    later = RunFolder.open(run.root)
    assert later.round == 2
    assert later.find("sft") is not None
    assert later.find("reward") is None
    assert later.previous().find("reward") is not None
    with pytest.raises(ArtifactError, match="round 1"):
        run.previous()


def _hold(root: Path, ready: object, done: object) -> None:
    with RunFolder.open(root).lock():
        ready.set()  # pyright: ignore[reportAttributeAccessIssue]
        done.wait(20)  # pyright: ignore[reportAttributeAccessIssue]


def test_second_process_is_refused_with_the_holder(run: RunFolder) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(run.root, ready, done))
    holder.start()
    try:
        assert ready.wait(20)
        with pytest.raises(RunLockedError, match=f"in use by process {holder.pid}"), run.lock():
            pass
    finally:
        done.set()
        holder.join(20)
    with run.lock():
        pass


def test_unusable_folder_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ResourceError, match="a file stands where a folder is needed"),
        RunFolder.open(tmp_path / "file").lock(),
    ):
        pass


def test_changes_are_told_in_words() -> None:
    old = Inputs("ppo", {"ppo.kl_coef": 0.1, "seed": 1}, {"sft": "a"}, {"f": "1"})
    new = Inputs("ppo", {"ppo.kl_coef": 0.2, "seed": 1}, {"sft": "b"}, {"f": "2"})
    assert new.changes_from(old) == ["ppo.kl_coef 0.1 -> 0.2", "sft changed", "file f changed"]
    assert new.key != old.key


def test_hash_cache_sees_changes_and_survives_damage(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    cache = HashCache(tmp_path / "hashes.json")
    before = cache.hash_source(folder)
    assert HashCache(tmp_path / "hashes.json").hash_source(folder) == before
    (folder / "a.txt").write_text("three")
    assert cache.hash_source(folder) != before
    (tmp_path / "hashes.json").write_text("not json")
    assert HashCache(tmp_path / "hashes.json").hash_source(folder) == cache.hash_source(folder)


def test_purposes_get_different_seeds() -> None:
    assert len({derive_seed(1, "candidates"), derive_seed(2, "candidates"), derive_seed(1, "ppo")}) == 3
    assert derive_seed(1, "ppo") == derive_seed(1, "ppo")
    assert hash_value({"a": 1, "b": 2}) == hash_value(json.loads('{"b": 2, "a": 1}'))
