"""Bytes that two processes send each other are those of the formula, counted in a network of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.config.base import BaseConfig, LoraSection, Zero
from rlhf.config.recipe import Config
from rlhf.plan.communication import communication_bytes, gathered_bytes
from rlhf.plan.loads import Training
from rlhf.plan.shape import read_shape
from tests.distributed.traffic_program import HIDDEN, MICRO_STEPS, RANK, ROWS, WIDTH
from tests.tiny import tiny_base

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
HEADERS = 0.02
"""Share of what is sent that belongs to the network and to waiting for each other."""


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_each_process_sends_what_the_formula_says(tmp_path: Path, zero: Zero) -> None:
    alone = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network of its own is not allowed here; run as root")
    tiny_base(tmp_path, hidden=HIDDEN)
    program = [sys.executable, "-m", "tests.distributed.traffic_program", str(tmp_path), str(zero)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*alone, *program], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / f"sent-{zero}.json").read_text())
    config = Config(run=tmp_path, base=BaseConfig(model=str(tmp_path / "base")))
    training = Training(LoraSection(rank=RANK), ROWS, WIDTH, 1, 1, "peft", "head", False, False, MICRO_STEPS)
    gathered = gathered_bytes(config, read_shape(config.base), training)
    expected = communication_bytes(zero, 2, found["trainable"], micro_steps=MICRO_STEPS, gathered=gathered)
    for sent in found["sent"]:
        assert expected <= sent <= expected * (1 + HEADERS), (sent, expected)
