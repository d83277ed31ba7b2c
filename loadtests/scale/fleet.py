"""Sessions on many replicas over hours, as a SimPy simulation: pinned to the replica that began them, or not.

It knows when sessions begin and end and when replicas fail, not single steps. A session that is pinned has its state in
its replica's memory, as servers of stateful models have it; one that is not carries it in a token, and each of its
steps goes to whichever replica is next. Invariant: both ways see the same sessions and the same failures.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

LOOK_S = 60.0
DAY_S = 86_400.0
Work = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Fleet:
    """What is simulated. Units: `sessions` are under way at a time, in the mean; lives and failures are exponential.

    `skew` is the sigma of the log-normal rates at which sessions step, whose mean is 1 step in `period_s`.
    """

    replicas: int
    sessions: int
    period_s: float = 10.0
    life_s: float = 3600.0
    skew: float = 1.0
    failure_s: float = 7 * DAY_S
    restart_s: float = 10.0
    hours: float = 24.0


@dataclass(frozen=True)
class Fate:
    """What became of sessions; `history` is the steps that lost ones had taken, which are to be taken again.

    `hottest` is the load of the busiest replica over that of a replica if all shared evenly, the 99th percentile over
    the looks that were taken.
    """

    begun: int
    failures: int
    lost: int
    steps: float
    history: float
    hottest: float


@dataclass(eq=False)
class _Session:
    rate: float
    begun_s: float
    replica: _Replica | None = None


@dataclass(eq=False)
class _Replica:
    up: bool = True
    load: float = 0.0  # steps a second
    sessions: dict[_Session, None] = field(default_factory=dict)  # in order, so that a seed says all


class _World:
    def __init__(self, fleet: Fleet, pinned: bool, seed: int) -> None:
        self.env, self._fleet, self._pinned = simpy.Environment(), fleet, pinned
        self._lives, self._faults = random.Random(seed), random.Random(seed + 1)  # both ways draw the same
        self.replicas = [_Replica() for _ in range(fleet.replicas)]
        self.rate = 0.0  # of all sessions under way
        self.begun = self.failures = self.lost = 0
        self.steps = self.history = 0.0
        self.looks: list[float] = []
        self.env.process(self._arrivals())
        self.env.process(self._look())
        for replica in self.replicas:
            self.env.process(self._failures(replica))

    def _arrivals(self) -> Work:
        fleet = self._fleet
        for _ in range(fleet.sessions):
            self.env.process(self._session())
        while True:
            yield self.env.timeout(self._lives.expovariate(fleet.sessions / fleet.life_s))
            self.env.process(self._session())

    def _session(self) -> Work:
        fleet, self.begun = self._fleet, self.begun + 1
        rate = self._lives.lognormvariate(-(fleet.skew**2) / 2, fleet.skew) / fleet.period_s
        life_s = self._lives.expovariate(1 / fleet.life_s)
        session = _Session(rate, self.env.now)
        self._place(session)
        self.rate += rate
        yield self.env.timeout(life_s)
        self.rate -= rate
        self.steps += rate * life_s
        if session.replica is not None:
            del session.replica.sessions[session]
            session.replica.load -= rate

    def _place(self, session: _Session) -> None:
        """Pin a session to the replica that has the fewest, of those that are up."""
        if self._pinned:
            # With all down it waits for one, which no figure here depends on.
            up = [replica for replica in self.replicas if replica.up] or self.replicas
            session.replica = min(up, key=lambda replica: len(replica.sessions))
            session.replica.sessions[session] = None
            session.replica.load += session.rate

    def _failures(self, replica: _Replica) -> Work:
        while True:
            yield self.env.timeout(self._faults.expovariate(1 / self._fleet.failure_s))
            self.failures, replica.up = self.failures + 1, False
            gone, replica.sessions, replica.load = replica.sessions, {}, 0.0
            self.lost += len(gone)
            for session in gone:
                self.history += session.rate * (self.env.now - session.begun_s)
                session.begun_s = self.env.now
                self._place(session)
            yield self.env.timeout(self._fleet.restart_s)
            replica.up = True

    def _look(self) -> Work:
        while True:
            yield self.env.timeout(LOOK_S)
            even = self.rate / len(self.replicas)
            if self._pinned:
                self.looks.append(max(replica.load for replica in self.replicas) / even)
            elif up := sum(replica.up for replica in self.replicas):
                self.looks.append(self.rate / up / even)


def follow(fleet: Fleet, *, pinned: bool, seed: int = 0) -> Fate:
    """Return what becomes of the sessions of a fleet."""
    world = _World(fleet, pinned, seed)
    world.env.run(fleet.hours * 3600)
    return Fate(
        begun=world.begun,
        failures=world.failures,
        lost=world.lost,
        steps=world.steps,
        history=world.history,
        hottest=statistics.quantiles(world.looks, n=100)[98],
    )


def drain_s(fleet: Fleet, seed: int = 0) -> float:
    """Return how long a replica takes until the last of its pinned sessions has ended, none begun there any more."""
    rng = random.Random(seed)
    return max(rng.expovariate(1 / fleet.life_s) for _ in range(fleet.sessions // fleet.replicas))
