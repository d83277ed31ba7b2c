"""A client for each worker of a server."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
from conftest import LOG_LIMIT_S, Server


def pid_behind(server: Server, client: httpx.Client) -> int:
    """Return the process that answers on this client's connection, as the log has it."""
    start, request_id = len(server.lines), uuid.uuid4().hex
    client.get("/healthz", headers={"x-request-id": request_id})
    line = server.lines_since(start, until=request_id)[-1]
    return int(json.loads(line)["process"] if line.startswith("{") else line.split()[3])


@contextmanager
def each_worker(server: Server, workers: int) -> Iterator[dict[int, httpx.Client]]:
    """Connect one client to each worker of a server, by the worker's process id."""
    with ExitStack() as kept:
        found: dict[int, httpx.Client] = {}
        until = time.monotonic() + LOG_LIMIT_S
        while len(found) < workers and time.monotonic() < until:  # a busy worker, or a new one, may miss its turn
            client = kept.enter_context(httpx.Client(base_url=server.url, timeout=30))
            if found.setdefault(pid_behind(server, client), client) is not client:
                client.close()
        assert len(found) == workers
        yield found
