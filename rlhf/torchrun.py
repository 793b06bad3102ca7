"""torch's launcher, which says in one message why a process failed and exits with that process's code.

    python -m rlhf.torchrun --standalone --nproc_per_node 2 -m stages.ppo CONFIG

When one process fails, the launcher ends the others, which then complain that they lost it. Each writes its own message
into a folder of the launcher's (see `rlhf.entry`); the one who failed first, and by himself, is heard. What the first process
says when a signal ends it is heard where nothing failed.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypedDict

from rlhf.entry import FAILED, INTERRUPTED, LAST_WORDS, LAUNCHER, TERMINATED, steady_streams
from rlhf.errors import printable


class Told(TypedDict):
    """What a process says of its failure; `lost_another` where it only noticed that of another."""

    message: str
    code: int
    time: float
    lost_another: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torch's launcher and return the exit code."""
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    steady_streams()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the launcher would do it too, with a warning
    logging.disable(logging.CRITICAL)
    _heed_signals()
    with tempfile.TemporaryDirectory(prefix="rlhf-launch-") as folder:
        os.environ[LAUNCHER] = folder
        try:
            run.run(run.parse_args(["--signals_to_handle", "SIGHUP,SIGQUIT", *(arguments or sys.argv[1:])]))
        except ChildFailedError as error:
            code, message = describe(error.failures, _told(Path(folder)))
            message = message or _last_words(Path(folder))
        except SignalException as error:
            name = signal.Signals(error.sigval).name
            said = _last_words(Path(folder)) or f"ended by {name}; run the same command again to go on"
            code, message = _first_alone(_told(Path(folder))) or (128 + error.sigval, said)
        except (DistError, RendezvousError) as error:
            code, message = 1, f"the nodes did not find each other; are --address and --port those of node 0? ({error})"
        else:
            return 0
    if message:
        sys.stderr.write(f"error: {printable(message)}\n")
    return code


def _told(folder: Path) -> dict[int, Told]:
    """Return what each process said of its failure, by rank."""
    files = folder.glob(FAILED.format(rank="*"))
    return {int(path.name.rpartition("-")[2]): json.loads(path.read_text(encoding="utf-8")) for path in files}


def _first_alone(told: Mapping[int, Told]) -> tuple[int, str] | None:
    """Return code and message of the process that failed first and by itself, if one did."""
    alone = {rank: row for rank, row in told.items() if not row["lost_another"]}
    if not alone:
        return None
    rank, first = min(alone.items(), key=lambda item: item[1]["time"])
    return first["code"], f"rank {rank}: {first['message']}"


def _last_words(folder: Path) -> str:
    """Return what the first process said when a signal ended it; nothing on nodes without it."""
    path = folder / LAST_WORDS
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _heed_signals() -> None:
    """End the processes in good order at SIGTERM and SIGINT, once; torch's own handler leaves them alone at the second one."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from rlhf.runtime import ECHO_SECONDS

    first: float | None = None

    def heed(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None or time.monotonic() - first >= ECHO_SECONDS:
            first = time.monotonic()
            raise SignalException(f"signal {number}", sigval=signal.Signals(number))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, heed)


def describe(failures: Mapping[int, Any], told: Mapping[int, Told]) -> tuple[int, str]:
    """Return the exit code of a group of processes and what to say of it; nothing where a signal ended them in good order.

    Args:
        failures: torch's account of every process that failed, by rank.
        told: What some of them said of it.
    """
    in_order = (INTERRUPTED, TERMINATED)
    ended = {rank: one for rank, one in failures.items() if one.exitcode not in (*in_order, -signal.SIGTERM)}
    if not ended:
        codes = {one.exitcode for one in failures.values()} & set(in_order)
        return min(codes, default=TERMINATED), ""
    alone = [rank for rank in ended if rank not in told or not told[rank]["lost_another"]]
    rank = min(alone or ended, key=lambda rank: told[rank]["time"] if rank in told else ended[rank].timestamp)
    if rank in told:
        return told[rank]["code"], f"rank {rank}: {told[rank]['message']}"
    first = ended[rank]
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        hint = "; did the machine run out of memory?" if first.exitcode == -signal.SIGKILL else "."
        hint += " Run the same command again to go on from the last checkpoint"
        return 128 - first.exitcode, f"rank {rank} was ended by {name}{hint}"
    return first.exitcode, f"rank {rank} ended with exit code {first.exitcode}; what it said stands above"


if __name__ == "__main__":
    ended_with = main()
    # All is said; a signal that is passed on once more must not give it another code.
    for last in (signal.SIGTERM, signal.SIGINT):
        signal.signal(last, signal.SIG_IGN)
    sys.exit(ended_with)
