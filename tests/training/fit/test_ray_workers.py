"""Two workers of Ray Train learn what one process does, and the model is published where it was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import witness
from conftest import START_LIMIT_S, free_port

from loadtests.ray_cluster import ENVIRONMENT, ray_cluster
from service.contract.files import read_manifest
from training.fit.ray_workers import RayError

SETS_DEPRECATED = pytest.mark.filterwarnings("ignore:.use_\\w+. is deprecated")  # Ray Data 2.60, as it is imported


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a cluster of the test's own listens."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_LIMIT_S))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the workers', which find the echo by it
    with ray_cluster(2) as running:
        yield running.address


@pytest.mark.cluster
@SETS_DEPRECATED
def test_ray_workers_learn_what_one_process_does(tmp_path: Path, cluster: str) -> None:
    """They go on with a run that was begun here, in folders of their own; after each epoch its files are here."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert witness.train(one, "--epochs", "3").exit_code == 0
    witness.begin(two, epochs=3, processes=2)
    trained = witness.train(two, "--epochs", "3", "--processes", "2", "--ray", cluster, "--resume")
    assert trained.exit_code == 0, trained.output
    single, _ = witness.finished(one, processes=1, epochs=3)
    double, left = witness.finished(two, processes=2, epochs=3)
    witness.assert_same_model(single, double)
    assert [process["kept"] for process in left] == [[0, 1]] * 2
    assert not Path(left[0]["wrote_to"]).is_relative_to(tmp_path)
    provenance = read_manifest(two / "models" / "echo" / "1").provenance
    assert provenance is not None
    assert provenance.command.endswith("--epochs 3 --processes 2")


@SETS_DEPRECATED
def test_a_cluster_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    failed = witness.train(tmp_path, "--ray", f"127.0.0.1:{free_port()}")
    assert isinstance(failed.exception, RayError)
    assert "no cluster there" in str(failed.exception)


@SETS_DEPRECATED
def test_ray_s_client_is_refused(tmp_path: Path) -> None:
    """Files come home to a node of the cluster, and who asks by the client is none."""
    failed = witness.train(tmp_path, "--ray", "ray://127.0.0.1:10001")
    assert isinstance(failed.exception, RayError)
    assert "join it by `ray start`" in str(failed.exception)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    failed = witness.train(tmp_path, "--ray", "auto")
    assert isinstance(failed.exception, RayError)
    assert "pip install 'baton-serving[ray]'" in str(failed.exception)
