"""Real servers for the tests: `python -m service serve` as a process of its own, on a free loopback port."""

from __future__ import annotations

import base64
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from keyring import Keyring
from preloaded import Forked, can_fork
from programs import find_program

from service.launch import launch

# The tests' own processes run on the emulated processor, too, where `python -m training.old_cpu` runs the tests.
sys.executable = os.environ.get("OLD_CPU_PYTHON", sys.executable)

pytest_plugins = ("browsing", "served")

ROOT = Path(__file__).parent.parent
LOG_LIMIT_S = 60  # what comes at all comes at once, on a machine that has nothing else to do
START_LIMIT_S = 1800  # an emulated processor takes long
ANSWER_LIMIT_S = 120
ADMIN = Keyring(admin=True)
TOKEN_KEYS = '["' + base64.urlsafe_b64encode(bytes(range(32))).decode() + '"]'


class Server:
    """A running service; `client` speaks to it, `lines` is its log so far."""

    def __init__(
        self,
        models_dir: Path,
        state_dir: Path,
        command: tuple[str, ...] = (sys.executable, "-m", "service"),
        cwd: Path = ROOT,
        **settings: str,
    ) -> None:
        descriptor, log = tempfile.mkstemp(suffix=".log")
        os.close(descriptor)
        self._log = Path(log)
        weakref.finalize(self, self._log.unlink)
        self._command, self._cwd = (*command, "serve"), cwd
        own = {
            "BATON_MODELS_DIR": str(models_dir),
            "BATON_STATE_DIR": str(state_dir),
            "BATON_PORT": "0",
            "BATON_WORKERS": "1",  # a test of what one worker does need not ask which of them did it
            "BATON_MAX_WAIT_MS": "1000000",  # a slow machine is no overload
            "BATON_TRIAL_S": str(START_LIMIT_S),
        }
        self._environment = {**own, **settings}
        self.start()

    def start(self) -> None:
        """Start the process (again) and wait until it listens."""
        forks = can_fork(self._command, self._cwd, self._environment)
        self.process, self.url = launch(
            self._log,
            self._environment,
            self._command,
            cwd=self._cwd,
            limit_s=START_LIMIT_S,
            start=Forked if forks else subprocess.Popen,
        )
        self.client = httpx.Client(base_url=self.url, timeout=ANSWER_LIMIT_S)

    @property
    def lines(self) -> list[str]:
        """The log so far, line by line."""
        return self._log.read_text().split("\n")[:-1]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, for tests that speak to a socket."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def lines_since(self, start: int, until: str) -> list[str]:
        """Return the log from line `start` to the first line that holds `until`, once it is there."""
        deadline = time.monotonic() + LOG_LIMIT_S
        while time.monotonic() < deadline:
            written = self.lines[start:]
            for index, line in enumerate(written):
                if until in line:
                    return written[: index + 1]
            time.sleep(0.01)
        raise AssertionError(f"no line with {until!r} in {self.lines[start:]}")

    def mark(self) -> int:
        """Return where the log stands: behind the lines of every request that was answered before."""
        marker = uuid.uuid4().hex
        start = len(self.lines)
        self.client.get("/healthz", headers={"x-request-id": marker})
        return start + len(self.lines_since(start, until=marker))

    def kill(self) -> None:
        """End the process as a crash would."""
        self._end(signal.SIGKILL)

    def end(self) -> None:
        """End the process in a way that leaves it the time to write what of its code was run."""
        self._end(signal.SIGTERM)

    def stop(self) -> None:
        """End the process as an orchestrator would; it must drain."""
        self.end()
        assert any("baton.app" in line and "drained" in line for line in self.lines), "\n".join(self.lines)

    def _end(self, how: signal.Signals) -> None:
        self.client.close()
        self.process.send_signal(how)
        self.process.wait(timeout=30)
        deadline = time.monotonic() + 30
        while holders := open_by(self._log):
            assert time.monotonic() < deadline, f"{holders} outlive the service and hold its log open"
            time.sleep(0.01)

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        return self.client.post(path, json=body, **options)

    def metric(self, name: str, label: str | None = None, value: str | None = None) -> float:
        """Return one metric's value; 0 where it has not been counted yet."""
        pair = f'{label}="{value}"' if label else ""
        for line in self.client.get("/metrics").text.splitlines():
            match = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
            if match and pair in (match[1] or ""):
                return float(match[2])
        return 0.0


