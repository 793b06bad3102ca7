"""The chain from any file back to the base, the prompts and the people: base, adapter, answer, pair, reward, policy."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf.artifacts import MANIFEST, Artifact, Manifest
from rlhf.errors import ArtifactError
from rlhf.hashing import hash_file

PROVENANCE = "provenance.json"


def all_manifests(run_root: Path) -> Iterator[Manifest]:
    """Yield the manifests of every artifact of a run, replaced ones included."""
    for path in sorted(run_root.glob(f"round-*/**/{MANIFEST}")):
        yield Manifest.read(path.parent)


def collect_chain(parents: Mapping[str, Artifact], run_root: Path) -> list[dict[str, Any]]:
    """Return one entry per ancestor, nearest first, each once; an exported file carries this list with it."""
    known = {manifest.identity: manifest for manifest in all_manifests(run_root)}
    chain: list[dict[str, Any]] = []
    waiting = [artifact.identity for artifact in parents.values()]
    seen: set[str] = set()
    while waiting:
        identity = waiting.pop(0)
        if identity in seen:
            continue
        seen.add(identity)
        manifest = known.get(identity)
        chain.append(_entry(manifest) if manifest else {"stage": "unknown", "identity": identity, "missing": True})
        if manifest:
            waiting += manifest.inputs.parents.values()
    return chain


def _entry(manifest: Manifest) -> dict[str, Any]:
    return {
        "stage": manifest.stage,
        "round": manifest.round,
        "identity": manifest.identity,
        "parents": manifest.inputs.parents,
        "external": manifest.inputs.external,
        "imported": manifest.imported,
        "facts": manifest.facts,
        "finished_at": manifest.recorded["finished_at"],
    }


def trace(path: Path) -> list[dict[str, Any]]:
    """Return the chain of the artifact that holds a file, nearest first.

    Works on any file of a run, and on an exported folder that was copied elsewhere.

    Raises:
        ArtifactError: The file belongs to no artifact, or its content is no longer what was recorded.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: no such file or folder")
    start = path if path.is_dir() else path.parent
    for folder in (start, *start.resolve().parents):
        if (folder / MANIFEST).is_file():
            return _trace_in_run(path, folder)
        if (folder / PROVENANCE).is_file():
            return _trace_exported(path, folder)
    raise ArtifactError(
        f"{path}: neither it nor a folder above it has a {MANIFEST} or {PROVENANCE}; it is no file of a run"
    )


def _trace_in_run(path: Path, folder: Path) -> list[dict[str, Any]]:
    artifact = Artifact.open(folder)
    if path.is_file():
        _require_same(path, artifact.manifest.content.get(path.resolve().relative_to(folder.resolve()).as_posix()))
    run_root = next((parent.parent for parent in folder.resolve().parents if parent.name.startswith("round-")), None)
    if run_root is None:
        raise ArtifactError(f"{folder}: the artifact lies outside a run; its parents cannot be found")
    known = {manifest.identity: manifest for manifest in all_manifests(run_root)}
    parents = {
        name: Artifact(run_root, known[identity])
        for name, identity in artifact.manifest.inputs.parents.items()
        if identity in known
    }
    return [_entry(artifact.manifest), *collect_chain(parents, run_root)]


def _trace_exported(path: Path, folder: Path) -> list[dict[str, Any]]:
    row = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    if path.is_file() and path.name != PROVENANCE:
        _require_same(path, row["files"].get(path.resolve().relative_to(folder.resolve()).as_posix()))
    return row["chain"]


def _require_same(path: Path, recorded: str | None) -> None:
    if recorded is not None and hash_file(path) != recorded:
        raise ArtifactError(f"{path}: content differs from what was recorded; this file was changed after it was made")


def describe_chain(chain: list[dict[str, Any]]) -> str:
    """Render a chain for people."""
    lines: list[str] = []
    for entry in chain:
        if entry.get("missing"):
            lines.append(f"?          {entry['identity'][:12]}  no longer in the run")
            continue
        imported = f"  imported from {entry['imported']}" if entry["imported"] else ""
        lines.append(
            f"{entry['stage']:<10} {entry['identity'][:12]}  round {entry['round']}  {entry['finished_at']}{imported}"
        )
        lines += [f"             {name}: {value}" for name, value in sorted(entry["facts"].items()) if _short(value)]
        lines += [f"             file {name}: {digest[:12]}" for name, digest in sorted(entry["external"].items())]
    return "\n".join(lines)


def _short(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 100)
