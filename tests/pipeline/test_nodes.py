"""Two nodes, played by two launchers on this machine, train one stage of a run."""

import re
import socket
import subprocess

import pytest

from rlhf.artifacts import Artifact
from tests.pipeline.conftest import RECIPE, Shell


@pytest.mark.slow
@pytest.mark.distributed
def test_two_nodes_train_a_stage_together(copy: Shell) -> None:
    before = Artifact.open(copy.run / "round-1" / "sft")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = ["--nodes", "2", "--address", "127.0.0.1", "--port", str(free.getsockname()[1])]
    settings = [
        "--processes",
        "1",
        "--zero",
        "2",
        str(RECIPE),
        "--run",
        f"runs/{copy.run.name}",
        "--sft.micro-batch-size",
        "4",
    ]
    nodes = [
        subprocess.Popen(
            copy.line("launch", "sft", *place, "--rank", str(rank), *settings),
            cwd=copy.folder,
            env=copy.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    found = Artifact.open(copy.run / "round-1" / "sft")
    assert found.identity != before.identity or found.facts == before.facts
    assert found.manifest.recorded["processes"] == 2
    for name in ("held_out_loss", "initial_loss"):
        assert found.facts[name] == pytest.approx(before.facts[name], abs=1e-4)
    assert found.facts["steps"] == before.facts["steps"]
    # The first process alone speaks.
    assert re.search(
        r"2 processes, DeepSpeedEngine under ZeRO-2; frozen weights float32, trained weights float32", said[0][1]
    )
    assert "processes, DeepSpeedEngine" not in said[1][1]
