"""The `rlhf label` commands: on a run folder, or on a label database anywhere."""

import argparse
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from rlhf.artifacts import RunFolder
from rlhf.config.data import RankingsConfig
from rlhf.config.load import load_config
from rlhf.errors import LabelError
from rlhf.label_options import (
    LARGEST,
    MOST_TASKS,
    add_place_command,
    add_round,
    database_of,
    is_run,
    read_place,
    read_share,
    round_of,
    say,
    whole,
)
from rlhf.label_user_cli import add_user_commands
from rlhf.labels.commands import (
    DEFAULT_OVERLAP,
    backup_command,
    close_command,
    delete_command,
    erase_command,
    export_command,
    import_command,
    init_command,
    status_command,
    verify_command,
)
from rlhf.labels.priorities import with_own_priorities
from rlhf.labels.publishing import find_round, list_rounds
from rlhf.labels.rounds import use_server
from rlhf.labels.store import open_store

RANKING_COLUMNS = {
    "prompt": "the prompt, where neither prompt_id nor id names it",
    "responses": "the list of candidates",
    "ranks": "the ranks, 1 is best",
    "scores": "scores to rank by, higher is better",
    "annotator": "the annotator's name",
}


def add_label_commands(commands: argparse._SubParsersAction) -> None:
    """Add `rlhf label ...` to the command line."""
    label = commands.add_parser("label", help="the ranking store and the labeling app")
    inner = label.add_subparsers(required=True, metavar="COMMAND")
    init = add_place_command(inner, "init", _init, "make a label database and publish a candidate file into it")
    init.add_argument("--candidates", type=Path, help="candidates.jsonl to publish")
    init.add_argument("--overlap", type=whole(1, 50), help="annotators per prompt (default: 2)")
    init.add_argument("--seed", type=whole(0, LARGEST), help="seed of task and display order")
    init.add_argument("--guidelines", type=Path, help="Markdown file shown beside each task")
    init.add_argument("--max-overlap", type=whole(1, 50), help="most annotators of a task on which they disagree")
    init.add_argument("--extra-below", type=float, help="agreement below which a task gets one more annotator")
    init.add_argument("--task-limit", type=whole(1, MOST_TASKS), help="most tasks of the round for one annotator")
    init.add_argument("--training", type=Path, help="JSONL of candidate sets with ranks and explanation, for practice")
    init.add_argument("--gold", type=Path, help="JSONL of candidate sets with known ranks, mixed in unseen")
    init.add_argument("--gold-share", type=float, help="share of gold items (default: 0.05)")
    init.add_argument("--repeat-share", type=float, help="share of repeated tasks (default: 0.05)")
    init.add_argument("--priorities", type=Path, help="JSONL with prompt_id and priority; higher is ranked first")
    init.add_argument("--random-share", type=float, help="share that priorities do not touch (default: 0.25)")
    add_round(init)
    imported = add_place_command(inner, "import", _import, "take rankings from a file into a published round")
    imported.add_argument("rankings", type=Path)
    for name, content in RANKING_COLUMNS.items():
        imported.add_argument(f"--{name}-field", metavar="COLUMN", help=f"column that holds {content}")
    add_round(imported)
    export = add_place_command(inner, "export", _export, "write rankings.jsonl and the manifest that names them")
    export.add_argument("folder", type=Path)
    export.add_argument("--event", type=whole(0, LARGEST), help="as of this event number; default is now")
    add_round(export)
    add_place_command(inner, "status", _status, "how far the rounds are, who answered, how well people agree")
    verify = add_place_command(inner, "verify", _verify, "walk the hash chain and report tampering")
    verify.add_argument("--against", type=Path, help="export.json whose head hash must be in the chain")
    close = add_place_command(inner, "close", _close, "end a round before all slots are filled")
    add_round(close)
    backup = add_place_command(
        inner, "backup", _backup, "copy the database while people work: to a file, or to PostgreSQL"
    )
    backup.add_argument("target", type=read_place, help="a new file, or the URL of an empty PostgreSQL database")
    erase = add_place_command(inner, "erase-person", _erase, "remove a person's name and words; the rankings stay")
    erase.add_argument("name", help="name or pseudonym")
    erase.add_argument("--yes", action="store_true", help="do it")
    delete = add_place_command(inner, "delete", _delete, "let answers count no more; their tasks are given out again")
    delete.add_argument(
        "--answer",
        dest="answers",
        type=whole(1, LARGEST, before="a-"),
        action="append",
        default=[],
        help="such as a-17",
    )
    delete.add_argument("--annotator", help="all answers of this name or pseudonym")
    delete.add_argument("--round", type=whole(0, LARGEST), help="only, or all, answers of this round")
    delete.add_argument("--why", default="", help="the reason; it is kept")
    delete.add_argument("--yes", action="store_true", help="do it")
    _add_prioritise(inner)
    _add_serve(inner)
    add_user_commands(inner)


