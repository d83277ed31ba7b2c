"""The open-loop generator against small servers that count."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from loadtests.openloop import OpenLoop, poisson, prepare
from loadtests.outcome import Outcome

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}"
REFUSED_FOR_EVER = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"
Reply = Callable[[int], bytes | None]


class CountingServer:
    """Answers request number n (from 0) with `reply(n)`; None closes the connection. Keeps the bodies it was sent."""

    def __init__(self, reply: Reply, held: int = 0) -> None:
        self.bodies: list[bytes] = []
        self._reply, self._held, self._all_came = reply, held, asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection; nobody is answered before `held` requests have come."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                number = len(self.bodies)
                self.bodies.append(await reader.readexactly(length))
                if len(self.bodies) >= self._held:
                    self._all_came.set()
                await self._all_came.wait()
                reply = self._reply(number)
                if reply is None:
                    break
                writer.write(reply)
        except asyncio.IncompleteReadError:
            pass  # the generator is done
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: CountingServer) -> AsyncIterator[str]:
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/sentiment"


async def drive(url: str, due: list[float], most: int = 200, seconds: float = 1.0) -> Outcome:
    return await OpenLoop(*prepare(url, [b'{"a": 1}', b'{"b": 2}']), due, seconds=seconds, most=most).run()


async def test_every_arrival_is_sent_though_no_answer_comes_before_the_last() -> None:
    due = [number / 1000 for number in range(150)]
    server = CountingServer(lambda _: OK, held=len(due))
    async with serving(server) as url:
        outcome = await drive(url, due)
    assert len(server.bodies) == outcome.sent == outcome.arrivals == 150
    assert outcome.statuses == {200: 150}
    assert outcome.connections >= 150
    assert outcome.max_ms is not None
    assert outcome.max_ms >= 149  # the first waited for the last, which was due 149 ms later


async def test_bodies_are_sent_in_rotation() -> None:
    server = CountingServer(lambda _: OK)
    async with serving(server) as url:
        await drive(url, [0.0] * 10)
    assert sorted(server.bodies) == 5 * [b'{"a": 1}'] + 5 * [b'{"b": 2}']


async def test_latency_and_lateness_count_from_when_a_request_was_due() -> None:
    async with serving(CountingServer(lambda _: OK)) as url:
        outcome = await drive(url, [-5.0] * 10)
    assert outcome.p50_ms is not None
    assert outcome.send_delay_p50_ms is not None
    assert outcome.p50_ms >= outcome.send_delay_p50_ms >= 5000


async def test_refusals_are_counted_with_and_without_retry_after() -> None:
    replies = [OK, REFUSED, REFUSED_FOR_EVER, REFUSED]
    async with serving(CountingServer(lambda number: replies[number % 4])) as url:
        outcome = await drive(url, [0.0] * 40)
    assert outcome.statuses == {200: 10, 429: 30}
    assert outcome.refused_without_retry_after == 10
    assert outcome.goodput_per_s == 10


async def test_a_connection_that_breaks_fails_its_own_request_and_is_replaced() -> None:
    async with serving(CountingServer(lambda number: None if number == 3 else OK)) as url:
        outcome = await drive(url, [0.0] * 10, most=1)
    assert (outcome.statuses, outcome.connection_errors, outcome.unanswered) == ({200: 9}, 1, 0)


async def test_the_command_prints_what_became_of_the_arrivals(tmp_path: Path) -> None:
    payloads = tmp_path / "bodies.jsonl"
    payloads.write_bytes(b'{"inputs": ["good"]}\n')
    server = CountingServer(lambda _: OK)
    async with serving(server) as url:
        printed = await command(url, "--rate", "500", "--seconds", "0.2", "--payloads", str(payloads), "--seed", "7")
    assert printed["arrivals"] == printed["statuses"]["200"] == len(poisson(500, 0.2, 7)) == len(server.bodies)
    assert set(server.bodies) == {b'{"inputs": ["good"]}'}


async def command(*arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtests.openloop", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(printed)
    return result


def test_arrivals_rise_within_the_time_and_come_at_the_rate() -> None:
    times = poisson(1000, 10, seed=1)
    assert times == sorted(times) == poisson(1000, 10, seed=1)
    assert 0 < times[0] < times[-1] < 10
    assert len(times) == pytest.approx(10_000, rel=0.05)
