"""The command line: `rlhf --help`. Imported by nobody; imports each command's modules when it runs."""

import argparse
import contextlib
import importlib
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf.config.load import config_help, load_config, recipe_path, recipes_folder, run_folder, write_schema
from rlhf.config.recipe import Config, require_shared_batches
from rlhf.entry import INTERRUPTED, TERMINATED, guarded, stage_main, steady_streams
from rlhf.errors import ConfigError, printable
from rlhf.label_cli import add_label_commands
from rlhf.stage_graph import LAUNCHED, STAGES

log = logging.getLogger(__name__)
RECIPE = "recipe: a YAML file, an installed recipe's name, or a run folder"
RUN = "run folder, or its recipe"
OVERRIDES = """Settings of the recipe follow as overrides: --seed 2, --run DIR, --ppo.learning-rate 1e-4 or ppo.updates=20.
`rlhf config fields` lists all of them."""
EPILOG = """Every stage runs three ways with the same recipe:
  rlhf ppo configs/quickstart.yaml --ppo.updates 20
  python -m stages.ppo configs/quickstart.yaml --ppo.updates 20
  rlhf launch ppo --processes 8 --zero 2 configs/quickstart.yaml --ppo.updates 20"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    steady_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in STAGES and not {"-h", "--help"} & set(given):
        stage = given[0]
        stage_main(stage, importlib.import_module(f"stages.{stage}").run, given[1:])
    parser = _parser()
    parsed, rest = parser.parse_known_args(given)
    if rest and not getattr(parsed, "takes_overrides", False):
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    parsed.overrides = rest
    sys.exit(guarded(lambda: parsed.action(parsed), verbose=parsed.verbose))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlhf",
        description="RLHF on parameter-efficient policies: from a base model to an aligned adapter.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--verbose", action="store_true", help="more log lines")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for stage in STAGES:
        command = commands.add_parser(
            stage,
            help=f"run stage {stage}",
            description=f"Run stage {stage}. Settings, with defaults and what changing them changes:\n\n{config_help(stage)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("config", help=RECIPE)
        command.add_argument("overrides", nargs="*", help="--section.field VALUE or section.field=VALUE")
    _add_run(commands)
    _add_looking(commands)
    _add_launch(commands)
    add_label_commands(commands)
    _add_config(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    command = _add(commands, "run", _run, "run every stage that is missing or stale, in order", config=True)
    command.add_argument("--dry-run", action="store_true", help="say what would run, why, and with which lines")
    command.add_argument("--wait", action="store_true", help="wait for the people who rank instead of exiting with 75")
    command.add_argument("--new-round", action="store_true", help="start another round from the current policy")
    command.add_argument(
        "--discard-labels", action="store_true", help="set answers aside that judge replaced candidates"
    )
    command.add_argument("--until", choices=STAGES, default="export", help="last stage to run")


def _add_looking(commands: argparse._SubParsersAction) -> None:
    _add(commands, "status", _status, "what is finished, stale or missing, and why", config=True)
    show = _add(commands, "show", _show, "formatted examples of a stage, token ids and loss mask", config=True)
    show.add_argument("stage", choices=STAGES)
    show.add_argument("-n", type=int, default=3, help="how many")
    trace = _add(commands, "trace", _trace, "walk from a file back to the base, the prompts and the people")
    trace.add_argument("file", type=Path)
    _add(commands, "doctor", _doctor, "what is installed, which device, what will work")
    plan = _add(
        commands, "plan", _plan, "what a run needs, before it starts: memory, disk, work; what to change", config=True
    )
    plan.add_argument("--gpus", type=int, help="how many (default: launch.processes)")
    plan.add_argument("--memory", help="of each GPU, such as 80GB: says what fits, and what to change")
    plan.add_argument("--flops", help="operations per second of each GPU, such as 400T: says how long it takes")
    _add(commands, "report", _report, "write summary.json and report.html of a run", config=True)
    clean = _add(commands, "clean", _clean, "remove replaced artifacts and interrupted work")
    clean.add_argument("run", type=Path, help=RUN)
    chat = _add(commands, "chat", _chat, "talk with the SFT and the aligned policy side by side")
    chat.add_argument("run", type=Path, help=RUN)
    chat.add_argument("--prompt", help="answer this one prompt and exit")
    chat.add_argument("--temperature", type=float, default=0.7)
    chat.add_argument("--seed", type=int, default=0)


def _add_launch(commands: argparse._SubParsersAction) -> None:
    command = _add(commands, "launch", _launch, "run a training stage on several processes", config=False)
    command.set_defaults(takes_overrides=True)
    command.add_argument("stage", choices=sorted(LAUNCHED))
    command.add_argument("config")
    command.add_argument("--processes", type=int, help="processes per node, one per GPU (default: launch.processes)")
    command.add_argument("--zero", type=int, choices=(0, 1, 2, 3), help="DeepSpeed ZeRO stage (default: launch.zero)")
    command.add_argument(
        "--offload", choices=("none", "optimizer", "all"), help="what the host's memory keeps (default: launch.offload)"
    )
    command.add_argument("--nodes", type=int, default=1, help="how many nodes; give the command on each of them")
    command.add_argument("--rank", type=int, default=0, help="this node's number, from 0")
    command.add_argument("--address", default="", help="node 0 as the others reach it")
    command.add_argument("--port", type=int, default=29500, help="a free port of node 0")
    command.add_argument("--print", action="store_true", dest="only_print", help="print the line and stop")


def _add_config(commands: argparse._SubParsersAction) -> None:
    config = commands.add_parser("config", help="about recipes")
    inner = config.add_subparsers(required=True, metavar="COMMAND")
    schema = _add(inner, "schema", _schema, "write the JSON Schema that lets editors complete a recipe")
    schema.add_argument("--out", type=Path)
    _add(inner, "list", _recipes, "the installed recipes")
    _add(inner, "fields", _fields, "every field with default, effect and meaning")
    _add(inner, "check", _check, "read a recipe and report all mistakes", config=True)


def _add(
    commands: argparse._SubParsersAction,
    name: str,
    action: Callable[[argparse.Namespace], None],
    text: str,
    *,
    config: bool = False,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, epilog=OVERRIDES if config else None)
    command.set_defaults(action=action, takes_overrides=config)
    if config:
        command.add_argument("config", help=RECIPE)
    return command


def _config(parsed: argparse.Namespace) -> Config:
    return load_config(parsed.config, parsed.overrides)


def _run(parsed: argparse.Namespace) -> None:
    from rlhf.pipeline import RunOptions, run_pipeline

    config = _config(parsed)
    options = RunOptions(
        dry_run=parsed.dry_run,
        wait=parsed.wait,
        new_round=parsed.new_round,
        discard_labels=parsed.discard_labels,
        target=parsed.until,
        recipe=recipe_path(parsed.config),
        overrides=tuple(parsed.overrides),
    )
    worked = run_pipeline(config, options)
    if worked and not parsed.dry_run and parsed.until == "export":
        _tell_result(config)


def _tell_result(config: Config) -> None:
    from rlhf.overview import tell_result, write_overview

    write_overview(config)
    tell_result(config)


def _report(parsed: argparse.Namespace) -> None:
    _tell_result(_config(parsed))


def _status(parsed: argparse.Namespace) -> None:
    from rlhf.overview import tell_status

    tell_status(_config(parsed))


def _show(parsed: argparse.Namespace) -> None:
    from rlhf.show import show_stage

    for text in show_stage(_config(parsed), parsed.stage, parsed.n):
        sys.stdout.write(printable(text) + "\n")


def _trace(parsed: argparse.Namespace) -> None:
    from rlhf.provenance import describe_chain, trace

    sys.stdout.write(describe_chain(trace(parsed.file)) + "\n")


def _doctor(parsed: argparse.Namespace) -> None:
    from rlhf.doctor import diagnose

    for finding in diagnose():
        mark = {True: "ok  ", False: "MISS", None: "    "}[finding.ok]
        remedy = f"  -> {finding.remedy}" if finding.remedy else ""
        sys.stdout.write(f"{mark} {finding.what}{remedy}\n")


def _plan(parsed: argparse.Namespace) -> None:
    from rlhf.plan.tell import tell_plan

    tell_plan(_config(parsed), parsed.gpus, parsed.memory, parsed.flops)


def _clean(parsed: argparse.Namespace) -> None:
    from rlhf.overview import clean

    clean(run_folder(parsed.run))


def _chat(parsed: argparse.Namespace) -> None:
    from rlhf.chat import chat_with_run

    chat_with_run(run_folder(parsed.run), parsed.prompt, temperature=parsed.temperature, seed=parsed.seed)


def _launch(parsed: argparse.Namespace) -> None:
    from rlhf.artifacts import RunFolder
    from rlhf.children import run_child
    from rlhf.launch import launch_line
    from rlhf.pipeline import StageFailed

    given = {name: getattr(parsed, name) for name in ("processes", "zero", "offload")}
    launch = [f"launch.{name}={value}" for name, value in given.items() if value is not None]
    config = load_config(parsed.config, [*parsed.overrides, *launch])
    line = launch_line(
        parsed.stage,
        recipe_path(parsed.config),
        parsed.overrides,
        config.launch,
        nodes=parsed.nodes,
        rank=parsed.rank,
        address=parsed.address,
        port=parsed.port,
    )
    sys.stdout.write(shlex.join(line) + "\n")
    sys.stdout.flush()
    if parsed.only_print:
        return
    # The first node holds the folder for all.
    with RunFolder.open(config.run).lock() if parsed.rank == 0 else contextlib.nullcontext():
        code = run_child(line)
    if code in (INTERRUPTED, TERMINATED):  # the stage has said so
        raise SystemExit(code)
    if code:
        raise StageFailed(parsed.stage, code)


def _schema(parsed: argparse.Namespace) -> None:
    write_schema(parsed.out)


def _recipes(parsed: argparse.Namespace) -> None:
    found = sorted(recipes_folder().glob("*.yaml"))
    if not found:
        raise ConfigError(f"{recipes_folder()}: no recipes are installed")
    for path in found:
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        sys.stdout.write(f"{path.stem:<24} {first}\n")


def _fields(parsed: argparse.Namespace) -> None:
    sys.stdout.write(config_help() + "\n")


def _check(parsed: argparse.Namespace) -> None:
    config = _config(parsed)
    require_shared_batches(config)
    sys.stdout.write(f"{parsed.config}: all right; the run folder is {config.run}\n")


if __name__ == "__main__":
    main()
