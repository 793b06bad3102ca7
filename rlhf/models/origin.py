"""Where a model that a recipe names lies: in a folder, or on the hub at a commit that cannot move."""

import re
from pathlib import Path

from rlhf.errors import ConfigError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def outside_folder(model: str, revision: str | None, owner: str) -> Path | None:
    """Return the local folder that a recipe names; None for a model on the hub, which must be pinned.

    Args:
        model: A folder, or a model id on the hub.
        revision: Commit of a hub model.
        owner: The section of the recipe, for messages.

    Raises:
        ConfigError: There is no such folder, or the hub model is not pinned to a commit.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")):
        raise ConfigError(f"{owner}.model is {model!r}; there is no such folder")
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"{owner}.revision is {revision}; {model} is no local folder, and a model on the hub needs the 40 digits of a "
            "commit, which cannot move"
        )
    return None
