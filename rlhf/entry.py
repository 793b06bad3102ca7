"""How a stage begins and ends: configuration in, parents checked, draft published, errors told in one message."""

import contextlib
import ctypes
import errno
import io
import json
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.artifacts import Artifact, Draft, RunFolder, check_family, main_process
from rlhf.config.load import dump_config, load_config
from rlhf.config.recipe import Config
from rlhf.errors import RlhfError, WaitingForPeople, printable
from rlhf.stage_graph import StageName, import_path, inputs_of, read_parents
from rlhf.tracking import Tracker, configure_logging, open_sinks

log = logging.getLogger(__name__)
INTERRUPTED, TERMINATED = 130, 143
PR_SET_PDEATHSIG = 1
LAUNCHER = "RLHF_LAUNCHER"
"""A folder, set for processes whose launcher tells what made them fail (see `rlhf.torchrun`)."""
LAST_WORDS, FAILED = "last-words", "failed-{rank}"
_LOST = re.compile(
    r"Connection (closed|reset) by peer|Timed out waiting|Broken pipe|Socket Timeout|Connection refused|"
    r"failed to recv|Watchdog caught|NCCL communicator was aborted|wait timeout after|Gloo connectFullMesh failed"
)
_REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again: finished work is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again: finished work is kept",
    errno.EACCES: "no permission; choose another `run:` folder or change its owner",
    errno.EROFS: "the file system is read-only; choose another `run:` folder",
    errno.EPERM: "the system does not permit it; choose another `run:` folder or change its owner",
    errno.EFBIG: "the file would be larger than is allowed here; raise the limit with `ulimit -f`",
    errno.EMFILE: "too many open files; raise the limit with `ulimit -n`",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.ELOOP: "the symbolic links lead in a circle; mend them or choose another path",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another path or move the file away",
    errno.EISDIR: "a folder stands where a file is needed; choose another path or move the folder away",
    errno.EEXIST: "something else has this name already; move it away",
    errno.EIO: "the device failed to read or write; look at the system's log, then run the same command again",
    errno.ESTALE: "the network file system lost the file; run the same command again",
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage has in hand: its run, the artifacts it reads, the draft it writes."""

    run: RunFolder
    parents: dict[str, Artifact]
    draft: Draft
    tracker: Tracker

    @property
    def folder(self) -> Path:
        """Where the stage writes."""
        return self.draft.path

    def file(self, parent: str, name: str) -> Path:
        """Return a data file of a parent."""
        return self.parents[parent].file(name)


@contextlib.contextmanager
def begin(
    stage: StageName, config: Config, *, is_main: bool | None = None, barrier: Callable[[], None] = lambda: None
) -> Iterator[Work]:
    """Open a stage: lock the run, read and check the parents, hand out the draft, publish it at the end.

    In a launched group every rank enters; only the main one locks and writes.

    Raises:
        ArtifactError: A parent is missing, or was made on another base.
        RunLockedError: Another run works in the folder.
    """
    main = main_process() if is_main is None else is_main
    run = RunFolder.open(config.run)
    with run.lock() if main else contextlib.nullcontext():
        parents = read_parents(stage, config, run)
        family = check_family(stage, parents)
        for parent in parents.values() if main else ():
            parent.check()
        inputs = inputs_of(stage, config, run, parents)
        with run.draft(inputs, config_text=dump_config(config), main=main, barrier=barrier) as draft:
            draft.base = family
            imported = import_path(stage, config)
            draft.imported = str(imported) if imported else None
            yield Work(run, parents, draft, _tracker(config, run, draft, main=main))


def _tracker(config: Config, run: RunFolder, draft: Draft, *, main: bool) -> Tracker:
    names = config.tracking.trackers if main else ()
    name = f"{config.run.name}-{run.round}-{draft.inputs.stage}"
    sinks = open_sinks(names, config.run / "trackers", name, draft.inputs.key[:8])
    return Tracker(draft.path, active=main, bars=config.tracking.progress, sinks=sinks)


def stage_main(stage: StageName, run: Callable[[Config], Path], arguments: Sequence[str] | None = None) -> None:
    """Run one stage from the command line: `CONFIG [--section.field VALUE ...]`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = guarded(lambda: _run_stage(stage, run, given))
    # Nothing is open any more, and libraries do not expect to be interrupted while they leave.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)


def _run_stage(stage: StageName, run: Callable[[Config], Path], given: list[str]) -> None:
    if not given or given[0].startswith("-"):
        sys.stderr.write(f"usage: python -m stages.{stage} CONFIG [--section.field VALUE ...]\n")
        raise SystemExit(2)
    config = load_config(given[0], given[1:])
    path = run(config)
    if main_process():
        log.info("%s: finished in %s", stage, path)


