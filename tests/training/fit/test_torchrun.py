"""Two agents of torchrun, as on two hosts, train the model that one process does, and one of them publishes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import witness
from conftest import START_LIMIT_S, free_port

from service.contract.files import read_manifest
from training.fit import runs


def train_on_two_hosts(folder: Path, *options: str) -> list[tuple[int, str]]:
    """Train by an agent for each host; return their exit codes and what they said."""
    port = str(free_port())
    agents = []
    for host in ("0", "1"):
        agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        address = ["--node-rank", host, "--master-addr", "127.0.0.1", "--master-port", port]
        command = [*agent, *address, str(Path(witness.__file__)), str(folder), *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        agents.append(subprocess.Popen(command, env=environment, **streams))
    said = [agent.communicate(timeout=START_LIMIT_S)[0] for agent in agents]
    return [(agent.returncode, text) for agent, text in zip(agents, said, strict=True)]


def test_torchrun_goes_on_with_a_run_and_begins_another(tmp_path: Path) -> None:
    """Seed 0 was interrupted in its second epoch, seed 1 is new. Only the first host writes, and publishes one model;
    the other gets the checkpoint from it."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert witness.train(one, "--seeds", "0,1").exit_code == 0
    witness.begin(two, witness.EPOCHS, processes=2)
    for code, said in train_on_two_hosts(two, "--seeds", "0,1", "--resume"):
        assert code == 0, said
    for seed in (0, 1):
        single, _ = witness.finished(one, processes=1, seed=seed)
        double, left = witness.finished(two, processes=2, seed=seed)
        witness.assert_same_model(single, double)
    assert len(left) == 2
    assert [path.name for path in (two / "models" / "echo").iterdir()] == ["1"]
    provenance = read_manifest(two / "models" / "echo" / "1").provenance
    assert provenance is not None
    assert provenance.command.endswith("--seeds 0,1 --epochs 2 --processes 2")


@pytest.fixture
def torchrun_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process look as if torchrun had started it, with another elsewhere."""
    variables = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("torchrun_of_two")
@pytest.mark.parametrize(
    ("option", "value", "why"),
    [("--processes", "3", "torchrun has started 2"), ("--ray", "auto", "torchrun has started the processes")],
)
def test_torchrun_says_how_many_processes_there_are(tmp_path: Path, option: str, value: str, why: str) -> None:
    """An option that says otherwise is refused before anything is written."""
    refused = witness.train(tmp_path, option, value)
    assert refused.exit_code == 2
    assert why in " ".join(refused.output.replace("│", " ").split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("torchrun_of_two")
def test_a_single_process_stays_alone_under_torchrun(tmp_path: Path) -> None:
    """What the first process trains on the side, as the judges of handwriting, waits for no other."""
    trained = runs.fit(witness.echo.RECIPE, seed=0, resume=False, runs_dir=tmp_path)
    assert trained.figure > 0
