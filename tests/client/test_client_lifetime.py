"""When a client and its streams may be used: until they are closed, in one event loop, and after a fork."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, Server

from baton_client import AsyncClient, AsyncStream, Client, Stream

FORKS = """
import asyncio, json, multiprocessing, sys, threading
from concurrent.futures import ThreadPoolExecutor
from baton_client import AsyncClient, Client

def told(call, *given):
    try:
        call(*given)
    except RuntimeError as error:
        return str(error)

def steps(count):
    return client.step("numbers", [1.0] * count).step

def told_of_models(_):
    return told(client.models)

def work(_):
    refused = told(stream.step, [1.0])
    stream.close()
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(steps, range(1, 9)))
    threads = [thread.name for thread in threading.enumerate()].count("baton-client")
    with client.stream("numbers", state=token) as own:
        counts.append(own.step([1.0]).step)
    client.close()
    return refused, counts, threads, told(client.models), told(lambda: asyncio.run(loopbound.models()))

client, loopbound = Client(sys.argv[1]), AsyncClient(sys.argv[1])
asyncio.run(loopbound.models())
with client.stream("numbers") as stream:
    stream.step([1.0])
    token = stream.checkpoint()
    steps(1)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        children = pool.map(work, range(2), chunksize=1)
    after = [stream.step([1.0]).step, steps(3)]
client.close()
with multiprocessing.get_context("fork").Pool(1) as pool:
    closed = pool.map(told_of_models, range(1))
print(json.dumps({"children": children, "after": after, "closed": closed}))
"""
HANGS_S = 120  # a client that waited for the thread of another process did so for ever


def test_a_forked_process_has_connections_of_its_own_and_leaves_its_parent_s_alone(server: Server) -> None:
    assert server.url is not None
    run = subprocess.run(
        [sys.executable, "-c", FORKS, server.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    for stream, counts, threads, closed, loopbound in found["children"]:
        assert "belongs to the process before the fork" in stream
        assert (counts, threads) == ([1, 2, 3, 4, 5, 6, 7, 8, 2], 1)
        assert "the client is closed" in closed
        assert "another event loop" in loopbound
    assert len(found["children"]) == 2
    assert found["after"] == [2, 3]
    assert found["closed"] == ["the client is closed; make a new one"]


CALLS: list[Callable[[Client], object]] = [
    lambda client: client.models(),
    lambda client: client.info(),
    lambda client: client.sentiment(["a good film"]),
    lambda client: client.forecast([[1.0, 2.0, 3.0]], 1),
    lambda client: client.step("numbers", [1.0]),
    lambda client: client.stream("numbers"),
]
USES: list[Callable[[Stream], object]] = [
    lambda stream: stream.step([1.0]),
    lambda stream: stream.send([1.0]),
    lambda stream: stream.recv(),
    lambda stream: stream.checkpoint(),
    lambda stream: list(stream.map([[1.0]])),
    lambda stream: stream.__enter__(),
]
ASYNC_USES: list[Callable[[AsyncStream], Awaitable[object]]] = [
    lambda stream: stream.step([1.0]),
    lambda stream: stream.send([1.0]),
    lambda stream: stream.recv(),
    lambda stream: stream.checkpoint(),
    lambda stream: stream.__aenter__(),
]


@pytest.mark.parametrize("used", [True, False])
def test_a_client_that_is_closed_says_so_and_may_be_closed_again(server: Server, used: bool) -> None:
    assert server.url is not None
    client = Client(server.url)
    if used:
        client.models()
    for _ in range(2):
        client.close()
        for call in CALLS:
            with pytest.raises(RuntimeError, match="the client is closed; make a new one"):
                call(client)


def test_a_stream_that_is_closed_says_so_and_keeps_where_it_stood(server: Server) -> None:
    assert server.url is not None
    with Client(server.url) as client:
        with client.stream("numbers") as stream:
            stream.step([1.0])
            token = stream.checkpoint()
            stream.step([2.0])
        stream.close()
        for use in USES:
            with pytest.raises(RuntimeError, match="the stream is closed; open another, from its `state`"):
                use(stream)
        assert (stream.state, [one.tolist() for one in stream.unacknowledged]) == (token, [[2.0]])
        with client.stream("numbers", state=stream.state) as other:
            assert other.step([2.0]).step == 2
            client.close()  # which closes its streams
            with pytest.raises(RuntimeError, match="the client is closed"):
                other.step([3.0])


def test_a_stream_that_was_not_entered_takes_nothing_and_opens_nothing(server: Server) -> None:
    assert server.url is not None
    with Client(server.url) as client:
        stream = client.stream("numbers")
        for use in (stream.checkpoint, lambda: stream.send([1.0]), lambda: stream.step([1.0])):
            with pytest.raises(RuntimeError, match="not entered"):
                use()
        stream.close()


def test_a_call_under_way_ends_when_its_client_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        call = pool.submit(client.models)
        heard, _ = silent.accept()
        with heard:
            client.close()
            with pytest.raises(RuntimeError, match="the client is closed"):
                call.result()
    assert "baton-client" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.anyio
async def test_asynchronous_clients_and_streams_that_are_closed_say_so(server: Server) -> None:
    assert server.url is not None
    client = AsyncClient(server.url)
    async with client.stream("numbers") as stream:
        receiving = asyncio.gather(stream.checkpoint(), return_exceptions=True)
        await stream.send([1.0])
        await stream.close()
    assert "the stream is closed" in str((await receiving)[0])
    for use in ASYNC_USES:
        with pytest.raises(RuntimeError, match="the stream is closed"):
            await use(stream)
    for _ in range(2):
        await client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.models()
        with pytest.raises(RuntimeError, match="the client is closed"):
            client.stream("numbers")


@pytest.mark.anyio
async def test_an_asynchronous_call_under_way_ends_when_its_client_is_closed() -> None:
    heard = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        heard.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        client = AsyncClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        call = asyncio.create_task(client.models())
        await heard.wait()
        await client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await call


def test_an_asynchronous_client_belongs_to_the_event_loop_of_its_first_use(server: Server) -> None:
    """Its connections were of that loop; another would wait for them in vain, or find them closed."""
    assert server.url is not None
    client = AsyncClient(server.url)
    stream = client.stream("numbers")

    async def begin() -> None:
        await client.models()
        await stream.__aenter__()
        await stream.step([1.0])

    async def go_on() -> None:
        for use in (client.models, client.close, *(lambda use=use: use(stream) for use in ASYNC_USES), stream.close):
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                await use()

    with asyncio.Runner() as first:
        first.run(begin())
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, go_on()).result()
        first.run(stream.close())
        first.run(client.close())
