"""A service whose model runs no faster than a test lets it, and connections on which a test writes what it likes."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from here import vouched

from service.app import create_app
from service.settings import Settings
from service.web.clients import Clients
from service.web.heads import HttpProtocol


class SlowModel:
    """Holds every run of a session until it is let go, and keeps the lengths of the rows of each run."""

    def __init__(self, session: object) -> None:
        self._run = session.run  # type: ignore[attr-defined]
        self.runs: list[list[int]] = []
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, names: list[str], feeds: dict) -> list:
        self.entered.release()
        self.open.acquire()
        self.runs.append(feeds["lengths"].tolist())
        return self._run(names, feeds)

    @property
    def rows(self) -> int:
        return sum(map(len, self.runs))

    async def wait_entered(self) -> None:
        await asyncio.to_thread(self.entered.acquire)

    def let_go(self, runs: int) -> None:
        for _ in range(runs):
            self.open.release()


@asynccontextmanager
async def slow_service(
    models: Path, state: Path, *middleware: Any, model: str = "sentiment", **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, SlowModel]]:
    """Serve on loopback, in this process, so that the test decides when a run of `model` ends.

    Time refuses nobody unless the test says so: how long its runs take is no matter of the service's pace.
    """
    chosen = {"run_threads": 1, "max_wait_ms": 10**9, **settings}
    made = Settings(models_dir=models, state_dir=state, **chosen)
    app = create_app(made, tried=vouched(models))
    for added in middleware:
        app.add_middleware(added)
    session = app.state.service.engines.get(model).model.session
    session.run = slow = SlowModel(session)
    listening = socket.create_server(("127.0.0.1", 0))
    http = partial(HttpProtocol, settings=made, clients=Clients(0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, http=http))  # type: ignore[arg-type]
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    url = "http://{}:{}".format(*listening.getsockname())
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client, slow
    finally:
        slow.let_go(1000)
        server.should_exit = True
        await serving


class RawClient:
    """A connection on which a test writes what it likes; answers come one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def to(cls, client: httpx.AsyncClient) -> AsyncIterator[RawClient]:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def send(self, *lines: str, body: bytes = b"") -> None:
        """Send a head, or nothing where there are no lines, and a body, or as much of one."""
        self._writer.write("".join(f"{line}\r\n" for line in (*lines, "") if lines).encode() + body)
        await self._writer.drain()

    def shut(self) -> None:
        """Close this side alone: more can be received."""
        self._writer.write_eof()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        return int(head[0].split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))

    async def ended(self) -> bool:
        """Wait for the connection's end; a reset is an error."""
        return await self._reader.read() == b""


async def until_queued(client: httpx.AsyncClient, rows: int, model: str = "sentiment") -> None:
    """Wait until so many rows wait or run."""
    await until_shown(client, f'baton_queue_rows{{model="{model}",version="1"}} {rows}.0')


async def until_shown(client: httpx.AsyncClient, shown: str) -> None:
    """Wait until the metrics have this line."""
    for _ in range(10_000):
        if shown in (await client.get("/metrics")).text:
            return
    raise AssertionError(f"never saw {shown}")
