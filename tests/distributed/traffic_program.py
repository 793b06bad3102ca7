"""Bytes that two processes send each other per optimiser step: python -m tests.distributed.traffic_program FOLDER ZERO.

To be started in a network of its own (`unshare -n`), so that nobody else's bytes are counted: it brings up the loopback
interface, starts two processes of itself, and they read the interface's counter before and after each step.
"""

import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

import torch

from rlhf.config.base import LoraSection
from rlhf.engine import TrainingEngine
from rlhf.models.roles import RoleSource, build_shared_base
from rlhf.reward.model import RewardModel
from rlhf.runtime import Runtime, start_runtime
from tests.tiny import tiny_base

HIDDEN, RANK = 256, 16
MICRO_STEPS, STEPS = 3, 4
ROWS, WIDTH = 2, 24
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def main(folder: Path, zero: int) -> None:
    """Train an adapter and a head for a few steps and write what each step sent."""
    runtime = start_runtime(zero=zero)  # pyright: ignore[reportArgumentType]
    base = tiny_base(folder, hidden=HIDDEN)
    start = RoleSource(fresh=LoraSection(rank=RANK, alpha=2.0 * RANK), head=True, trainable=True)
    shared = build_shared_base(base, {"reward": start}, seed=3)
    model = RewardModel(shared, "last")
    engine = TrainingEngine(
        runtime, model, [{"name": "reward", "named": shared.trainable("reward")}], max_grad_norm=1.0, epsilon=1e-8
    )
    trainable = sum(int(getattr(weight, "ds_numel", weight.numel())) for weight in engine.parameters.values())
    sent = [_step(engine, runtime) for _ in range(STEPS)]
    if runtime.is_main:
        # The first step also sets things up.
        (folder / f"sent-{zero}.json").write_text(json.dumps({"trainable": trainable, "sent": sent[1:]}))


def _step(engine: TrainingEngine, runtime: Runtime) -> float:
    """Take a step and return the bytes that a process sent on average."""
    runtime.wait()
    before = _counter()
    runtime.wait()
    ids = torch.arange(ROWS * WIDTH).view(ROWS, WIDTH) + runtime.process_index
    mask = torch.ones(ROWS, WIDTH, dtype=torch.bool)
    for number in range(1, MICRO_STEPS + 1):
        last = number == MICRO_STEPS
        engine.backward(engine.forward(ids, mask, last=last).square().sum(), last=last)
    engine.set_learning_rates({"reward": 1e-4})
    engine.step()
    runtime.wait()
    after = _counter()
    runtime.wait()
    return (after - before) / runtime.process_count


def _counter() -> int:
    """Return the bytes that the loopback interface has sent."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:"))


def _bring_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        (flags,) = struct.unpack_from("H", fcntl.ioctl(one, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0)), 16)
        fcntl.ioctl(one, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


if __name__ == "__main__":
    if "RANK" in os.environ:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        _bring_up()
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        os.execv(sys.executable, [sys.executable, *launcher, "-m", "tests.distributed.traffic_program", *sys.argv[1:]])