def steady_streams() -> None:
    """Make printing fail for no one: a closed stream goes nowhere, a character it has no code for becomes `?`.

    Work of hours ends with a few printed lines.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their descriptors
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 (it stays open as long as the process)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
        if name == "stdout" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def guarded(action: Callable[[], object], *, verbose: bool = False) -> int:
    """Run an action; turn what a user can cause into one message and an exit code."""
    steady_streams()
    if LAUNCHER in os.environ:
        ask_for_parents_death(signal.SIGKILL)
    configure_logging(verbose=verbose, main_process=main_process())
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # a child of the server (see rlhf.children)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = _code_of(action)
    except SystemExit as ended:
        _vanish(ended.code if isinstance(ended.code, int) else 1)
        raise
    except Exception:
        if _in_group():
            traceback.print_exc()
            _vanish(1)
        raise
    if code:
        _vanish(code)
    return code


def _code_of(action: Callable[[], object]) -> int:
    """Run an action and return its exit code; what a user can cause is told."""
    try:
        action()
        _leave_group()
    except RlhfError as error:
        if isinstance(error, WaitingForPeople):
            log.info("%s", error)
        elif error.exit_code in (INTERRUPTED, TERMINATED):
            _tell_once(str(error))
        else:
            _fail(str(error), error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        _tell_once("interrupted; run the same command again to go on")
        return INTERRUPTED
    except _storage_errors() as error:
        number = _error_number(error)
        if number not in _REFUSALS:
            raise
        filename = getattr(error, "filename", None)
        _fail(f"{f'{filename}: ' if filename else ''}{_REFUSALS[number]}", 1)
        return 1
    except RuntimeError as error:
        if os.environ.get("WORLD_SIZE", "1") == "1" or not _LOST.search(str(error)):
            raise
        limit = "another process ended, or gave no answer for launch.timeout_minutes"
        _fail(f"{limit} ({str(error).splitlines()[0]}); run the same command again to go on", 1, lost_another=True)
        return 1
    return 0


def ask_for_parents_death(number: signal.Signals) -> None:
    """Ask Linux to send this process a signal when its parent is gone.

    A launcher that is killed leaves its processes alone, and nothing would keep the next run out of their folder.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _leave(number: int, frame: object) -> None:
    """End in good order at SIGTERM: what is open is closed. Training stages take the signal themselves."""
    _tell_once("ended by SIGTERM; run the same command again to go on")
    raise SystemExit(TERMINATED)


def _in_group() -> bool:
    library = sys.modules.get("torch.distributed")
    return library is not None and library.is_available() and library.is_initialized()


def _leave_group() -> None:
    """Part from the other processes; one that simply ends aborts those that still listen to it."""
    if _in_group():
        library = sys.modules["torch.distributed"]
        if library.get_backend() == "gloo":
            library.barrier()
        library.destroy_process_group()


def _vanish(code: int) -> None:
    """End at once where others were left in the lurch: taking such a group apart aborts, now and then, with a code of its own."""
    if _in_group():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _storage_errors() -> tuple[type[Exception], ...]:
    """What a full or read-only disk raises: also safetensors' own error, where that library is in use."""
    library = sys.modules.get("safetensors")
    return (OSError, library.SafetensorError) if library else (OSError,)


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found.group(1)) if found else None


def _fail(message: str, code: int, *, lost_another: bool = False) -> None:
    """Say why this process fails; a launcher of ours says it, of all the processes that fail, for the first alone."""
    folder = os.environ.get(LAUNCHER)
    if folder is None:
        _tell(message)
        return
    row = {"message": message, "code": code, "time": time.time(), "lost_another": lost_another}
    Path(folder, FAILED.format(rank=os.environ["RANK"])).write_text(json.dumps(row), encoding="utf-8")


def _tell_once(message: str) -> None:
    """Say what all processes of a group have to say; to a launcher of ours, which knows whether one of them failed before."""
    if not main_process():
        return
    folder = os.environ.get(LAUNCHER)
    if folder is None:
        _tell(message)
    else:
        with contextlib.suppress(OSError):  # the launcher may be gone, and its folder with it
            Path(folder, LAST_WORDS).write_text(f"{_rank()}{message}", encoding="utf-8")


def _tell(message: str) -> None:
    sys.stderr.write(f"error: {_rank()}{printable(message)}\n")


def _rank() -> str:
    return f"rank {os.environ['RANK']}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""
