"""The embedded store's file is deleted, cut short or cannot be written while services run: the loss is named."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from conftest import LOG_LIMIT_S, Server, ServerFactory
from each_worker import each_worker
from held import KEPT, go_on, hold, outcome, sequence_step, sequence_total
from streams import CLOSE

from service.errors import StartupError

WORKERS = 2
DISK_BYTES = 8 * 2**20
FORMAT = ("mkfs.ext4", "-q", "-O", "^has_journal")


@pytest.fixture
def server(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> Iterator[Server]:
    running = start_server(tiny_models, tmp_path, BATON_WORKERS=str(WORKERS))
    yield running
    running.stop()
    assert not any("Traceback" in line for line in running.lines)


class FailingDisk:
    """A disk that can be made to fail: it cannot be written from then on, and what waited to be written is lost."""

    def __init__(self, folder: Path) -> None:
        self.place, self._image = folder / "disk", folder / "image"
        self.place.mkdir()
        self._image.write_bytes(bytes(DISK_BYTES))
        subprocess.run([*FORMAT, str(self._image)], check=True)

    def mount(self) -> subprocess.CompletedProcess[bytes]:
        command = ["mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.place)]
        return subprocess.run(command, capture_output=True, check=False)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.place)], check=True)

    def fail(self) -> None:
        subprocess.run(["sync", "--file-system", str(self.place)], check=True)
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        (device,) = [Path(source).name for source, place, *_ in mounts if place == str(self.place)]
        (Path("/sys/fs/ext4") / device / "trigger_fs_error").write_text("1")


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[FailingDisk]:
    """Where such a one can be made, which needs root, a loop device and ext4."""
    if shutil.which(FORMAT[0]) is None:
        pytest.skip(f"no {FORMAT[0]} to make a disk with")
    disk = FailingDisk(tmp_path)
    mounted = disk.mount()
    if mounted.returncode:
        pytest.skip(f"no disk that can fail can be mounted here: {mounted.stderr.decode()}")
    yield disk
    disk.unmount()


def kill_a_worker(server: Server) -> None:
    with each_worker(server, WORKERS) as clients:
        victim = next(iter(clients))
    start = server.mark()
    os.kill(victim, signal.SIGKILL)
    server.lines_since(start, until="Application startup complete")


def until_answered(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask again while connections break, as they do where a worker dies."""
    deadline = time.monotonic() + LOG_LIMIT_S
    while True:
        try:
            return ask()
        except httpx.TransportError:
            assert time.monotonic() < deadline


def assert_shared(server: Server) -> None:
    """What any worker holds, each has."""
    with each_worker(server, WORKERS) as clients:
        for number, client in enumerate(clients.values()):
            made = hold(client, number)
            assert [outcome(go_on(other, made)) for other in clients.values()] == [KEPT] * WORKERS


@pytest.mark.parametrize("delete", [lambda folder: (folder / "data.mdb").unlink(), shutil.rmtree], ids=["file", "all"])
def test_a_file_that_was_deleted_is_an_empty_store_to_every_worker(
    server: Server, tmp_path: Path, delete: Callable[[Path], None]
) -> None:
    """Else one that is replaced later would have another file than the others."""
    held = hold(server.client)
    sequence_step(server.client, "walk", start=True)
    delete(tmp_path / "states")
    kill_a_worker(server)
    with each_worker(server, WORKERS) as clients:
        for client in clients.values():
            assert outcome(go_on(client, held)) == (410, "state_gone")
            assert sequence_step(client, "walk").status_code == 400
    assert_shared(server)
    assert sequence_step(server.client, "walk", start=True).status_code == 200
    assert any("file was deleted, and what it held" in line for line in server.lines)


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_file_that_was_cut_short_is_mended_by_the_worker_that_replaces_who_read_there(
    server: Server, tmp_path: Path, share: float
) -> None:
    """Whoever reads where nothing is any more dies; no answer is of a wrong state."""
    held = [hold(server.client, number) for number in range(30)]
    uncut = [go_on(server.client, state).json()["results"][0]["outputs"]["y"] for state in held]
    file = tmp_path / "states" / "data.mdb"
    os.truncate(file, int(share * file.stat().st_size))
    answers = [until_answered(partial(go_on, server.client, state)) for state in held]
    for answer, expected in zip(answers, uncut, strict=True):
        if outcome(answer) == KEPT:
            assert answer.json()["results"][0]["outputs"]["y"] == pytest.approx(expected, abs=CLOSE)
        else:
            assert outcome(answer) == (410, "state_gone")
    assert any("died (exit code -7)" in line for line in server.lines)
    assert_shared(server)


def test_a_disk_that_cannot_be_written_costs_only_what_is_to_be_held(
    tiny_models: Path, failing_disk: FailingDisk, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, failing_disk.place / "state", BATON_STORE_BYTES="4194304")
    held = hold(server.client)
    sequence_step(server.client, "walk", start=True)
    failing_disk.fail()
    for _ in range(2):
        assert outcome(go_on(server.client, held)) == (503, "store_unavailable")
        assert outcome(go_on(server.client, held, hold="client")) == KEPT
        refused = sequence_step(server.client, "walk")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert server.client.get("/readyz").status_code == 200
    server.kill()
    with pytest.raises(StartupError, match=r"held states cannot be opened: .*Read-only file system"):
        server.start()
    failing_disk.unmount()
    assert not failing_disk.mount().returncode
    server.start()
    assert outcome(go_on(server.client, held)) == KEPT
    assert sequence_total(server.client, "walk") == 3
    server.stop()
