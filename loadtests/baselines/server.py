"""`python -m loadtests.baselines.server NAME --workers N`: a baseline on a free port, in one uvicorn for each worker.

Each worker has a socket of its own on the port, so that the kernel spreads connections over them, at random: of one
shared socket, which `uvicorn --workers` has, the first to wake takes all that wait. It knows uvicorn, not the
applications. Invariant: it says where it listens when every worker does, and none outlives it.
"""

from __future__ import annotations

import multiprocessing
import signal
import socket
import sys
from multiprocessing.connection import Connection
from typing import Annotated

import typer
import uvicorn

HOST = "127.0.0.1"


class _Server(uvicorn.Server):
    """uvicorn's, which also tells its parent when it listens."""

    def __init__(self, name: str, parent: Connection) -> None:
        app = f"loadtests.baselines.{name}:app"
        ws = "websockets-sansio"
        super().__init__(uvicorn.Config(app, access_log=False, loop="uvloop", http="httptools", ws=ws))
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._parent.send(None)


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound


def _serve(name: str, port: int, parent: Connection) -> None:
    _Server(name, parent).run(sockets=[_bound(port)])


def main(name: str, workers: Annotated[int, typer.Option(min=1)] = 1) -> None:
    """Serve the application NAME of this folder until SIGTERM."""
    with _bound(0) as held:
        port = held.getsockname()[1]
        spawn = multiprocessing.get_context("spawn")
        waiting = []
        for _ in range(workers):
            ours, theirs = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_serve, args=(name, port, theirs), daemon=True)
            process.start()
            theirs.close()
            waiting.append((process, ours))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which ends the workers
        for _, ours in waiting:
            ours.recv()
        print(f"Uvicorn running on http://{HOST}:{port}", flush=True)
        for process, _ in waiting:
            process.join()


if __name__ == "__main__":
    typer.run(main)
