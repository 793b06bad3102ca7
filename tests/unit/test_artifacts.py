"""Artifacts: published whole or not at all, resumable, checked, locked."""

import json
import multiprocessing
from pathlib import Path

import pytest

from rlhf.artifacts import Artifact, Inputs, RunFolder, check_family, check_splits
from rlhf.disk import rename_folder
from rlhf.errors import ArtifactError, DataError, ResourceError, RunLockedError
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


class Killed(BaseException):
    """Stands for kill -9: nothing of ours handles it."""


@pytest.mark.parametrize(
    "step",
    ["rlhf.artifacts.asdict", "rlhf.artifacts.sync_tree", "rlhf.artifacts.rename_folder", "after rename_folder"],
)
@pytest.mark.parametrize("replacing", [False, True], ids=["first", "replacing"])
def test_process_killed_while_publishing_loses_no_work(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, step: str, replacing: bool
) -> None:
    if replacing:
        make(run, value=1)
    inputs = Inputs("sft", {"x": 2}, {})

    def kill(*given: object, **_: object) -> None:
        if step == "after rename_folder":
            rename_folder(*given)  # pyright: ignore[reportArgumentType]
        raise Killed

    def work() -> None:
        with run.draft(inputs, config_text="") as draft:
            (draft.path / "checkpoints").mkdir()
            (draft.path / "checkpoints" / "last").write_text("hours")
            monkeypatch.setattr("rlhf.artifacts.rename_folder" if "rename" in step else step, kill)

    with pytest.raises(Killed):
        work()
    monkeypatch.undo()
    if step == "after rename_folder":
        assert (run.folder("sft") / "checkpoints" / "last").read_text() == "hours"
    else:
        with run.draft(inputs, config_text="") as draft:
            assert draft.resumed
            assert (draft.path / "checkpoints" / "last").read_text() == "hours"
            assert not (draft.path / "manifest.json").exists()
    finished = run.find("sft")
    assert finished is not None
    assert finished.check().manifest.inputs == inputs


def test_only_folders_with_a_decimal_number_are_rounds(tmp_path: Path) -> None:
    for name in ("round-2", "round-²", "round-٣", "round-03", "round-", "round-x", "round--4"):
        (tmp_path / name).mkdir()
    (tmp_path / "round-7").write_text("a file")
    assert RunFolder.open(tmp_path).round == 2


@pytest.mark.parametrize(
    ("content", "says"), [(None, "is gone"), ("", "is 0 bytes, was 1"), ("12", "is 2 bytes, was 1"), ("2", None)]
)
def test_damage_is_told_from_sizes_alone(run: RunFolder, content: str | None, says: str | None) -> None:
    artifact = make(run)
    path = artifact.path / "data.txt"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert artifact.damage() == ([f"{path} {says}"] if says else [])


def test_manifest_of_an_earlier_version_has_no_sizes(run: RunFolder) -> None:
    path = make(run).path / "manifest.json"
    row = json.loads(path.read_text())
    del row["sizes"]
    path.write_text(json.dumps(row))
    (path.parent / "data.txt").write_text("longer")
    assert Artifact.open(path.parent).damage() == []


def test_verifying_an_export_again_damages_nothing(run: RunFolder) -> None:
    with run.draft(Inputs("export", {}, {}), config_text="") as draft:
        (draft.path / "verification.json").write_text("{}")
    (run.folder("export") / "verification.json").write_text('{"passed": true}')
    assert run.read("export", "test").check().damage() == []


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


def test_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for source in (Path("/proc/self/mem"), tmp_path / ("a" * 300), loop):
        with pytest.raises(DataError, match=f"^{source}: "):
            HashCache(tmp_path / "hashes.json").hash_source(source)


def test_purposes_get_different_seeds() -> None:
    assert len({derive_seed(1, "candidates"), derive_seed(2, "candidates"), derive_seed(1, "ppo")}) == 3
    assert derive_seed(1, "ppo") == derive_seed(1, "ppo")
    assert hash_value({"a": 1, "b": 2}) == hash_value(json.loads('{"b": 2, "a": 1}'))
