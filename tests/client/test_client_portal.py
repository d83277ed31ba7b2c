"""The blocking client's thread: interrupted calls, clients that nobody closes, and how all of it ends."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from anyio.from_thread import BlockingPortal
from conftest import ROOT, Server, free_port
from sums import Sum
from websockets.sync.server import ServerConnection, serve

from baton_client import AsyncClient, Client
from baton_client.portal import Portal

HANGS_S = 120  # what waits for a thread that is not there does so for ever
NEVER_CLOSED = """
import gc, os, sys
from baton_client import Client

client = Client(sys.argv[1])
stream = client.stream("numbers").__enter__()
steps = [stream.step([1.0]).step]
child = os.fork()
if child == 0:
    del client, stream
    gc.collect()
    sys.exit()
ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(ended, *steps, stream.step([1.0]).step)
"""


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Let SIGINT interrupt, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    """Do what Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def client_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "baton-client"}


def test_an_interrupted_call_is_cancelled() -> None:
    """Its connection ends, though the client is open."""
    heard: list[bytes] = []

    def listen() -> None:
        connection, _ = silent.accept()
        with connection:
            heard.append(connection.recv(65_536))
            interrupt()
            heard.append(connection.recv(1))

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        ThreadPoolExecutor(1) as pool,
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=10 * HANGS_S) as client,
    ):
        listening = pool.submit(listen)
        with pytest.raises(KeyboardInterrupt):
            client.models()
        listening.result(HANGS_S)
    assert heard[0].startswith(b"GET /v1/models")
    assert heard[1] == b""


def test_an_interrupted_receive_loses_no_output() -> None:
    interrupted, go_on = threading.Event(), threading.Event()

    def answer(connection: ServerConnection) -> None:
        service = Sum(str(connection.recv()))
        connection.send(service.said.popleft())
        service.heard.append(str(connection.recv()))
        if not interrupted.is_set():
            interrupted.set()
            interrupt()
        go_on.wait(HANGS_S)
        service.serve()
        connection.send(service.said.popleft())
        connection.recv()

    with serve(answer, "127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        with Client(url) as client, client.stream("sum") as stream:
            with pytest.raises(KeyboardInterrupt):
                stream.step([2.0])
            go_on.set()
            assert stream.recv().outputs["sum"] == 2.0
        server.shutdown()
        serving.join()


def test_interrupted_events_say_so_and_are_left() -> None:
    """By the end of the `with`, and never as if they had ended."""

    def listen() -> None:
        connection, _ = silent.accept()
        with connection:
            connection.recv(65_536)
            interrupt()
            while connection.recv(65_536):  # the body, and then the end
                pass

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        ThreadPoolExecutor(1) as pool,
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=10 * HANGS_S) as client,
    ):
        listening = pool.submit(listen)
        with pytest.raises(KeyboardInterrupt), client.generate_stream("x") as events:
            next(events)
        listening.result(HANGS_S)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="these events were interrupted; ask again, from the last state"):
                next(events)
    with pytest.raises(RuntimeError, match="the client is closed"):
        next(events)


def test_work_is_cancelled_where_the_interrupt_comes_before_its_future(monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over = BlockingPortal.start_task_soon
    running = set()

    def interrupted(portal: BlockingPortal, *work: object) -> None:
        monkeypatch.undo()
        hand_over(portal, *work)  # type: ignore[call-overload]
        raise KeyboardInterrupt

    async def work() -> None:
        running.add("work")
        try:
            await asyncio.Event().wait()
        finally:
            running.clear()

    async def turn() -> set[str]:
        await asyncio.sleep(0)
        return set(running)

    portal = Portal(AsyncClient(f"http://127.0.0.1:{free_port()}"))
    assert portal.run(turn()) == set()
    monkeypatch.setattr(BlockingPortal, "start_task_soon", interrupted)
    with pytest.raises(KeyboardInterrupt):
        portal.run(work())
    assert portal.run(turn()) == set()
    portal.close()


def test_a_client_that_is_forgotten_ends_with_its_last_stream(server: Server) -> None:
    assert server.url is not None
    before, start = client_threads(), server.mark()
    stream = Client(server.url).stream("numbers").__enter__()
    gc.collect()
    assert stream.step([1.0]).step == 1
    (thread,) = client_threads() - before
    del stream
    gc.collect()
    thread.join(HANGS_S)
    assert not thread.is_alive()
    assert "close=1000" in server.lines_since(start, until="/v1/stream 1")[-1]


def test_a_program_and_a_fork_of_it_end_though_nobody_closed_the_client(server: Server) -> None:
    assert server.url is not None
    warnings = ("-W", "error", "-W", "ignore::DeprecationWarning")  # later Pythons deprecate forks beside threads
    command = [sys.executable, *warnings, "-c", NEVER_CLOSED, server.url]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "0 1 2\n", "")


def test_a_client_without_a_loop_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have no file left for an event loop."""

    def refused(*given: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("asyncio.events.new_event_loop", refused)
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(OSError, match="too many open files"):
        client.models()
