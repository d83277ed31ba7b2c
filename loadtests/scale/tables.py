"""What was measured, simulated and planned, as tables of docs/scale.md.

It knows raw results and Markdown, not how anything was found. Invariant: every number of the tables follows from the
results alone.
"""

from __future__ import annotations

from typing import Any

from loadtests.scale import plan
from loadtests.scale.calibration import KINDS, medians
from loadtests.scale.fleet import DAY_S, Fate, Fleet
from loadtests.scale.plan import Way, need, price
from loadtests.simulate import Cost, Costs

Raw = dict[str, Any]
PARTS = {
    "replicas": "cores of the replicas",
    "proxies": "cores of the balancer",
    "links": "link of the balancer",
    "balancers": "connections of the balancer",
    "redis": "the Redis process",
    "memory": "memory of the Redis",
}


def table(head: str, rows: list[str]) -> str:
    return "\n".join([head, "|" + (head.count("|") - 1) * "---|", *rows])


def costs_of(raw: Raw) -> Costs:
    """Return the costs as `dataclasses.asdict` wrote them."""
    return Costs(**{kind: Cost(**raw[kind]) for kind in KINDS}, unlocked=raw["unlocked"])


def ways_of(result: Raw) -> list[Way]:
    """Return the ways of the results; tokens are those of the most sessions at one replica."""
    measured = result["measured"]
    of_one = [point for point in measured["points"] if point["replicas"] == 1]
    token = {**medians(of_one[-1]["rounds"]), "request_bytes": measured["request_bytes"]}
    held = {name: {**raw, **medians(raw["rounds"])} for name, raw in measured["held"].items()}
    return list(plan.ways(token, held))


def points(result: Raw) -> str:
    """Return what was measured beside what is simulated."""
    machine, measured = result["machine"], result["measured"]
    loads = [*measured["points"], *measured["held"].values()]
    of_all = [load["other_cores"] for each in loads for load in each["rounds"]]
    rounds = len(measured["points"][0]["rounds"])
    about = (
        f"Measured on {result['date']} at the commit of {result['commit_date']}: {machine['cores']} cores, "
        f"{machine['processor']}, shared by wrk, nginx and the replicas; medians of {rounds} rounds of "
        f"{measured['seconds']} s in turn, each session pausing {measured['think_ms']} ms in the mean. Other processes "
        f"took {sum(of_all) / len(of_all):.2f} cores in the mean, {max(of_all):.2f} at most. The load average was "
        f"{result['load_average']:.1f} when it began."
    )
    rows = []
    for point, simulated in zip(measured["points"], result["simulated"], strict=True):
        seen = medians(point["rounds"])
        apart = simulated["steps_per_s"] / seen["steps_per_s"] - 1
        rows.append(
            f"| {point['replicas']} | {point['sessions']} | {seen['steps_per_s']:,.0f} "
            f"| {simulated['steps_per_s']:,.0f} | {apart:+.0%} "
            f"| {seen['mean_ms']:.1f} ms | {simulated['mean_ms']:.1f} ms | {seen['p99_ms']:.0f} ms "
            f"| {simulated['p99_ms']:.0f} ms | {1 / seen['runs']:.1f} | {simulated['rows_a_run']:.1f} |"
        )
    head = (
        "| replicas | sessions | steps/s | simulated | apart | mean latency | simulated | p99 | simulated "
        "| rows a run | simulated |"
    )
    return f"{about}\n\n{table(head, rows)}\n\n{costs_table(costs_of(result['costs']))}"


def costs_table(costs: Costs) -> str:
    names = {
        "client": "wrk, to send and to receive",
        "proxy": "nginx, each way",
        "loop": "event loop of a replica, each way",
        "run": "a run of the model",
    }
    rows = [
        f"| {what} | {1e6 * getattr(costs, kind).turn_s:.0f} us | {1e6 * getattr(costs, kind).item_s:.0f} us |"
        for kind, what in names.items()
    ]
    shares = f"Of a run {costs.unlocked:.0%} needs no interpreter lock."
    return f"{table('| what | a turn | a step in it |', rows)}\n\n{shares}"