def _add_prioritise(commands: argparse._SubParsersAction) -> None:
    command = add_place_command(
        commands, "prioritise", _prioritise, "order a round's prompts by what the reward model is unsure about"
    )
    command.add_argument(
        "--random-share",
        type=read_share,
        help="share taken at random all the same, and marked (default: the recipe's, 0.25)",
    )
    command.add_argument("--seed", type=whole(0, LARGEST), help="seed of the random share (default: the recipe's)")
    command.add_argument(
        "--out", type=Path, help="JSONL to write; default: beside the answers, where publishing reads it"
    )
    add_round(command)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    serve = add_place_command(commands, "serve", _serve, "start the pages: for this machine, or for a team over HTTPS")
    where = serve.add_mutually_exclusive_group()
    where.add_argument(
        "--local", action="store_true", help="for this machine, opened by a link that works once (default)"
    )
    where.add_argument("--host", help="address to listen on; needs --tls-cert and --tls-key, or --behind-proxy")
    serve.add_argument("--port", type=int, default=7860, help="default: 7860; 0 takes any that is free")
    serve.add_argument("--tls-cert", type=Path, help="PEM file with the certificate and its chain")
    serve.add_argument("--tls-key", type=Path, help="PEM file with its key")
    serve.add_argument("--behind-proxy", action="store_true", help="a proxy in front of this server does TLS")
    serve.add_argument(
        "--trusted-proxy",
        dest="trusted_proxies",
        action="append",
        help="address or network whose X-Forwarded headers are believed (default: this machine); may be repeated",
    )
    serve.add_argument("--public-url", help="what people type, such as https://labels.example.org")
    serve.add_argument("--name", help="your name, on this machine; asked in the page if not given")
    add_round(serve)


def _init(parsed: argparse.Namespace) -> None:
    names = ("overlap", "guidelines", "max_overlap", "extra_below", "task_limit", "training", "gold", "gold_share")
    names = (*names, "repeat_share", "priorities", "random_share")
    given = {name: getattr(parsed, name) for name in names if getattr(parsed, name) is not None}
    useless = sorted(given.keys() - {"guidelines"})
    if useless and parsed.candidates is None:
        raise LabelError(
            f"--{useless[0].replace('_', '-')} says how candidates are given out; name them with --candidates (the file that "
            "was published changes no task)"
        )
    try:
        settings = RankingsConfig(**{"overlap": DEFAULT_OVERLAP, **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise LabelError(f"--{name} is {first['input']}: {first['msg'].lower()}") from error
    database = database_of(parsed.place)
    say(init_command(database, parsed.candidates, settings=settings, round=round_of(parsed), seed=parsed.seed))


def _prioritise(parsed: argparse.Namespace) -> None:
    if not is_run(parsed.place):
        raise LabelError(f"{parsed.place}: no run folder; its candidates and its reward model are needed to prioritise")
    from rlhf.prioritise import prioritise_run

    say(
        prioritise_run(
            parsed.place, round=parsed.round, random_share=parsed.random_share, seed=parsed.seed, out=parsed.out
        )
    )


def _backup(parsed: argparse.Namespace) -> None:
    say(backup_command(database_of(parsed.place), parsed.target))


def _erase(parsed: argparse.Namespace) -> None:
    say(erase_command(database_of(parsed.place), parsed.name, confirmed=parsed.yes))


def _delete(parsed: argparse.Namespace) -> None:
    chosen = {"answer_ids": parsed.answers, "annotator": parsed.annotator, "round": parsed.round}
    say(delete_command(database_of(parsed.place), **chosen, why=parsed.why, confirmed=parsed.yes))


def _import(parsed: argparse.Namespace) -> None:
    columns = {name: getattr(parsed, f"{name}_field") for name in RANKING_COLUMNS}
    say(import_command(database_of(parsed.place), parsed.rankings, round=round_of(parsed), columns=columns))


def _export(parsed: argparse.Namespace) -> None:
    say(export_command(database_of(parsed.place), parsed.folder, round=round_of(parsed), event=parsed.event))


def _status(parsed: argparse.Namespace) -> None:
    say(status_command(database_of(parsed.place)))


def _verify(parsed: argparse.Namespace) -> None:
    say(verify_command(database_of(parsed.place), against=parsed.against))


def _close(parsed: argparse.Namespace) -> None:
    say(close_command(database_of(parsed.place), round=round_of(parsed)))


def _serve(parsed: argparse.Namespace) -> None:
    if is_run(parsed.place):
        _publish_run(parsed.place)
    from labeling_ui.address import Network
    from labeling_ui.web import serve

    if parsed.local and (parsed.behind_proxy or parsed.tls_cert or parsed.tls_key):
        raise LabelError("--local is for this machine; leave it away to serve others")
    network = Network(parsed.tls_cert, parsed.tls_key, parsed.behind_proxy, public_url=parsed.public_url)
    if parsed.trusted_proxies:
        network = replace(network, trusted_proxies=tuple(parsed.trusted_proxies))
    place = database_of(parsed.place)
    with open_store(place) as store:
        # An empty store may be served; what is published later is found where no round was asked for.
        round = find_round(store, round_of(parsed)) if list_rounds(store) or parsed.round is not None else None
    serve(
        place,
        host=parsed.host or "127.0.0.1",
        port=parsed.port,
        annotator_name=parsed.name,
        open_round=round,
        network=network,
        run=parsed.place if is_run(parsed.place) else None,
        announce=say,
    )


def _publish_run(place: Path) -> None:
    """Publish a run's candidates with the recipe that made them; a repeat changes nothing."""
    run = RunFolder.open(place)
    candidates = run.find("candidates")
    if candidates is None:
        raise LabelError(f"{place}: the candidates stage is not finished in round {run.round}; `rlhf run` makes them")
    config = load_config(candidates.path / "config.yaml")
    use_server(run.labels, config.rankings.database)
    settings = with_own_priorities(config.rankings, run.labels, run.round)
    file = candidates.file("candidates.jsonl")
    say(init_command(database_of(place), file, settings=settings, round=run.round, seed=config.seed))
    if config.rankings.source == "scripted":
        say(
            "This run was made with scripted rankings. To train on your answers, run its recipe with --rankings.source people"
        )
