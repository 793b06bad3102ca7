"""The `rlhf label user` commands: who may answer and who manages."""

import argparse
import sys
from getpass import getpass

from rlhf.errors import LabelError
from rlhf.label_options import MOST_TASKS, PLACE, add_command_to, database_of, read_place, say, whole
from rlhf.labels.accounts import ROLES
from rlhf.labels.passwords import check_password
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


def add_user_commands(commands: argparse._SubParsersAction) -> None:
    """Add `rlhf label user ...` to the command line."""
    user = commands.add_parser(
        "user", help="who may answer and who manages", description="who may answer and who manages"
    )
    user.add_argument("place", type=read_place, help=PLACE)
    inner = user.add_subparsers(required=True, metavar="COMMAND")
    add_command_to(inner, "list", _user_list, "everybody: pseudonym, name, role, state, limit, answers")
    add = add_command_to(inner, "add", _user_add, "make an account; its password is asked, or read from standard input")
    add.add_argument("name")
    add.add_argument("--role", choices=ROLES, default="annotator")
    add.add_argument("--no-password", action="store_true", help="for an invitation later, or for this machine only")
    invite = add_command_to(
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
        command = add_command_to(inner, word, action, text)
        command.add_argument("name", help="name or pseudonym")
        if word == "role":
            command.add_argument("role", choices=ROLES)
        if word == "limit":
            command.add_argument(
                "tasks", type=whole(0, MOST_TASKS, none="none"), help="a number, or none: as the round says"
            )


def _user_list(parsed: argparse.Namespace) -> None:
    say(list_command(database_of(parsed.place)))


def _user_add(parsed: argparse.Namespace) -> None:
    place = database_of(parsed.place)
    check_new_name(place, parsed.name)
    say(add_command(place, parsed.name, parsed.role, None if parsed.no_password else _ask_password()))


def _user_invite(parsed: argparse.Namespace) -> None:
    from labeling_ui.address import read_public_url

    url = read_public_url(parsed.public_url) if parsed.public_url else None
    say(invite_command(database_of(parsed.place), parsed.name, parsed.role, url))


def _user_role(parsed: argparse.Namespace) -> None:
    say(role_command(database_of(parsed.place), parsed.name, parsed.role))


def _user_password(parsed: argparse.Namespace) -> None:
    say(password_command(database_of(parsed.place), parsed.name, _ask_password))


def _user_pause(parsed: argparse.Namespace) -> None:
    say(pause_command(database_of(parsed.place), parsed.name, paused=True))


def _user_resume(parsed: argparse.Namespace) -> None:
    say(pause_command(database_of(parsed.place), parsed.name, paused=False))


def _user_limit(parsed: argparse.Namespace) -> None:
    say(limit_command(database_of(parsed.place), parsed.name, parsed.tasks))


def _user_remove(parsed: argparse.Namespace) -> None:
    say(active_command(database_of(parsed.place), parsed.name, active=False))


def _user_restore(parsed: argparse.Namespace) -> None:
    say(active_command(database_of(parsed.place), parsed.name, active=True))


def _ask_password() -> str:
    """Ask for a new password twice; where nobody sits at the keyboard, read it from a line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass("Password: ")
    check_password(password)
    if getpass("The same again: ") != password:
        raise LabelError("the two passwords differ; nothing was changed")
    return password
