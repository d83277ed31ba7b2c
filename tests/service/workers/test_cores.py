"""How many processes serve by default: what affinity, control groups and GPUs allow."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from service.workers.cores import allowed_cores, usable_cores, usable_gpus


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6})


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("files", "groups", "allowed"),
    [
        ({}, "0::/\n", 4),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 4),
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "20000 100000\n"}, "0::/\n", 0.2),
        ({"cpu.max": "900000 100000\n"}, "0::/\n", 4),
        ({"pod/cpu.max": "100000 100000\n", "pod/one/cpu.max": "max 100000\n"}, "0::/pod/one\n", 1),
        ({"cpu.max": "300000 100000\n"}, "0::/what/the/host/calls/it\n", 3),
        (
            {"cpu,cpuacct/pod/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"},
            "5:memory:/pod\n4:cpu,cpuacct:/pod\n",
            2.5,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu:/\n", 4),
    ],
)
def test_cores_are_those_of_the_affinity_within_every_quota_above_the_process(
    files: dict[str, str], groups: str, allowed: float, tmp_path: Path
) -> None:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    write(tmp_path / "own", groups)
    assert allowed_cores(tmp_path / "cgroup", tmp_path / "own") == allowed
    assert usable_cores(tmp_path / "cgroup", tmp_path / "own") == math.ceil(allowed)


@pytest.mark.usefixtures("four_cores")
def test_a_system_without_control_groups_gives_all_cores(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path / "neither") == 4


def test_gpus_are_those_of_the_machine_or_of_cuda_visible_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        write(tmp_path / name, "")
    assert usable_gpus(tmp_path) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, GPU-5f3a")
    assert usable_gpus(tmp_path) == ["1", "GPU-5f3a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert usable_gpus(tmp_path) == []