def needs(result: Raw) -> str:
    """Return what sessions need."""
    (saturated, planned), found = result["alone"], ways_of(result)
    tokens, redis, _ = found
    about = (
        f"A replica bears {saturated['steps_per_s']:,.0f} steps/s on a core of its own, by the simulation; at the "
        f"{plan.UTILISATION:.0%} of it that are planned, p99 is {planned['p99_ms']:.0f} ms and a run has "
        f"{planned['rows_a_run']:.1f} rows."
    )
    ways = [
        f"| {way.name} | {1e6 * way.replica_s:.0f} us | {1e6 * way.proxy_s:.0f} us | {1e6 * way.redis_s:.0f} us "
        f"| {way.request_bytes:,.0f} B | {way.answer_bytes:,.0f} B | {way.redis_bytes:,.0f} B |"
        for way in found
    ]
    rows = []
    for way in (tokens, redis):
        bears = planned["steps_per_s"] * tokens.replica_s / way.replica_s
        for sessions in plan.SESSIONS:
            for period_s in plan.PERIODS_S:
                of = need(way, sessions, period_s, bears)
                memory = f"{of.redis_least_bytes / 1e9:,.1f} GB, {of.redis_day_bytes / 1e12:,.2f} TB"
                rows.append(
                    f"| {way.name} | 10^{len(str(sessions)) - 1} | {period_s} s | {of.steps_per_s:,.0f} "
                    f"| {units(of.replicas)} | {units(of.proxies)} | {units(of.links)} | {units(of.balancers)} "
                    f"| {units(of.redis) if way is redis else ''} | {memory if way is redis else ''} "
                    f"| {PARTS[of.first]} |"
                )
    head = (
        "| states | sessions | a step each | steps/s | replicas | nginx processes | links | balancers by connections "
        "| Redis processes | Redis memory at least, of a day | saturates first |"
    )
    ways_head = "| states | replica, a step | nginx | Redis | request | answer | between replica and Redis |"
    return "\n\n".join([table(ways_head, ways), about, table(head, rows)])


def units(of: float) -> str:
    """Return how many whole units that is."""
    return f"{-int(-of // 1):,}"


def pinning(result: Raw) -> str:
    """Return what becomes of sessions that are pinned and of others, and what a million steps cost."""
    costs, found = costs_of(result["costs"]), ways_of(result)
    fleets = [(Fleet(**raw["fleet"]), *(Fate(**raw[way]) for way in ("pinned", "tokens"))) for raw in result["fleets"]]
    fleet = fleets[-1][0]
    about = (
        f"Simulated: {fleet.replicas} replicas for {fleet.hours:g} hours; sessions live {fleet.life_s / 3600:g} h in "
        f"the mean and take a step in {fleet.period_s:g} s, some more, some less (log-normal, sigma {fleet.skew:g}); "
        f"a replica fails every {fleet.failure_s / DAY_S:g} days in the mean, for {fleet.restart_s:g} s. A new session "
        "is pinned to the replica that has the fewest."
    )
    rows = [
        f"| {of.sessions // of.replicas:,} | {fate.begun:,} | {fate.failures} | {fate.lost:,} | {other.lost:,} "
        f"| {fate.hottest:.2f} | {other.hottest:.2f} | {1e6 * fate.history / fate.steps:,.0f} "
        f"| {raw['drain_s'] / 3600:.1f} h |"
        for (of, fate, other), raw in zip(fleets, result["fleets"], strict=True)
    ]
    head = (
        "| sessions a replica | sessions | failures | lost, pinned | lost, tokens | busiest replica, pinned | tokens "
        "| steps taken again of 10^6, pinned | to drain a replica, pinned |"
    )
    prices = []
    for (of, fate, other), way in ((each, way) for each in fleets for way in found):
        pinned = way is found[-1]
        cost = price(way, costs.run.item_s, fate if pinned else other)
        prices.append(
            f"| {of.sessions // of.replicas:,} | {way.name} | {cost.replicas:.4f} | {cost.others:.4f} "
            f"| {cost.again:.4f} | {cost.traffic:.4f} | {cost.whole:.4f} |"
        )
    prices_head = (
        "| sessions a replica | states | replicas | nginx and Redis | steps taken again | traffic to clients | whole |"
    )
    return "\n\n".join([about, table(head, rows), _assumed(), table(prices_head, prices)])


def _assumed() -> str:
    return (
        f"A million steps, at {plan.CORE_HOUR:g} for a core hour and {plan.GB_OUT:g} for a GB to clients (examples, "
        f"`CORE_HOUR` and `GB_OUT` of `loadtests/scale/plan.py`), cores used to {plan.UTILISATION:.0%}:"
    )
