"""Orders to load or unload a model: one process of the service is asked, and all of them follow.

`Orders` is made before the processes are forked, who inherit all that they share: the names of the models that were
unloaded, in a file in memory, which those that start later read, and an inbox for each process. It knows names and
processes, not models. A load has two stages: every process gets the model ready, and only when all could does any of
them take it up. Invariants: one order is given at a time; once it is answered, every process has followed it, or none
has loaded anything; whoever is killed holds up nobody, for the kernel lets go of its lock, and who takes its place has
its inbox.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, cast

from service.errors import MAX_MESSAGE_CHARS, Draining, LoadFailed

log = logging.getLogger("baton.orders")

NAME_BYTES = 256  # for a directory's name; as it never crosses a page, a process that is killed leaves no half of one
LOOK_S = 0.02  # for the end of an order that another process gives
MAX_BYTES = 65_536  # of an order, or the answer to one


@dataclass(frozen=True)
class Refusal:
    """Why an order cannot be followed, and because of which version, where it is because of one."""

    reason: str
    version: str = ""

    def __str__(self) -> str:
        return f"version {self.version}: {self.reason}" if self.version else self.reason


class Refused(Exception):
    """Raised by who cannot follow an order."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@dataclass(frozen=True)
class Order:
    """Have what is on disk of a model answer, or nothing if not `wanted`; or know why another process `refused`."""

    name: str
    wanted: bool
    refused: Refusal | None = None

    @property
    def has_stages(self) -> bool:
        return self.wanted and self.refused is None


Follow = Callable[[Order], AbstractAsyncContextManager[None]]  # gets it ready; the block's end takes it up


@dataclass(frozen=True)
class Line:
    """To a process that was told of an order."""

    process: int
    end: socket.socket


class _Dropped(Exception):
    """An order is not to be taken up."""


@dataclass(frozen=True)
class Orders:
    """The orders of a service, as its process number `process` sees them.

    `names` is the file of unloaded models; inboxes are pairs, to read and to write; `waits` are those of the orders
    that this process was asked for, until it has `ended`.
    """

    names: int
    inboxes: tuple[tuple[socket.socket, socket.socket], ...]
    process: int = 0
    waits: set[asyncio.Timeout] = field(default_factory=set, init=False)
    ended: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @classmethod
    @contextmanager
    def shared(cls, processes: int) -> Iterator[Self]:
        """Share orders among so many processes, which are to be forked, until the end of the block."""
        names, inboxes = os.memfd_create("baton-unloaded"), tuple(_pair() for _ in range(processes))
        try:
            yield cls(names, inboxes)
        finally:
            os.close(names)
            for ends in inboxes:
                for end in ends:
                    end.close()

    def of(self, process: int) -> Self:
        return replace(self, process=process)

    def unloaded(self) -> set[str]:
        """Return the names of the models that were unloaded, and not loaded again."""
        return {os.fsdecode(name) for name in self._records() if name}

    async def load(self, name: str) -> None:
        """Have every process load a model that is there, and its new versions.

        This process tries it before the others hear of it.

        Raises: LoadFailed with the reason; what was served is served on, unless a process died between the stages and
        its successor is who cannot. Draining when this process ends first.
        """
        order, others = Order(name, wanted=True), (process for process in self._processes if process != self.process)
        async with self._turn() as lines:
            ready = [await self._tell(self.process, order, lines)]
            if ready[0][1].refused is None:
                ready += await asyncio.gather(*(self._tell(process, order, lines) for process in others))
            if refused := _refusal(answer for _, answer in ready):
                lines.close()  # so all drop it
                await self._tell_all(replace(order, refused=refused), lines)
                raise _failed(name, refused)
            self._note(name, unloaded=False)
            answers = await asyncio.gather(*(self._confirm(line, order, lines) for line, _ in ready))
            if refused := _refusal(answers):
                raise _failed(name, refused)

    async def unload(self, name: str) -> None:
        """Have every process retire a model, as if its directory were gone, until it is to be loaded.

        Raises: LoadFailed with the reason, or Draining.
        """
        async with self._turn() as lines:
            self._note(name, unloaded=True)
            if refused := await self._tell_all(Order(name, wanted=False), lines):
                raise _failed(name, refused)

    def end(self) -> None:
        """Have whoever waits for an order that this process was asked for hear that the service ends."""
        self.ended.set()
        for wait in self.waits:
            wait.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def followed(self, follow: Follow) -> Iterator[None]:
        """Have `follow` act on the orders that come for this process."""
        loop, inbox = asyncio.get_running_loop(), self.inboxes[self.process][0]
        following: set[asyncio.Task[None]] = set()

        def take() -> None:
            order, descriptors, _, _ = socket.recv_fds(inbox, MAX_BYTES, 1)
            asker = socket.socket(fileno=descriptors[0])
            asker.setblocking(False)
            task = loop.create_task(_answer(asker, follow, _decoded(order)))
            following.add(task)
            task.add_done_callback(following.discard)

        loop.add_reader(inbox, take)
        try:
            yield
        finally:
            loop.remove_reader(inbox)
            for task in following:
                task.cancel()

    @property
    def _processes(self) -> range:
        return range(len(self.inboxes))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[ExitStack]:
        """Wait until no other order is under way, here or in another process; what is to be closed then is kept.

        Raises: Draining when the service ends, also within the block.
        """
        lock = os.open(f"/proc/self/fd/{self.names}", os.O_RDONLY)  # its own, for processes share what they inherit
        try:
            async with asyncio.timeout(0 if self.ended.is_set() else None) as wait:
                self.waits.add(wait)
                try:
                    while True:
                        with suppress(BlockingIOError):
                            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                            break
                        await asyncio.sleep(LOOK_S)
                    with ExitStack() as lines:
                        yield lines
                finally:
                    self.waits.discard(wait)
        except TimeoutError:
            message = "the service is shutting down, and not every worker has followed the order"
            raise Draining(message, retry_after_ms=1000) from None
        finally:
            os.close(lock)

    def _records(self) -> list[bytes]:
        table = os.pread(self.names, os.fstat(self.names).st_size, 0)
        return [table[start : start + NAME_BYTES].rstrip(b"\0") for start in range(0, len(table), NAME_BYTES)]

    def _note(self, name: str, *, unloaded: bool) -> None:
        """Enter a name in the first free record, or free the record that it has."""
        records, own = [*self._records(), b""], os.fsencode(name)
        if unloaded != (own in records):
            place, content = (records.index(b""), own) if unloaded else (records.index(own), b"")
            os.pwrite(self.names, content.ljust(NAME_BYTES, b"\0"), NAME_BYTES * place)

    async def _tell_all(self, order: Order, lines: ExitStack) -> Refusal | None:
        """Have every process follow an order that has no stages; return why one cannot."""
        told = await asyncio.gather(*(self._tell(process, order, lines) for process in self._processes))
        return _refusal(answer for _, answer in told)

    async def _tell(self, process: int, order: Order, lines: ExitStack) -> tuple[Line, Order]:
        """Have a process follow an order, or whoever takes its place; return the line to it, and its answer.

        With stages, the answer comes after the first.
        """
        while True:
            ours, theirs = _pair()
            lines.enter_context(ours)
            with theirs:
                socket.send_fds(self.inboxes[process][1], [_encoded(order)], [theirs.fileno()])
            if answer := await _hear(ours):
                return Line(process, ours), answer
            ours.close()
            await asyncio.sleep(LOOK_S)  # it died over it

    async def _confirm(self, line: Line, order: Order, lines: ExitStack) -> Order:
        """Have a process that is ready take up what was ordered, or whoever takes its place; return its answer."""
        while True:
            _say(line.end, order)
            if answer := await _hear(line.end):
                return answer
            line, answer = await self._tell(line.process, order, lines)
            if answer.refused:
                return answer


