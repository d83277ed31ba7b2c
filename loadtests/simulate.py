"""One machine that serves sessions, as a SimPy simulation: a load generator, a proxy and replicas on shared cores.

It knows threads, their costs in processor time, cores and interpreter locks; nothing of HTTP, models or how a cost was
measured. A replica is an event loop and the threads that run its model, under one interpreter lock. Invariants: every
thread is work-conserving, and takes all that waits when it wakes; a session has one step under way at most.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import simpy

SLICE_S = 0.0005  # as long as a thread keeps the interpreter where another wants it (`sys.setswitchinterval`)
CLIENT_THREADS, RUN_THREADS = 2, 2  # of wrk as `make bench-scale` starts it; `BATON_RUN_THREADS`
Work = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Cost:
    """Processor time: of a turn, in which a thread takes all that waits, and of each item in it. Units: seconds."""

    turn_s: float
    item_s: float


@dataclass(frozen=True)
class Costs:
    """What a step costs where it passes; `unlocked` is the share of a run that needs no interpreter lock."""

    client: Cost
    proxy: Cost
    loop: Cost
    run: Cost
    unlocked: float = 0.0


@dataclass(frozen=True)
class Setup:
    """A closed loop: each of `sessions` pauses, exponentially distributed, `think_s` in the mean, and takes a step."""

    replicas: int
    sessions: int
    think_s: float
    cores: int = 2


@dataclass(frozen=True)
class Use:
    """What the threads of a kind did: their processor time, turns and items a step."""

    cpu_s: float
    turns: float
    items: float


@dataclass(frozen=True)
class Outcome:
    """What was seen after the warm-up; `uses` by kind of thread, `utilisation` is that of all cores."""

    steps_per_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    rows_a_run: float
    utilisation: float
    uses: dict[str, Use]


class Share:
    """A thread's share of the cores: those who used least go first, as Linux has it; who slept is owed nothing."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._used_s = machine, 0.0

    def wake(self) -> None:
        self._used_s = max(self._used_s, self._machine.fair_s)

    def use(self, seconds: float) -> Work:
        """Use a core for so long, given up after each slice for whoever is owed more."""
        machine = self._machine
        while True:
            now = min(seconds, SLICE_S)
            with machine.cores.request(priority=self._used_s) as core:
                yield core
                machine.fair_s = max(machine.fair_s, self._used_s)
                yield machine.env.timeout(now)
            self._used_s += now
            seconds -= now
            if seconds <= 0:
                return


class Threads:
    """Threads of one kind that serve one queue; with `together` all items of a turn are done at its end."""

    def __init__(
        self,
        machine: Machine,
        cost: Cost,
        *,
        count: int = 1,
        lock: simpy.Resource | None = None,
        unlocked: float = 0.0,
        together: bool = False,
    ) -> None:
        self._cost, self._lock, self._unlocked, self._together = cost, lock, unlocked, together
        self._env, self._waiting = machine.env, simpy.Store(machine.env)
        self.cpu_s, self.turns, self.items = 0.0, 0, 0
        for _ in range(count):
            machine.env.process(self._work(Share(machine)))

    def serve(self) -> simpy.Event:
        """Queue an item; return the event of its end."""
        item = self._env.event()
        self._waiting.put(item)
        return item

    def _work(self, share: Share) -> Work:
        cost = self._cost
        while True:
            first = yield self._waiting.get()
            share.wake()
            yield from self._compute(share, 0.0)  # what else has come until it runs is of the same turn
            items = [first, *self._waiting.items]
            self._waiting.items.clear()
            self.turns, self.items = self.turns + 1, self.items + len(items)
            if self._together:
                yield from self._compute(share, cost.turn_s + cost.item_s * len(items))
                for item in items:
                    item.succeed()
                continue
            yield from self._compute(share, cost.turn_s)
            for item in items:
                yield from self._compute(share, cost.item_s)
                item.succeed()

    def _compute(self, share: Share, seconds: float) -> Work:
        """Use a core for so long, the lock held for its share, both given up after each slice for whoever waits."""
        self.cpu_s += seconds
        if self._lock is None:
            yield from share.use(seconds)
            return
        locked = seconds * (1 - self._unlocked)
        while True:
            now = min(locked, SLICE_S)
            with self._lock.request() as held:
                yield held
                yield from share.use(now)
            locked -= now
            if locked <= 0:
                break
        if self._unlocked:
            yield from share.use(seconds * self._unlocked)


class Replica:
    """A service of one process."""

    def __init__(self, machine: Machine, costs: Costs) -> None:
        lock = simpy.Resource(machine.env)
        self.loop = Threads(machine, costs.loop, lock=lock, together=True)
        self.runs = Threads(machine, costs.run, count=RUN_THREADS, lock=lock, unlocked=costs.unlocked, together=True)


class Machine:
    """All that shares the cores, and the sessions."""

    def __init__(self, setup: Setup, costs: Costs, seed: int) -> None:
        self.env, self._setup, self._rng = simpy.Environment(), setup, random.Random(seed)
        self.cores, self.fair_s = simpy.PriorityResource(self.env, setup.cores), 0.0
        self._clients = [Threads(self, costs.client) for _ in range(CLIENT_THREADS)]
        self._proxy = Threads(self, costs.proxy)
        self._replicas = [Replica(self, costs) for _ in range(setup.replicas)]
        self._latencies: list[float] = []
        turn = cycle(self._replicas)
        for _, client in zip(range(setup.sessions), cycle(self._clients), strict=False):
            self.env.process(self._session(client, turn))

    def _session(self, client: Threads, turn: Iterator[Replica]) -> Work:
        while True:
            if self._setup.think_s:
                yield self.env.timeout(self._rng.expovariate(1 / self._setup.think_s))
            yield client.serve()
            sent = self.env.now
            replica = next(turn)
            for threads in (self._proxy, replica.loop, replica.runs, replica.loop, self._proxy, client):
                yield threads.serve()
            self._latencies.append(self.env.now - sent)

    def _kinds(self) -> dict[str, list[Threads]]:
        return {
            "client": self._clients,
            "proxy": [self._proxy],
            "loop": [replica.loop for replica in self._replicas],
            "run": [replica.runs for replica in self._replicas],
        }

    def run(self, seconds: float, warm_s: float) -> Outcome:
        """Return what is seen in so many seconds after the warm-up."""
        self.env.run(warm_s)
        kinds = self._kinds()
        self._latencies.clear()
        for threads in (each for kind in kinds.values() for each in kind):
            threads.cpu_s, threads.turns, threads.items = 0.0, 0, 0
        self.env.run(warm_s + seconds)
        steps = len(self._latencies)
        uses = {
            name: Use(*(sum(getattr(each, of) for each in kind) / steps for of in ("cpu_s", "turns", "items")))
            for name, kind in kinds.items()
        }
        percentiles = statistics.quantiles(self._latencies, n=100)
        return Outcome(
            steps_per_s=steps / seconds,
            mean_ms=1e3 * statistics.fmean(self._latencies),
            p50_ms=1e3 * percentiles[49],
            p99_ms=1e3 * percentiles[98],
            rows_a_run=uses["run"].items / uses["run"].turns,
            utilisation=sum(use.cpu_s for use in uses.values()) * steps / seconds / self._setup.cores,
            uses=uses,
        )


def simulate(setup: Setup, costs: Costs, *, seconds: float = 5.0, warm_s: float = 1.0, seed: int = 0) -> Outcome:
    """Return what a machine that is set up so would show."""
    return Machine(setup, costs, seed).run(seconds, warm_s)
