"""The `rlhf label` commands: on a run folder, or on a label database anywhere."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from getpass import getpass
from pathlib import Path
from typing import TypeGuard

from pydantic import ValidationError

from rlhf.artifacts import RunFolder
from rlhf.config.data import RankingsConfig
from rlhf.config.load import load_config, run_folder
from rlhf.errors import LabelError
from rlhf.labels.accounts import ROLES
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
from rlhf.labels.passwords import check_password
from rlhf.labels.priorities import with_own_priorities
from rlhf.labels.publishing import find_round, list_rounds
from rlhf.labels.rounds import store_place, use_server
from rlhf.labels.store import Place, is_server, open_store
from rlhf.labels.user_commands import (
    active_command,
    add_command,
    check_new_name,
    invite_command,
    limit_command,
    list_command,
    password_command,
    pause_command,
    role_command,
)

LARGEST = 2**31 - 1
MOST_TASKS = 1_000_000
RANKING_COLUMNS = {
    "prompt": "the prompt, where neither prompt_id nor id names it",
    "responses": "the list of candidates",
    "ranks": "the ranks, 1 is best",
    "scores": "scores to rank by, higher is better",
    "annotator": "the annotator's name",
}
PLACE = "run folder, its recipe, a label database file, or postgresql://USER@HOST/DATABASE"


def add_label_commands(commands: argparse._SubParsersAction) -> None:
    """Add `rlhf label ...` to the command line."""
    label = commands.add_parser("label", help="the ranking store and the labeling app")
    inner = label.add_subparsers(required=True, metavar="COMMAND")
    init = _add(inner, "init", _init, "make a label database and publish a candidate file into it")
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
    _add_round(init)
    imported = _add(inner, "import", _import, "take rankings from a file into a published round")
    imported.add_argument("rankings", type=Path)
    for name, content in RANKING_COLUMNS.items():
        imported.add_argument(f"--{name}-field", metavar="COLUMN", help=f"column that holds {content}")
    _add_round(imported)
    export = _add(inner, "export", _export, "write rankings.jsonl and the manifest that names them")
    export.add_argument("folder", type=Path)
    export.add_argument("--event", type=whole(0, LARGEST), help="as of this event number; default is now")
    _add_round(export)
    _add(inner, "status", _status, "how far the rounds are, who answered, how well people agree")
    verify = _add(inner, "verify", _verify, "walk the hash chain and report tampering")
    verify.add_argument("--against", type=Path, help="export.json whose head hash must be in the chain")
    close = _add(inner, "close", _close, "end a round before all slots are filled")
    _add_round(close)
    backup = _add(inner, "backup", _backup, "copy the database while people work: to a file, or to PostgreSQL")
    backup.add_argument("target", type=_place, help="a new file, or the URL of an empty PostgreSQL database")
    erase = _add(inner, "erase-person", _erase, "remove a person's name and words; the rankings stay")
    erase.add_argument("name", help="name or pseudonym")
    erase.add_argument("--yes", action="store_true", help="do it")
    delete = _add(inner, "delete", _delete, "let answers count no more; their tasks are given out again")
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
    _add_user(inner)


def _add_prioritise(commands: argparse._SubParsersAction) -> None:
    command = _add(
        commands, "prioritise", _prioritise, "order a round's prompts by what the reward model is unsure about"
    )
    command.add_argument(
        "--random-share",
        type=_share,
        help="share taken at random all the same, and marked (default: the recipe's, 0.25)",
    )
    command.add_argument("--seed", type=whole(0, LARGEST), help="seed of the random share (default: the recipe's)")
    command.add_argument(
        "--out", type=Path, help="JSONL to write; default: beside the answers, where publishing reads it"
    )
    _add_round(command)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    serve = _add(commands, "serve", _serve, "start the pages: for this machine, or for a team over HTTPS")
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
    _add_round(serve)


def _add_user(commands: argparse._SubParsersAction) -> None:
    user = commands.add_parser(
        "user", help="who may answer and who manages", description="who may answer and who manages"
    )
    user.add_argument("place", type=_place, help=PLACE)
    inner = user.add_subparsers(required=True, metavar="COMMAND")
    _add_to(inner, "list", _user_list, "everybody: pseudonym, name, role, state, limit, answers")
    add = _add_to(inner, "add", _user_add, "make an account; its password is asked, or read from standard input")
    add.add_argument("name")
    add.add_argument("--role", choices=ROLES, default="annotator")
    add.add_argument("--no-password", action="store_true", help="for an invitation later, or for this machine only")
    invite = _add_to(
        inner, "invite", _user_invite, "print a link that works once: for an account, or for a new password"
    )
    invite.add_argument("name", nargs="?", help="for this person; without it, whoever opens the link chooses a name")
    invite.add_argument("--role", choices=ROLES, default="annotator", help="of a new account")
    invite.add_argument("--public-url", help="where the pages answer, such as https://labels.example.org")
    for word, action, text in (
        ("role", _user_role, "say what a person may do"),
        ("password", _user_password, "give a person another password; it is asked, or read from standard input"),
        ("pause", _user_pause, "give a person no new tasks"),
        ("resume", _user_resume, "give a person tasks again"),
        ("limit", _user_limit, "set the most tasks of a round for a person"),
        ("remove", _user_remove, "let a person sign in no more; the answers stay"),
        ("restore", _user_restore, "let a removed person work again"),
    ):
        command = _add_to(inner, word, action, text)
        command.add_argument("name", help="name or pseudonym")
        if word == "role":
            command.add_argument("role", choices=ROLES)
        if word == "limit":
            command.add_argument(
                "tasks", type=whole(0, MOST_TASKS, none="none"), help="a number, or none: as the round says"
            )


def _add(
    commands: argparse._SubParsersAction, name: str, action: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command = _add_to(commands, name, action, text)
    command.add_argument("place", type=_place, help=PLACE)
    return command


def _add_to(
    commands: argparse._SubParsersAction, name: str, action: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(action=lambda parsed: action(_resolved(parsed)))
    return command


def _add_round(command: argparse.ArgumentParser) -> None:
    command.add_argument("--round", type=whole(0, LARGEST), help="round number; default is the latest")


def _place(text: str) -> Place:
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


def _share(text: str) -> float:
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


def _is_run(place: Place) -> TypeGuard[Path]:
    return isinstance(place, Path) and place.is_dir()


def _database(place: Place) -> Place:
    return store_place(place / "labels") if _is_run(place) else place


def _round(parsed: argparse.Namespace) -> int | None:
    """Return the round that is asked for, that of a run, or None: the latest of a database."""
    if parsed.round is None and _is_run(parsed.place):
        return RunFolder.open(parsed.place).round
    return parsed.round


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


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
    database = _database(parsed.place)
    _say(init_command(database, parsed.candidates, settings=settings, round=_round(parsed), seed=parsed.seed))


def _prioritise(parsed: argparse.Namespace) -> None:
    if not _is_run(parsed.place):
        raise LabelError(f"{parsed.place}: no run folder; its candidates and its reward model are needed to prioritise")
    from rlhf.prioritise import prioritise_run

    _say(
        prioritise_run(
            parsed.place, round=parsed.round, random_share=parsed.random_share, seed=parsed.seed, out=parsed.out
        )
    )


def _backup(parsed: argparse.Namespace) -> None:
    _say(backup_command(_database(parsed.place), parsed.target))


def _erase(parsed: argparse.Namespace) -> None:
    _say(erase_command(_database(parsed.place), parsed.name, confirmed=parsed.yes))


def _delete(parsed: argparse.Namespace) -> None:
    chosen = {"answer_ids": parsed.answers, "annotator": parsed.annotator, "round": parsed.round}
    _say(delete_command(_database(parsed.place), **chosen, why=parsed.why, confirmed=parsed.yes))


def _import(parsed: argparse.Namespace) -> None:
    columns = {name: getattr(parsed, f"{name}_field") for name in RANKING_COLUMNS}
    _say(import_command(_database(parsed.place), parsed.rankings, round=_round(parsed), columns=columns))


def _export(parsed: argparse.Namespace) -> None:
    _say(export_command(_database(parsed.place), parsed.folder, round=_round(parsed), event=parsed.event))


def _status(parsed: argparse.Namespace) -> None:
    _say(status_command(_database(parsed.place)))


def _verify(parsed: argparse.Namespace) -> None:
    _say(verify_command(_database(parsed.place), against=parsed.against))


def _close(parsed: argparse.Namespace) -> None:
    _say(close_command(_database(parsed.place), round=_round(parsed)))


def _serve(parsed: argparse.Namespace) -> None:
    if _is_run(parsed.place):
        _publish_run(parsed.place)
    from labeling_ui.address import Network
    from labeling_ui.web import serve

    if parsed.local and (parsed.behind_proxy or parsed.tls_cert or parsed.tls_key):
        raise LabelError("--local is for this machine; leave it away to serve others")
    network = Network(parsed.tls_cert, parsed.tls_key, parsed.behind_proxy, public_url=parsed.public_url)
    if parsed.trusted_proxies:
        network = replace(network, trusted_proxies=tuple(parsed.trusted_proxies))
    place = _database(parsed.place)
    with open_store(place) as store:
        # An empty store may be served; what is published later is found where no round was asked for.
        round = find_round(store, _round(parsed)) if list_rounds(store) or parsed.round is not None else None
    serve(
        place,
        host=parsed.host or "127.0.0.1",
        port=parsed.port,
        annotator_name=parsed.name,
        open_round=round,
        network=network,
        run=parsed.place if _is_run(parsed.place) else None,
        announce=_say,
    )


def _user_list(parsed: argparse.Namespace) -> None:
    _say(list_command(_database(parsed.place)))


def _user_add(parsed: argparse.Namespace) -> None:
    place = _database(parsed.place)
    check_new_name(place, parsed.name)
    _say(add_command(place, parsed.name, parsed.role, None if parsed.no_password else _ask_password()))


def _user_invite(parsed: argparse.Namespace) -> None:
    from labeling_ui.address import read_public_url

    url = read_public_url(parsed.public_url) if parsed.public_url else None
    _say(invite_command(_database(parsed.place), parsed.name, parsed.role, url))


def _user_role(parsed: argparse.Namespace) -> None:
    _say(role_command(_database(parsed.place), parsed.name, parsed.role))


def _user_password(parsed: argparse.Namespace) -> None:
    _say(password_command(_database(parsed.place), parsed.name, _ask_password))


def _user_pause(parsed: argparse.Namespace) -> None:
    _say(pause_command(_database(parsed.place), parsed.name, paused=True))


def _user_resume(parsed: argparse.Namespace) -> None:
    _say(pause_command(_database(parsed.place), parsed.name, paused=False))


def _user_limit(parsed: argparse.Namespace) -> None:
    _say(limit_command(_database(parsed.place), parsed.name, parsed.tasks))


def _user_remove(parsed: argparse.Namespace) -> None:
    _say(active_command(_database(parsed.place), parsed.name, active=False))


def _user_restore(parsed: argparse.Namespace) -> None:
    _say(active_command(_database(parsed.place), parsed.name, active=True))


def _ask_password() -> str:
    """Ask for a new password twice; where nobody sits at the keyboard, read it from a line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass("Password: ")
    check_password(password)
    if getpass("The same again: ") != password:
        raise LabelError("the two passwords differ; nothing was changed")
    return password


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
    _say(init_command(_database(place), file, settings=settings, round=run.round, seed=config.seed))
    if config.rankings.source == "scripted":
        _say(
            "This run was made with scripted rankings. To train on your answers, run its recipe with --rankings.source people"
        )
