"""A trial of work that may end its process: a child process does it first.

ONNX Runtime is native code: a graph can make it crash, run for ever, or take all the memory, and it raises no
exception. So a `Trial` lets a child do the work first, and watches it. It knows processes and how they end, not models.
Invariant: whatever happens to the child, the caller gets an answer or an exception within a bounded time, and the child
neither grows past a bounded memory nor outlives its parent.
"""

from __future__ import annotations

import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, Self, TypeVar

from service.errors import ManifestError, StartupError
from service.model.onnx_session import OPTIMISATIONS, Optimisation
from service.settings import Settings

log = logging.getLogger("baton.trial")

WATCH_S = 0.02  # between two looks at a child, in which it takes a few hundred megabytes of memory at most
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FIRST_TO_GO = "1000"  # the kernel's highest: where memory runs out, it ends this process and not the service

T = TypeVar("T")
Child = ForkProcess | subprocess.Popen[bytes]


class _Crash(Exception):
    """The child died of a signal that faults of native code cause."""


class Trial:
    """A child process that does pieces of work in turn; it starts with the first, and again after it died.

    Its interpreter is a new one, unless it is forked (see `fork`).
    """

    def __init__(self, settings: Settings) -> None:
        self._max_s, self._max_bytes = settings.trial_s, settings.trial_bytes
        self._stopped = threading.Event()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._end(self._child)

    def fork(self) -> Self:
        """Fork the first child now, which takes milliseconds; only a process without other threads may do so."""
        self._connection, theirs = Pipe()
        with theirs:
            self._child = ForkProcess(target=_become_child, args=(theirs, self._connection))
            self._child.start()
        return self

    def stop(self) -> None:
        """End the work under way, and any after it, with a StartupError; another thread calls this."""
        self._stopped.set()

    def run(self, what: str, file: Path, work: Callable[..., T], *arguments: object) -> tuple[T, Optimisation]:
        """Return what `work(*arguments, optimisation=...)` returns in the child, and the optimisation it survives.

        Raises: StartupError or OSError as `work` does; ManifestError naming `file` when the child dies, does not come
        to an end, or takes too much memory.
        """
        crash = ""
        for optimisation in OPTIMISATIONS:
            try:
                answer: T = self._do(what, file, (work, arguments, {"optimisation": optimisation}))
            except _Crash as failure:
                crash = str(failure)
                continue
            if crash:
                message = "%s: ONNX Runtime %s as it optimised %s as far as it can, so it is loaded at level %r"
                log.warning(message, file, crash, what, optimisation)
            return answer, optimisation
        message = (
            f"ONNX Runtime {crash} as it loads and tries {what}, whatever the level of optimisation; export it in "
            "float32, with another opset or another exporter"
        )
        raise ManifestError(file, "file", message)

    def _do(self, what: str, file: Path, task: tuple[Any, ...]) -> Any:
        """Let the child do `task`, and end the child unless it answers."""
        child = self._child or self._start()
        log.info("trying %s in process %d", what, child.pid)
        try:
            self._connection.send(task)
            answer = self._answer(what, file, child)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise _explain(what, file, self._end(child)) from None
        except BaseException:
            self._end(child)
            raise
        if isinstance(answer, MemoryError):
            raise ManifestError(file, "file", _too_large(what, "memory than there is"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _answer(self, what: str, file: Path, child: Child) -> Any:
        deadline = time.monotonic() + self._max_s
        while not self._connection.poll(WATCH_S):
            if self._stopped.is_set():
                raise StartupError(f"{what} is no longer tried, for the service is ending")
            if time.monotonic() > deadline:
                message = f"{what} is not loaded and tried within {self._max_s} s; does every loop in it end? "
                raise ManifestError(file, "file", message + "If it needs longer, raise BATON_TRIAL_S")
            if _own_bytes(child.pid or 0) > self._max_bytes:
                message = _too_large(what, f"than {self._max_bytes} bytes of memory")
                raise ManifestError(file, "file", message + ", or raise BATON_TRIAL_BYTES")
        return self._connection.recv()

    def _start(self) -> Child:
        self._connection, theirs = Pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)  # a trial is not counted in the service's metrics
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # `baton inspect` writes its draft there
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the parent acts on signals from a terminal
            )
        return self._child

    def _end(self, child: Child) -> int:
        """End the child if it still runs, and return its exit status, which is negative for a signal."""
        child.kill()
        self._connection.close()
        self._child = None
        if isinstance(child, subprocess.Popen):
            return child.wait()
        child.join()
        assert child.exitcode is not None
        return child.exitcode


def _become_child(theirs: Connection, ours: Connection) -> None:
    ours.close()  # or this process would not hear of its parent's end
    os.setsid()  # the parent acts on signals from a terminal
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    do_tasks(theirs)


def _explain(what: str, file: Path, status: int) -> Exception:
    """Return why a child ended before it answered."""
    tries = f"the process that tries {what}"
    if status >= 0:
        return ManifestError(file, "file", f"{tries} ended itself with status {status}; its last words are in the log")
    number = signal.Signals(-status)
    died = f"died of {number.name} ({signal.strsignal(number)})"
    if number in CRASHES:
        return _Crash(died)
    if number == signal.SIGKILL:
        died += ", perhaps by the kernel for want of memory; give it more, or set BATON_TRIAL_BYTES below what there is"
    return ManifestError(file, "file", f"{tries} {died}")


def _too_large(what: str, more: str) -> str:
    return f"loading and trying {what} takes more {more}; make it smaller"


def _own_bytes(pid: int) -> int:
    """Return the memory of a process without what it maps from files, such as the libraries of CUDA."""
    _, resident, mapped, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - mapped) * PAGE_BYTES


def do_tasks(connection: Connection) -> NoReturn:
    """Do what the parent sends, and answer, as the child."""
    logging.disable()  # failures are raised, and the parent logs them
    with suppress(OSError):  # a system without this file has no killer to guide
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, tasks), daemon=True).start()
    while True:
        task = tasks.get()
        try:
            work, arguments, options = pickle.loads(task)  # noqa: S301 - from the parent, over its pipe
            answer = work(*arguments, **options)
        except (StartupError, OSError, MemoryError) as refusal:
            answer = refusal
        except Exception as failure:  # noqa: BLE001 - it is printed, and comes to the parent
            traceback.print_exc()
            answer = StartupError(f"the trial failed, as the traceback in the log shows: {failure!r}")
        with suppress(BrokenPipeError, ConnectionResetError):  # the parent has ended, as `_receive` sees
            connection.send(answer)


def _receive(connection: Connection[Any, Any], tasks: SimpleQueue[bytes]) -> None:
    """Take what the parent sends, and end this process when the parent ends, even during work."""
    with suppress(EOFError, ConnectionResetError):
        while True:
            tasks.put(connection.recv_bytes())
    os._exit(0)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # BATON_WORKER_BYTES is for who forked this process
    do_tasks(Connection(int(sys.argv[1])))
