"""The process above the workers: it starts them, replaces those that die, and passes signals on.

It knows processes and signals, not models and not requests. It has no thread but its own, so that a worker can be
forked from it at any time: what was imported is shared, and a worker is there in milliseconds. Invariant: there are as
many workers as wanted, or new ones on their way, until the end.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE

from service.errors import StartupError
from service.metrics import Metrics
from service.workers.port import Board

log = logging.getLogger("baton.workers")

Work = Callable[[int, Connection], None]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
LOOK_S = 1.0
LOOK_AT_START_S = 0.02
RESTART_S = 1.0  # from one start of a worker to the next, at least
SILENT_LOOKS = 30  # an event loop that has not turned in so many seconds will not; looks, for all may have been paused


class Supervisor:
    """Keeps `workers` processes at `work`, which gets a worker's number, and where to say why it cannot start.

    `listening` is called when all of them take connections, `ending` when no more should come.
    """

    def __init__(
        self, work: Work, workers: int, board: Board, *, listening: Callable[[], None], ending: Callable[[], None]
    ) -> None:
        self._work, self._board, self._listening, self._ending = work, board, listening, ending
        self._metrics = Metrics()
        self._reasons, self._tell = Pipe(duplex=False)
        self._processes: dict[int, ForkProcess] = {}
        self._started: dict[int, float] = {}
        self._beats: dict[int, tuple[int, int]] = {}  # of a worker, and the looks for which they have been the same
        self._to_reload: set[int] = set()
        self._numbers = range(workers)

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, and then until every worker has ended.

        Raises: StartupError when a worker cannot start.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they wait until they are asked for
        log.info("Started parent process [%d]", os.getpid())
        announced = False
        try:
            for worker in self._numbers:
                self._start(worker)
            while (came := self._wait(LOOK_S if announced else LOOK_AT_START_S)) not in (signal.SIGTERM, signal.SIGINT):
                if came == signal.SIGHUP:
                    self._to_reload |= {*self._numbers}
                if came is None and announced:
                    self._end_silent()
                for worker in self._numbers:
                    self._look_after(worker)
                if not announced and all(map(self._board.beats, self._numbers)):
                    announced = True
                    self._listening()
        finally:
            self._end()

    def _wait(self, seconds: float) -> int | None:
        came = signal.sigtimedwait(SIGNALS, seconds)
        return None if came is None else came.si_signo

    def _start(self, worker: int) -> None:
        process = ForkProcess(target=self._begin, args=(worker,), name=f"baton-{worker}")
        process.start()
        self._processes[worker], self._started[worker] = process, time.monotonic()

    def _begin(self, worker: int) -> None:
        """Work, as the child."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(SIGNALS) - {signal.SIGHUP})  # which the application lets through
        self._work(worker, self._tell)

    def _look_after(self, worker: int) -> None:
        """Replace a worker that has died, and have one that listens reload if it should.

        Raises: StartupError when it could not start.
        """
        process = self._processes.get(worker)
        if process is not None and process.exitcode is not None:
            self._bury(worker, process)
        if worker not in self._processes:
            if time.monotonic() - self._started[worker] > RESTART_S:
                self._start(worker)
        elif worker in self._to_reload and self._board.beats(worker):
            os.kill(self._processes[worker].pid or 0, signal.SIGHUP)
            self._to_reload.discard(worker)

    def _end_silent(self) -> None:
        """Kill the workers whose event loops do not turn any more; called every LOOK_S."""
        for worker, process in self._processes.items():
            beats = self._board.beats(worker)
            before, looks = self._beats.get(worker, (0, 0))
            self._beats[worker] = (beats, looks + 1 if beats == before > 0 else 0)
            if self._beats[worker][1] >= SILENT_LOOKS:
                log.error("worker %d has not turned for %d s, so it is ended", process.pid, SILENT_LOOKS)
                process.kill()
                process.join()

    def _bury(self, worker: int, died: ForkProcess) -> None:
        if died.exitcode == STARTUP_FAILURE:
            raise StartupError(self._reason())
        log.error("worker %d died (exit code %s) and is replaced", died.pid, died.exitcode)
        del self._processes[worker]
        self._board.leave(worker)
        mark_process_dead(died.pid)  # type: ignore[no-untyped-call]
        self._metrics.worker_deaths.inc()

    def _reason(self) -> str:
        reason = "a worker could not start; the log has the cause"
        while self._reasons.poll():
            reason = self._reasons.recv()
        return reason

    def _end(self) -> None:
        self._ending()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join()