def open_by(file: Path) -> set[int]:
    """Return the processes that hold `file` open."""
    holders = set()
    for process in Path("/proc").glob("[0-9]*"):
        descriptors: list[Path] = []
        with suppress(OSError):  # it has ended meanwhile
            descriptors = [*(process / "fd").iterdir()]
        for descriptor in descriptors:
            with suppress(OSError):  # it has been closed meanwhile
                if descriptor.readlink() == file:
                    holders.add(int(process.name))
    return holders


class RedisServer:
    """A redis-server of the tests' own, without files; `url` stays the same when it is started again."""

    def __init__(self, command: str) -> None:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._command = command
        self.start()

    def start(self) -> None:
        """Start the process (again), empty, and wait until it listens."""
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([self._command, *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert any("Ready to accept connections" in line for line in self._process.stdout)

    def stop(self) -> None:
        self._process.kill()  # a paused process ends at nothing less
        self._process.communicate(timeout=30)

    def pause(self) -> None:
        """Let it hang: connections are taken by the kernel, and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def baton(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the `baton` command with no BATON_ variables but those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={**clean, "COLUMNS": "120", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_LIMIT_S,
        check=False,
    )


ServerFactory = Callable[..., Server]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


COMMAND_LIMITS = {"BATON_MAX_ITEMS": "3", "BATON_MAX_STEPS": "4"}  # so that a few items are several requests


@pytest.fixture(scope="session")
def command_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("command-state")


@pytest.fixture
def command_settings(tiny_models: Path, command_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands of this process serve the tiny models in it."""
    monkeypatch.setenv("BATON_MODELS_DIR", str(tiny_models))
    monkeypatch.setenv("BATON_STATE_DIR", str(command_state))
    for name, value in COMMAND_LIMITS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def command_server(tiny_models: Path, command_state: Path) -> Iterator[Server]:
    """A service with the same models, limits and token key as those commands."""
    running = Server(tiny_models, command_state, **COMMAND_LIMITS)
    yield running
    running.stop()


@pytest.fixture
def start_server() -> Iterator[ServerFactory]:
    """Start servers of a test's own; those that still run at its end are killed."""
    started: list[Server] = []

    def start(*arguments: Any, **settings: Any) -> Server:
        started.append(Server(*arguments, **settings))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill() if "COVERAGE_RUN" not in os.environ else server.end()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """An empty Redis of the test's own; CI always has one."""
    yield from _redis()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """A Redis that tests neither stop nor count on to be empty."""
    yield from _redis()


def _redis() -> Iterator[RedisServer]:
    running = RedisServer(find_program("redis-server"))
    yield running
    running.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB; CI may mount one."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        assert "CI" not in os.environ, f"no disk can be mounted, and under CI that may not be skipped: {mounted}"
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def replicas(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> tuple[Server, Server]:
    """Two services over the tiny models that open each other's tokens, on ports that they keep when started again."""
    one, other = (
        start_server(tiny_models, tmp_path / name, BATON_TOKEN_KEYS=TOKEN_KEYS, BATON_PORT=str(free_port()))
        for name in ("one", "other")
    )
    return one, other


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; CI always has it."""
    named = os.environ.get("BATON_DATA_DIR")
    return _present(Path(named) if named else ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def schemas_dir() -> Path:
    """The folder of other projects' schemas, beside that of the data; CI always has it."""
    named = os.environ.get("BATON_DATA_DIR")
    return _present((Path(named).parent if named else ROOT.parent / "shared") / "schemas")


def _present(folder: Path) -> Path:
    if not folder.is_dir():
        assert "CI" not in os.environ, f"there is no {folder}, and under CI that may not be skipped"
        pytest.skip(f"there is no {folder}; BATON_DATA_DIR names the folder of data")
    return folder


@pytest.fixture(scope="session", autouse=True)
def exporter_reads_its_operators_once() -> None:
    """Let PyTorch's exporter read its library of operators once a process; for each export it is half of the time."""
    if "torch" in sys.modules:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
