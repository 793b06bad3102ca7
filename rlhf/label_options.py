"""How the `rlhf label` commands read their places, numbers and rounds, and how they speak."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeGuard

from rlhf.artifacts import RunFolder
from rlhf.config.load import run_folder
from rlhf.labels.rounds import store_place
from rlhf.labels.store import Place, is_server

LARGEST = 2**31 - 1
MOST_TASKS = 1_000_000
PLACE = "run folder, its recipe, a label database file, or postgresql://USER@HOST/DATABASE"


def add_place_command(
    commands: argparse._SubParsersAction, name: str, action: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    """Add a command that names a place first: a run, its recipe or a database."""
    command = add_command_to(commands, name, action, text)
    command.add_argument("place", type=read_place, help=PLACE)
    return command


def add_command_to(
    commands: argparse._SubParsersAction, name: str, action: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    """Add a command; its action gets a run folder where its recipe was named."""
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(action=lambda parsed: action(_resolved(parsed)))
    return command


def add_round(command: argparse.ArgumentParser) -> None:
    """Add the option that names a round."""
    command.add_argument("--round", type=whole(0, LARGEST), help="round number; default is the latest")


def read_place(text: str) -> Place:
    """Read a place of the command line."""
    return text if is_server(text) else Path(text)


def whole(low: int, high: int, *, before: str = "", none: str | None = None) -> Callable[[str], int | None]:
    """Return what reads a whole number of an option: with `before` in front of it, and `none` for no number."""

    def read(text: str) -> int | None:
        if text == none:
            return None
        digits = text.removeprefix(before)
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and low <= int(digits) <= high):
            others = f", or {none}" if none else ""
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}{others}")
        return int(digits)

    return read


def read_share(text: str) -> float:
    """Read a share of an option."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number from 0 to 1")
    return value


def _resolved(parsed: argparse.Namespace) -> argparse.Namespace:
    if isinstance(parsed.place, Path):
        parsed.place = run_folder(parsed.place)
    return parsed


def is_run(place: Place) -> TypeGuard[Path]:
    """Say whether a place is a run folder."""
    return isinstance(place, Path) and place.is_dir()


def database_of(place: Place) -> Place:
    """Return the label database of a place."""
    return store_place(place / "labels") if is_run(place) else place


def round_of(parsed: argparse.Namespace) -> int | None:
    """Return the round that is asked for, that of a run, or None: the latest of a database."""
    if parsed.round is None and is_run(parsed.place):
        return RunFolder.open(parsed.place).round
    return parsed.round


def say(text: str) -> None:
    """Print a line, now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
