"""The process above the workers: it starts them, replaces those that die, and passes signals on.

It knows processes and signals, not models and not requests. It has no thread but its own, so that a worker can be
forked from it at any time: what was imported is shared, and a worker is there in milliseconds. Invariant: there are as
many workers as wanted, or new ones on their way, until the end.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
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
from service.workers.usage import Usage

log = logging.getLogger("baton.workers")

Work = Callable[[int, Connection], None]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
LOOK_S = 1.0
LOOK_AT_START_S = 0.02
RESTART_S = 1.0  # from one start of a worker to the next, at least; twice as long each time that it cannot start
MOST_RESTART_S = 60.0
SILENT_LOOKS = 30  # an event loop that has not turned in so many seconds will not; looks, for all may have been paused


class Supervisor:
    """Keeps `workers` processes at `work`, which gets a worker's number, and where to say why it cannot start.

    `listening` is called when all of them take connections, `ending` when no more should come, and `reloading` when
    they are asked to look at the models.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        board: Board,
        *,
        listening: Callable[[], None],
        ending: Callable[[], None],
        reloading: Callable[[], None],
    ) -> None:
        self._work, self._board = work, board
        self._listening, self._ending, self._reloading = listening, ending, reloading
        self._metrics = Metrics()
        self._usage = Usage(self._metrics, "supervisor")
        self._reasons, self._tell = Pipe(duplex=False)
        self._processes: dict[int, ForkProcess] = {}
        self._started: dict[int, float] = {}
        self._beats: dict[int, tuple[int, int]] = {}  # of a worker, and the looks for which they have been the same
        self._to_reload: set[int] = set()
        self._numbers = range(workers)
        self._announced = False
        self._patience_s = dict.fromkeys(self._numbers, RESTART_S)

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, and then until every worker has ended.

        Raises: StartupError when a worker cannot start, and no other serves.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they wait until they are asked for
        log.info("Started parent process [%d]", os.getpid())
        try:
            for worker in self._numbers:
                self._start(worker)
            while (came := self._wait()) not in (signal.SIGTERM, signal.SIGINT):
                if came == signal.SIGHUP:
                    self._reloading()
                    self._to_reload |= {*self._numbers}
                if came is None and self._announced:
                    self._end_silent()
                self._usage.show()
                for worker in self._numbers:
                    self._look_after(worker)
                if not self._announced and all(map(self._board.beats, self._numbers)):
                    self._announced = True
                    self._listening()
        finally:
            self._end()

    def _wait(self) -> int | None:
        came = signal.sigtimedwait(SIGNALS, LOOK_S if self._announced else LOOK_AT_START_S)
        return None if came is None else came.si_signo

    def _start(self, worker: int) -> None:
        process = ForkProcess(target=self._begin, args=(worker,), name=f"baton-{worker}")
        process.start()
        self._processes[worker], self._started[worker] = process, time.monotonic()

    def _begin(self, worker: int) -> None:
        """Work, as the child."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(SIGNALS) - {signal.SIGHUP})  # which the application lets through
        try:
            self._work(worker, self._tell)
        except Exception:
            log.exception("a worker failed")
            sys.exit(1)

    def _look_after(self, worker: int) -> None:
        """Replace a worker that has died, and have one that listens reload if it should.

        Raises: StartupError when it could not start, and no other serves.
        """
        process = self._processes.get(worker)
        if process is not None and process.exitcode is not None:
            self._bury(worker, process)
        if worker not in self._processes:
            if time.monotonic() - self._started[worker] > self._patience_s[worker]:
                self._start(worker)
        elif self._board.beats(worker):
            self._patience_s[worker] = RESTART_S
            if worker in self._to_reload:
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
            reason = self._reason()
            others = (self._board.beats(other) for other in self._numbers if other != worker)
            if not (self._announced and any(others)):
                raise StartupError(reason)
            self._patience_s[worker] = min(2 * self._patience_s[worker], MOST_RESTART_S)
            log.error("a worker cannot take the place of one that died, and is tried again: %s", reason)
        else:
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
