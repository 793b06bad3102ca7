"""The `rlhf label` commands: on a run folder, or on a label database anywhere."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rlhf.artifacts import RunFolder
from rlhf.config.load import load_config, run_folder
from rlhf.errors import LabelError
from rlhf.labels.commands import (
    export_command,
    import_command,
    init_command,
    status_command,
    verify_command,
)
from rlhf.labels.publishing import close_round
from rlhf.labels.rounds import DATABASE
from rlhf.labels.store import open_store

PLACE = "run folder, its recipe, or a label database file"


def add_label_commands(commands: argparse._SubParsersAction) -> None:
    """Add `rlhf label ...` to the command line."""
    label = commands.add_parser("label", help="the ranking store and the labeling app")
    inner = label.add_subparsers(required=True, metavar="COMMAND")
    init = _add(inner, "init", _init, "make a label database and publish a candidate file into it")
    init.add_argument("--candidates", type=Path, help="candidates.jsonl to publish")
    init.add_argument("--overlap", type=int, default=2, help="annotators per prompt")
    init.add_argument("--seed", type=int, help="seed of task and display order")
    init.add_argument("--guidelines", type=Path, help="Markdown file shown beside each task")
    _add_round(init)
    imported = _add(inner, "import", _import, "take rankings from a file into a published round")
    imported.add_argument("rankings", type=Path)
    _add_round(imported)
    export = _add(inner, "export", _export, "write rankings.jsonl and the manifest that names them")
    export.add_argument("folder", type=Path)
    export.add_argument("--event", type=int, help="as of this event number; default is now")
    _add_round(export)
    _add(inner, "status", _status, "how far the rounds are, who answered, how well people agree")
    verify = _add(inner, "verify", _verify, "walk the hash chain and report tampering")
    verify.add_argument("--against", type=Path, help="export.json whose head hash must be in the chain")
    close = _add(inner, "close", _close, "end a round before all slots are filled")
    _add_round(close)
    serve = _add(inner, "serve", _serve, "start the labeling page on this machine")
    serve.add_argument("--host", default="127.0.0.1", help="loopback only in this version")
    serve.add_argument("--port", type=int, default=7860)
    serve.add_argument("--name", help="your name as annotator; asked in the page if not given")
    _add_round(serve)


def _add(
    commands: argparse._SubParsersAction, name: str, action: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("place", type=Path, help=PLACE)
    command.set_defaults(action=lambda parsed: action(_resolved(parsed)))
    return command


def _add_round(command: argparse.ArgumentParser) -> None:
    command.add_argument("--round", type=int, help="round number; default is the latest")


def _resolved(parsed: argparse.Namespace) -> argparse.Namespace:
    parsed.place = run_folder(parsed.place)
    return parsed


def _database(place: Path) -> Path:
    return place / "labels" / DATABASE if place.is_dir() else place


def _round(parsed: argparse.Namespace) -> int:
    if parsed.round is not None:
        return parsed.round
    return RunFolder.open(parsed.place).round if parsed.place.is_dir() else 1


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _init(parsed: argparse.Namespace) -> None:
    _say(
        init_command(
            _database(parsed.place),
            parsed.candidates,
            overlap=parsed.overlap,
            round=_round(parsed),
            seed=parsed.seed,
            guidelines=parsed.guidelines,
        )
    )


def _import(parsed: argparse.Namespace) -> None:
    _say(import_command(_database(parsed.place), parsed.rankings, round=_round(parsed)))


def _export(parsed: argparse.Namespace) -> None:
    _say(export_command(_database(parsed.place), parsed.folder, round=_round(parsed), event=parsed.event))


def _status(parsed: argparse.Namespace) -> None:
    _say(status_command(_database(parsed.place)))


def _verify(parsed: argparse.Namespace) -> None:
    _say(verify_command(_database(parsed.place), against=parsed.against))


def _close(parsed: argparse.Namespace) -> None:
    with open_store(_database(parsed.place)) as store:
        closed = close_round(store, _round(parsed))
    _say(f"closed {closed} open tasks of round {_round(parsed)}; `rlhf run` goes on with the answers there are")


def _serve(parsed: argparse.Namespace) -> None:
    if parsed.place.is_dir():
        _publish_run(parsed.place)
    from labeling_ui.web import serve

    serve(
        _database(parsed.place),
        host=parsed.host,
        port=parsed.port,
        annotator_name=parsed.name,
        open_round=_round(parsed),
        announce=_say,
    )


def _publish_run(place: Path) -> None:
    """Publish a run's candidates with the recipe that made them; a repeat changes nothing."""
    run = RunFolder.open(place)
    candidates = run.find("candidates")
    if candidates is None:
        raise LabelError(f"{place}: the candidates stage is not finished in round {run.round}; `rlhf run` makes them")
    config = load_config(candidates.path / "config.yaml")
    _say(
        init_command(
            _database(place),
            candidates.file("candidates.jsonl"),
            overlap=config.rankings.overlap,
            round=run.round,
            seed=config.seed,
            guidelines=config.rankings.guidelines,
        )
    )
    if config.rankings.source == "scripted":
        _say(
            "This run was made with scripted rankings. To train on your answers, run its recipe with --rankings.source people"
        )
