"""How much of what so many sessions need, and what a million steps cost, computed from what was measured.

It knows costs of steps and what is assumed of machines, not tables. Nothing here is measured at that size: costs are
taken to grow with the steps, as they do from one replica to three. Invariant: an assumption stands here by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from loadtests.scale.fleet import DAY_S, Fate
from loadtests.simulate import Cost, Costs, Outcome, Setup, simulate

SESSIONS, PERIODS_S = (10**4, 10**6, 10**8), (1, 10, 60)
UTILISATION = 0.7  # at which processes and links are planned
CORES = 16  # of a machine of replicas, or of balancers
LINK_BITS_PER_S = 10e9  # of a balancer, in each direction
CONNECTIONS = 100_000  # that a balancer keeps open, one a session
REDIS_BYTES = 64e9  # memory of a Redis
CORE_HOUR, GB_OUT = 0.04, 0.01  # examples of prices, of a core for an hour and of 10^9 bytes that leave to clients
FREE = Cost(0.0, 0.0)
Raw = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """Where states are, and what a step costs there. Units: `*_s` is processor time a step; bytes of a step."""

    name: str
    replica_s: float
    proxy_s: float
    request_bytes: float
    answer_bytes: float
    redis_s: float = 0.0
    redis_bytes: float = 0.0  # that a step moves between replica and Redis
    state_bytes: float = 0.0  # that a snapshot takes in Redis


def ways(token: Raw, held: Raw) -> Iterator[Way]:
    """Yield the ways of a saturated replica whose states are in tokens, in Redis and in its own memory."""
    redis = held["redis"]
    kept = {name: redis[name] for name in ("state_bytes",)}
    moved = {"redis_s": redis["cpu_us"] / 1e6, "redis_bytes": redis["bytes_in"] + redis["bytes_out"]}
    for name, load, more in (
        ("tokens", token, {}),
        ("held in Redis", redis, {**kept, **moved}),
        ("pinned, in the replica's memory", held["memory"], {}),
    ):
        yield Way(
            name,
            replica_s=(load["loop_us"] + load["run_us"]) / 1e6,
            proxy_s=load["proxy_us"] / 1e6,
            request_bytes=load["request_bytes"],
            answer_bytes=load["answer_bytes"],
            **more,
        )


def alone(costs: Costs, sessions: int) -> Outcome:
    """Return what a replica bears on a core of its own, its clients and proxy elsewhere, a step a session a second."""
    return simulate(Setup(1, sessions, think_s=1.0, cores=1), replace(costs, client=FREE, proxy=FREE), warm_s=3.0)


def bears(costs: Costs) -> tuple[Outcome, Outcome]:
    """Return a replica that is saturated, and one that has the load which is planned."""
    saturated = alone(costs, 8192)
    return saturated, alone(costs, round(UTILISATION * saturated.steps_per_s))


@dataclass(frozen=True)
class Need:
    """What sessions need, in units of each part and fractions of one.

    `first` is what saturates first where there is one of each: a machine of replicas, a machine that balances, a Redis.
    """

    steps_per_s: float
    replicas: float
    proxies: float
    links: float
    balancers: float  # by connections
    redis: float
    redis_least_bytes: float
    redis_day_bytes: float
    first: str


def need(way: Way, sessions: int, period_s: float, replica_steps_per_s: float) -> Need:
    """Return what so many sessions need that take a step a period, a replica bearing so many steps a second."""
    rate = sessions / period_s
    parts = {
        "replicas": rate / replica_steps_per_s,
        "proxies": rate * way.proxy_s / UTILISATION,
        "links": rate * 8 * (way.request_bytes + way.answer_bytes) / LINK_BITS_PER_S / UTILISATION,
        "balancers": sessions / CONNECTIONS,
        "redis": rate * way.redis_s / UTILISATION,
    }
    least_bytes = sessions * way.state_bytes
    of_one = {
        **parts,
        "replicas": parts["replicas"] / CORES,
        "proxies": parts["proxies"] / CORES,
        "memory": least_bytes / REDIS_BYTES,
    }
    return Need(
        steps_per_s=rate,
        **parts,
        redis_least_bytes=least_bytes,
        redis_day_bytes=rate * DAY_S * way.state_bytes,
        first=max(of_one, key=lambda part: of_one[part]),
    )


@dataclass(frozen=True)
class Price:
    """What a million steps cost, in the currency of the prices."""

    replicas: float
    others: float
    traffic: float
    again: float

    @property
    def whole(self) -> float:
        return self.replicas + self.others + self.traffic + self.again


def price(way: Way, step_s: float, fate: Fate) -> Price:
    """Return what a million steps cost; the busiest replica is planned as any is, and what was lost is taken again."""
    core_s = CORE_HOUR / 3600 / UTILISATION
    return Price(
        replicas=1e6 * way.replica_s * fate.hottest * core_s,
        others=1e6 * (way.proxy_s + way.redis_s) * core_s,
        traffic=1e6 * way.answer_bytes / 1e9 * GB_OUT,
        again=1e6 * fate.history / fate.steps * step_s * core_s,
    )
