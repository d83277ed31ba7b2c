"""An in-process limit on every core: the same loop in a process for each, begun together, their rates added up.

It knows processes, not what the loops do. Invariant: while one loop is timed, all the others run.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from loadtests.floors import Limit, rate
from loadtests.requirements import BenchError


class Meeting(Protocol):
    """A barrier, as far as it is used here."""

    def wait(self) -> int: ...


@dataclass(frozen=True)
class Team:
    """The loops, each at the other end of its pipe; `facts` are what each says of itself."""

    pipes: Sequence[Connection]

    @property
    def facts(self) -> list[dict[str, Any]]:
        return list(self._ask(None))

    def rate(self, seconds: float) -> float:
        """Return items per second of all the loops, each run for `seconds` and then to the end of its window."""
        return float(sum(self._ask(seconds)))

    def _ask(self, seconds: float | None) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(seconds)
        return [_received(pipe) for pipe in self.pipes]


@contextmanager
def on_every_core(make: Callable[[], Limit]) -> Iterator[Team]:
    """Make a limit in a process for each core that this one may use, all at the same time; end them on leaving.

    Raises: BenchError when one of them ends.
    """
    cores = len(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    meeting, ended = spawn.Barrier(cores), spawn.Value("i", 0)
    with ExitStack() as running:
        pipes = []
        for _ in range(cores):
            ours, theirs = spawn.Pipe()
            pipes.append(running.enter_context(ours))
            process = spawn.Process(target=_work, args=(make, theirs, meeting, ended, cores), daemon=True)
            process.start()
            running.callback(process.join)
            running.callback(process.terminate)
            theirs.close()
        for pipe in pipes:
            _received(pipe)
        yield Team(pipes)


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise BenchError("the process of an in-process limit has ended; its error stands above") from None


def _work(make: Callable[[], Limit], pipe: Connection, meeting: Meeting, ended: Any, cores: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each of the processes has a core, and none is left over
    meeting.wait()
    limit = make()
    pipe.send(None)
    rounds = 0
    while True:
        seconds = pipe.recv()
        if seconds is None:
            pipe.send(limit.facts())
            continue
        meeting.wait()
        found, rounds = rate(limit, seconds), rounds + 1
        with ended.get_lock():
            ended.value += 1
        while ended.value < rounds * cores:
            limit.advance()
        pipe.send(found)