def _pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def _failed(name: str, refused: Refusal) -> LoadFailed:
    return LoadFailed(f"model {name!r}: {refused}")


def _refusal(answers: Iterable[Order]) -> Refusal | None:
    return next((answer.refused for answer in answers if answer.refused), None)


def _encoded(order: Order) -> bytes:
    return json.dumps(asdict(order)).encode()


def _decoded(message: bytes) -> Order:
    order = Order(**json.loads(message))
    return order if order.refused is None else replace(order, refused=Refusal(**cast(Any, order.refused)))


def _say(end: socket.socket, order: Order) -> None:
    with suppress(ConnectionError):  # the other process is gone, as who listens will hear
        end.send(_encoded(order))


async def _hear(end: socket.socket) -> Order | None:
    """Return what the other process says, or nothing when it is gone."""
    with suppress(ConnectionError):
        if message := await asyncio.get_running_loop().sock_recv(end, MAX_BYTES):
            return _decoded(message)
    return None


async def _answer(asker: socket.socket, follow: Follow, order: Order) -> None:
    """Follow an order, and tell the asker so, or why it cannot be followed; with stages, after each.

    Whoever does not confirm the first stage, or is gone, wants no second.
    """
    with asker:
        try:
            async with follow(order):
                if order.has_stages:
                    _say(asker, order)
                    if await _hear(asker) is None:
                        raise _Dropped
        except _Dropped:
            log.info("%s was not loaded, for another process could not", order.name)
            return
        except Refused as error:
            reason = error.refusal.reason[:MAX_MESSAGE_CHARS]
            order = replace(order, refused=replace(error.refusal, reason=reason))
        except Exception:  # whoever asked waits for an answer
            log.exception("%s was not %s", order.name, "loaded" if order.wanted else "unloaded")
            order = replace(order, refused=Refusal("it failed; the log has the cause"))
        _say(asker, order)
