"""The stages candidates and evaluate under a launcher: their names, then recipe and settings as on the command line."""

import importlib
import sys

from rlhf.config.load import load_config


def main(stages: str, arguments: list[str]) -> None:
    """Run the stages, one after another."""
    config = load_config(arguments[0], arguments[1:])
    for stage in stages.split(","):
        importlib.import_module(f"stages.{stage}").run(config)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
