"""The port that the workers share, and who takes its next connection.

All workers listen on one socket, and a connection goes to the worker that holds the fewest. The kernel would spread
them at random, or give all that wait to the first to wake: of eight connections that stay, all may be one worker's.
Where there are many, a worker may be a part of its own ahead, so that it can take many at a time. It knows sockets and
counts, not HTTP. Invariant: a connection is taken, by the others too when the worker that holds the fewest is busy.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import socket
import sys
from collections.abc import Callable
from typing import Self

log = logging.getLogger("baton.workers")

BACKLOG = 4096  # connections that wait to be taken; the kernel may allow fewer (net.core.somaxconn)
AHEAD = 8  # a worker with so many connections may have one more than another, and so on
TAKEN_AT_ONCE = 256  # connections, in one turn of the event loop
LEAVE_S = 0.001  # to another worker, before looking again
PATIENCE_S = 0.25  # for a worker that holds fewer but is busy
FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
FULL_S = 1.0  # until connections may have ended
BEAT_S = 1.0
ENTRIES = 2  # of a worker: its connections, and its beats


class Board:
    """What the processes tell one another: a worker's connections, and that it lives; shared memory, made before forks.

    `beats` counts the seconds in which the event loop of a worker turned; 0 before it listens and after it left.
    """

    def __init__(self, workers: int) -> None:
        self._shared = mmap.mmap(-1, 8 * ENTRIES * workers)
        self._entries = memoryview(self._shared).cast("q")
        for worker in range(workers):
            self.leave(worker)

    def leave(self, worker: int) -> None:
        """Say that `worker` takes no connections."""
        self._entries[ENTRIES * worker] = sys.maxsize
        self._entries[ENTRIES * worker + 1] = 0

    def beat(self, worker: int) -> None:
        self._entries[ENTRIES * worker + 1] += 1

    def beats(self, worker: int) -> int:
        return self._entries[ENTRIES * worker + 1]

    def count(self, worker: int, connections: int) -> None:
        self._entries[ENTRIES * worker] = connections

    def fewest(self) -> int:
        """Return the fewest connections that a worker holds who takes some."""
        return min(self._entries[::ENTRIES])


class Port:
    """An address, held without listening."""

    def __init__(self, host: str, port: int) -> None:
        """Take the first address of that name; `::` is that of IPv4 as well.

        Raises: OSError when it is taken or is none of this machine's.
        """
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.socket = socket.socket(family)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections have it from here
            if family is socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self.socket.bind(address)
            self.socket.setblocking(False)
        except OSError:
            self.socket.close()
            raise

    def announce(self, host: str) -> None:
        """Say in the log where it listens, in uvicorn's words; `host` is the name that it was taken by."""
        shown = f"[{host}]" if ":" in host else host
        log.info("Uvicorn running on http://%s:%d (Press CTRL+C to quit)", shown, self.socket.getsockname()[1])

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listener:
    """A worker's share of the port: takes connections in its turn, from `start` to `close`.

    `connections` are those that it holds, for a uvicorn server to keep.
    """

    def __init__(self, port: Port, board: Board, worker: int, watch: Callable[[], None]) -> None:
        """`watch` is called every second."""
        self._socket, self._board, self._worker, self._watch = port.socket, board, worker, watch
        self.connections = _Counted(self._show)
        self._arriving: set[asyncio.Task[None]] = set()
        self._left_since, self._closed = 0.0, False
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def start(self, create_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._loop, self._create = asyncio.get_running_loop(), create_protocol
        self._socket.listen(BACKLOG)
        self._show()
        self._beat()
        self._look()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._board.leave(self._worker)
        self._closed = True

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._arriving)

    def _show(self) -> None:
        if not self._closed:
            self._board.count(self._worker, len(self.connections) + len(self._arriving))

    def _beat(self) -> None:
        self._board.beat(self._worker)
        self._watch()
        self._later(BEAT_S, self._beat)

    def _look(self) -> None:
        self._loop.add_reader(self._socket, self._take)

    def _leave(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket)
        self._later(seconds, self._look)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._timers[act] = self._loop.call_later(seconds, act)

    def _take(self) -> None:
        """Take the connections that wait, as long as it is this worker's turn."""
        for _ in range(TAKEN_AT_ONCE):
            if not self._has_turn():
                self._leave(LEAVE_S)
                return
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):  # another worker was faster, or the client is gone
                return
            except OSError as failure:
                if failure.errno not in FULL:
                    raise
                log.error("cannot take a connection: %s", failure)
                self._leave(FULL_S)
                return
            arriving = self._loop.create_task(self._serve(connection))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arrived)
            self._show()

    def _has_turn(self) -> bool:
        held = len(self.connections) + len(self._arriving)
        if held - held // AHEAD <= self._board.fewest():
            self._left_since = 0.0
            return True
        now = self._loop.time()
        self._left_since = self._left_since or now
        return now - self._left_since >= PATIENCE_S

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        await self._loop.connect_accepted_socket(self._create, connection)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._arriving.discard(task)
        self._show()


class _Counted(set[object]):
    """A set that tells when its size changes."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self._changed = changed

    def add(self, member: object) -> None:
        super().add(member)
        self._changed()

    def discard(self, member: object) -> None:
        super().discard(member)
        self._changed()
