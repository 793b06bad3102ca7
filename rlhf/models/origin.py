"""Where a model that a recipe names lies: in a folder, or on the hub at a commit that cannot move."""

import re
from pathlib import Path

from rlhf.errors import ArtifactError, ConfigError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def outside_folder(model: str, revision: str | None, owner: str) -> Path | None:
    """Return the local folder that a recipe names; None for a model on the hub, which must be pinned.

    Args:
        model: A folder, or a model id on the hub.
        revision: Commit of a hub model.
        owner: The section of the recipe, for messages.

    Raises:
        ArtifactError: The folder has no weights, or only pickled ones.
        ConfigError: There is no such folder, it holds no model, or the hub model is not pinned to a commit.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{owner}.model is {model!r}; that folder has no config.json, so it holds no model")
        weight_files(folder, owner)
        return folder
    if model.startswith((".", "/", "~")):
        raise ConfigError(f"{owner}.model is {model!r}; there is no such folder")
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"{owner}.revision is {revision}; {model} is no local folder, and a model on the hub needs the 40 digits of a "
            "commit, which cannot move"
        )
    return None


def weight_files(folder: Path, owner: str) -> list[Path]:
    """Return the safetensors files of a model folder; `owner` says in messages whose they are.

    Raises:
        ArtifactError: There are none; pickled weights are refused.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        found = f"only {', '.join(pickled)}, and pickled weights can run code" if pickled else "none"
        raise ArtifactError(f"{owner} {folder}: no *.safetensors file ({found}); convert the model to safetensors")
    return files
