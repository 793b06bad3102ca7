"""What a stage leaves behind: a folder of data files with a manifest, published whole or not at all.

    runs/<name>/round-1/sft/            a finished artifact (it has a manifest)
    runs/<name>/round-1/sft.partial/    work in progress; resumed if its inputs are still the same
    runs/<name>/round-1/.replaced/      what newer artifacts took the place of, until `rlhf clean`
    runs/<name>/labels/                 the ranking store, outside every stage

An artifact's identity is the hash of its content, its parents' identities and the configuration
fields that change results. Time, hardware and versions are recorded beside it and change nothing.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from rlhf.disk import clear_os_errors, rename_folder, sync_tree
from rlhf.errors import ArtifactError
from rlhf.hashing import HashCache, hash_file, hash_value, list_files
from rlhf.lock import find_holder, hold
from rlhf.records import SPLITS, Split
from rlhf.surroundings import surroundings

MANIFEST = "manifest.json"
INPUTS = "inputs.json"
SCHEMA = 1
# export.json names the state of a label database, whose chain holds times and random ids, and provenance.json carries
# it along; whoever runs an export's verify.py writes verification.json anew. rankings.jsonl and the weights are content.
VOLATILE = frozenset(
    {
        MANIFEST,
        INPUTS,
        "config.yaml",
        "metrics.jsonl",
        "samples.jsonl",
        "export.json",
        "provenance.json",
        "verification.json",
    }
)
VOLATILE_FOLDERS = ("checkpoints",)
_ROUND = re.compile(r"round-([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that decides what a stage makes: configuration fields, parents, outside files."""

    stage: str
    fields: dict[str, Any]
    parents: dict[str, str]
    external: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def key(self) -> str:
        """Hash of all inputs."""
        return hash_value(asdict(self))

    def changes_from(self, old: "Inputs") -> list[str]:
        """Say in words how these inputs differ from older ones."""
        changes: list[str] = []
        for name in sorted(self.fields.keys() | old.fields.keys()):
            before, after = old.fields.get(name), self.fields.get(name)
            if before != after:
                changes.append(f"{name} {json.dumps(before)} -> {json.dumps(after)}")
        changes += [f"{stage} changed" for stage in self.parents if self.parents[stage] != old.parents.get(stage)]
        changes += [f"no longer uses {stage}" for stage in old.parents if stage not in self.parents]
        changes += [f"file {path} changed" for path in self.external if self.external[path] != old.external.get(path)]
        return changes


@dataclass(frozen=True, slots=True)
class Manifest:
    """The identity card of an artifact."""

    stage: str
    round: int
    identity: str
    inputs: Inputs
    content: dict[str, str]
    base: dict[str, str]
    splits: tuple[str, ...]
    facts: dict[str, Any]
    imported: str | None
    recorded: dict[str, Any]
    schema: int = SCHEMA
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes of every file in `content`; manifests of earlier versions have none."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a finished artifact.

        Raises:
            ArtifactError: It is damaged or of another schema.
        """
        path = folder / MANIFEST
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            if row["schema"] != SCHEMA:
                raise ArtifactError(f"{path}: schema {row['schema']}, this version reads {SCHEMA}")
            return cls(**row | {"inputs": Inputs(**row["inputs"]), "splits": tuple(row["splits"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path}: damaged manifest ({error}); remove {folder} and run the stage again"
            ) from error


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the artifact in a folder."""
        return cls(folder, Manifest.read(folder))

    @property
    def identity(self) -> str:
        """Hash of content, parents and fields."""
        return self.manifest.identity

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage wants later readers to know."""
        return self.manifest.facts

    def file(self, name: str) -> Path:
        """Return the path of a data file.

        Raises:
            ArtifactError: The file is gone.
        """
        path = self.path / name
        if not path.is_file():
            raise ArtifactError(
                f"{path}: missing from a finished {self.manifest.stage} artifact; remove the folder and run the stage again"
            )
        return path

    def damage(self) -> list[str]:
        """Say which files are gone or no longer of their recorded size; quick, as it reads none of them."""
        found: list[str] = []
        for name in self.manifest.content:
            path, size = self.path / name, self.manifest.sizes.get(name)
            if not path.is_file():
                found.append(f"{path} is gone")
            elif size is not None and path.stat().st_size != size:
                found.append(f"{path} is {path.stat().st_size} bytes, was {size}")
        return found

    def check(self) -> Self:
        """Compare every file with the manifest.

        Raises:
            ArtifactError: A file is missing, changed or truncated.
        """
        for name in self.manifest.content:
            self.checked(name)
        return self

    def checked(self, name: str) -> Path:
        """Return the path of a data file after comparing it with the manifest.

        Raises:
            ArtifactError: It is missing, changed or truncated.
        """
        if hash_file(self.file(name)) != self.manifest.content[name]:
            raise ArtifactError(
                f"{self.path / name}: content differs from the manifest (edited, truncated or damaged); "
                f"remove {self.path} and run {self.manifest.stage} again"
            )
        return self.path / name


def check_family(stage: str, parents: Mapping[str, Artifact]) -> dict[str, str]:
    """Return the base fingerprint that all parents share.

    Raises:
        ArtifactError: Two parents were made on different bases, tokenizers or prompt formats.
    """
    family: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name, artifact in parents.items():
        for kind, value in artifact.manifest.base.items():
            if family.setdefault(kind, value) != value:
                raise ArtifactError(
                    f"{stage}: parent {name} was made with another {kind} ({value[:12]}) than {owner[kind]} "
                    f"({family[kind][:12]}); run {name} again on this base"
                )
            owner.setdefault(kind, name)
    return family


def check_splits(stage: str, own: tuple[Split, ...], trained: Mapping[str, Artifact]) -> None:
    """Refuse a stage whose prompts were already trained on by one of the given artifacts.

    Raises:
        ArtifactError: A split is used twice.
    """
    for name, artifact in trained.items():
        overlap = sorted(set(own) & set(artifact.manifest.splits))
        if overlap:
            raise ArtifactError(
                f"{stage}: split {overlap[0]!r} was already used by {name}; its prompts must stay apart"
            )


class Draft:
    """An artifact in the making: a folder to write into, and what its manifest will say."""

    def __init__(self, path: Path, inputs: Inputs, *, resumed: bool) -> None:
        self.path = path
        self.inputs = inputs
        self.resumed = resumed
        self.splits: tuple[Split, ...] = ()
        self.facts: dict[str, Any] = {}
        self.base: dict[str, str] = {}
        self.imported: str | None = None
        self.processes = 1

    def start_over(self) -> None:
        """Remove what an interrupted attempt left, for a stage that does not go on from it."""
        for path in self.path.iterdir():
            if path.name not in (INPUTS, "config.yaml"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class RunFolder:
    """One run on disk, seen from one of its rounds."""

    INHERITED = ("base", "prompts", "sft")

    def __init__(self, root: Path, round_number: int) -> None:
        self.root = root
        self.round = round_number
        self.hashes = HashCache(root / ".hashes.json")

    @classmethod
    def open(cls, root: Path) -> Self:
        """Open a run at its latest round; the folder need not exist yet."""
        named = [(path, _ROUND.fullmatch(path.name)) for path in root.glob("round-*")]
        return cls(root, max((int(match[1]) for path, match in named if match and path.is_dir()), default=1))

    @property
    def labels(self) -> Path:
        """Folder of the ranking store."""
        return self.root / "labels"

    def folder(self, stage: str) -> Path:
        """Where this round's artifact of a stage is, or will be."""
        return self.root / f"round-{self.round}" / stage

    def find(self, stage: str) -> Artifact | None:
        """Return the finished artifact of a stage; later rounds inherit base, prompts and sft."""
        last = 1 if stage in self.INHERITED else self.round
        for number in range(self.round, last - 1, -1):
            folder = self.root / f"round-{number}" / stage
            if (folder / MANIFEST).is_file():
                return Artifact.open(folder)
        return None

    def read(self, stage: str, reader: str) -> Artifact:
        """Return the finished artifact of a stage.

        Raises:
            ArtifactError: It does not exist yet.
        """
        found = self.find(stage)
        if found is None:
            raise ArtifactError(
                f"{reader} needs {stage}, which is not finished in {self.folder(stage)}; run `rlhf {stage} CONFIG` first"
            )
        return found

    def previous(self) -> "RunFolder":
        """Return the round before this one.

        Raises:
            ArtifactError: This is the first round.
        """
        if self.round == 1:
            raise ArtifactError(
                "this is round 1: there is no previous policy; use `sft` here, or start a round with --new-round"
            )
        return RunFolder(self.root, self.round - 1)

    @contextlib.contextmanager
    def draft(
        self,
        inputs: Inputs,
        *,
        config_text: str,
        main: bool = True,
        barrier: Callable[[], None] = lambda: None,
    ) -> Generator[Draft]:
        """Open the folder in which a stage works, and publish it when the block ends without an error.

        Partial work of the same inputs is kept and handed on (`resumed`); of other inputs it is removed.
        In a run of several processes only the main one touches the folder.
        """
        final = self.folder(inputs.stage)
        partial = final.with_name(f"{inputs.stage}.partial")
        started = time.monotonic()
        resumed = False
        if main:
            with clear_os_errors(partial):
                resumed = _prepare(partial, inputs)
                (partial / "config.yaml").write_text(config_text, encoding="utf-8")
        barrier()
        draft = Draft(partial, inputs, resumed=resumed)
        yield draft
        barrier()
        if main:
            with clear_os_errors(partial):
                manifest = _describe(draft, self.round, time.monotonic() - started)
                _publish(partial, final, manifest)
        barrier()

    def holder(self) -> str | None:
        """Return the number of the process that works in this folder, or None."""
        return find_holder(self.root)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keep every other run out of this folder (see `rlhf.lock.hold`)."""
        return hold(self.root)


def _prepare(partial: Path, inputs: Inputs) -> bool:
    """Make the folder ready; return whether it holds earlier work of the same inputs."""
    marker = partial / INPUTS
    if marker.is_file() and _key_of(marker) == inputs.key:
        (partial / MANIFEST).unlink(missing_ok=True)  # of a process that ended while it published
        return True
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    marker.write_text(json.dumps({"key": inputs.key} | asdict(inputs), indent=1), encoding="utf-8")
    return False


def _key_of(marker: Path) -> str | None:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))["key"]
    except (ValueError, KeyError):
        return None


def _describe(draft: Draft, round_number: int, seconds: float) -> Manifest:
    assert set(draft.splits) <= set(SPLITS), draft.splits
    content = {
        path.relative_to(draft.path).as_posix(): hash_file(path)
        for path in list_files(draft.path)
        if path.name not in VOLATILE and path.relative_to(draft.path).parts[0] not in VOLATILE_FOLDERS
    }
    identity = hash_value({"content": content, "parents": draft.inputs.parents, "fields": draft.inputs.fields})
    return Manifest(
        stage=draft.inputs.stage,
        round=round_number,
        identity=identity,
        inputs=draft.inputs,
        content=content,
        sizes={name: (draft.path / name).stat().st_size for name in content},
        base=draft.base or ({"base": identity} if draft.inputs.stage == "base" else {}),
        splits=draft.splits,
        facts=draft.facts,
        imported=draft.imported,
        recorded=surroundings(seconds, draft.processes, resumed=draft.resumed),
    )


def _publish(partial: Path, final: Path, manifest: Manifest) -> None:
    """Write the manifest last, sync all, set an older artifact aside, and move the folder to its final name.

    The inputs go after that: a process that ends at any point before leaves partial work that is resumed.
    """
    (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1, ensure_ascii=False), encoding="utf-8")
    sync_tree(partial)
    if final.exists():
        kept = final.parent / ".replaced" / f"{final.name}-{time.time_ns()}"
        kept.parent.mkdir(exist_ok=True)
        final.rename(kept)
    rename_folder(partial, final)
    (final / INPUTS).unlink()


def main_process() -> bool:
    """Say whether this process may touch run folders: rank 0 of a launched group, or the only one."""
    return os.environ.get("RANK", "0") == "0"
