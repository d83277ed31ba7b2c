"""What was measured of the servers, as tables, with what is wanted of `/v2` beside them.

It knows raw results and Markdown, not how anything was measured. Invariant: every server of the results is in a table,
with figures, or with a number that leads to the reason why it has none; a wanted figure that is missed says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from loadtests.figures import Figure
from loadtests.peers.catalogue import OURS
from loadtests.peers.measure import START, TOKENS
from loadtests.peers.sessions import BatonBinary, BatonJson, TritonBinary, TritonJson

Raw = dict[str, Any]


class Wanted(NamedTuple):
    """What is wanted of `/v2`: the `rate` of a load at least so many times that of a peer's."""

    what: str
    load: str
    rate: str
    peer: str
    peer_load: str
    at_least: float


TEXTS, STEPS, CORE, BATCHER = "requests_per_s", "steps_per_s", "triton", "triton-sequence"
WANTED = (
    Wanted("one row of 25 ids as JSON, over Triton's core", "tokens-25", TEXTS, CORE, "tokens-25", 1.6),
    Wanted("one row of 2 to 60 ids as JSON, over Triton's core", "tokens-mixed", TEXTS, CORE, "tokens-mixed", 6),
    Wanted("sequences, over Triton's, JSON", BatonJson.title, STEPS, BATCHER, TritonJson.title, 0.9),
    Wanted("sequences, over Triton's, binary", BatonBinary.title, STEPS, BATCHER, TritonBinary.title, 1.1),
)
WANTED_HEAD = "| `/v2` | measured | Triton | ratio | wanted | |"
TEXTS_HEAD = (
    "| one text a request | 25 tokens each | p99 | `/v1` over it | `/v2` over it "
    "| 2 to 60 tokens | p99 | `/v1` over it | `/v2` over it | errors |"
)
STEPS_HEAD = (
    "| sessions of an LSTM 2x256 | steps/s | p50 | p99 | server CPU a step | client CPU "
    "| over Triton, JSON | over Triton, binary |"
)
SERVERS_HEAD = "| server | version | workers | threads a run | options |"


def page(result: Raw) -> str:
    """Return the tables of one run as Markdown."""
    notes: list[str] = []
    servers = result["servers"]
    tables = [_wanted(servers), _texts(servers, notes), _steps(servers, notes), _servers(servers)]
    remarks = "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))
    return "\n\n".join(["".join(_intro(result)), *("\n".join(table) for table in tables if len(table) > 2), remarks])


def _intro(result: Raw) -> Iterator[str]:
    machine, timing = result["machine"], result["timing"]
    yield f"Measured on {result['date']} at the commit of {result['commit_date']}: {machine['cores']} cores, "
    yield f"{machine['processor']}; {', '.join(f'{name} {version}' for name, version in result['versions'].items())}. "
    yield f"Medians of {_counted(timing['rounds'], 'round')} of {timing['seconds']:g} s. "
    ours = [result["servers"][name] for name in OURS]
    yield f"Baton with its defaults, which were {_counted(ours[0]['workers'], 'worker')} here. "
    others = [one["cores"]["other"] for server in ours for load in TOKENS for one in server["loads"][load]]
    if others:
        yield f"Beside Baton's loads of texts everything else here used {statistics.median(others):.2f} cores."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _wanted(servers: dict[str, Raw]) -> list[str]:
    """Return the lines of what is wanted, without those whose peer has nothing to compare with."""
    figures = [
        _figure(wanted, servers["baton-v2"], servers[wanted.peer]["loads"][wanted.peer_load])
        for wanted in WANTED
        if wanted.peer in servers and not _reason(servers[wanted.peer], wanted.peer_load)
    ]
    return [WANTED_HEAD, "|---" * 6 + "|", *(figure.row() for figure in figures)]


def _figure(wanted: Wanted, ours: Raw, theirs: list[Raw]) -> Figure:
    if _reason(ours, wanted.load):
        return Figure(wanted.what, "", math.nan, at_least=wanted.at_least, spoilt="the load failed")
    rounds = ours["loads"][wanted.load]
    measured, below = (f"{_median(each, wanted.rate):,.0f} /s" for each in (rounds, theirs))
    return Figure(
        wanted.what,
        measured,
        _ratio(rounds, theirs, wanted.rate),
        below,
        at_least=wanted.at_least,
        spoilt="requests failed" if any(one.get("errors") for one in (*rounds, *theirs)) else "",
    )


def _texts(servers: dict[str, Raw], notes: list[str]) -> list[str]:
    lines = [TEXTS_HEAD, "|---" * 10 + "|"]
    for name, server in servers.items():
        if not server["loads"].keys() & TOKENS.keys():
            continue
        cells, errors = [], 0
        for load in TOKENS:
            rounds = server["loads"][load]
            errors += sum(one["errors"] for one in rounds)
            if reason := _reason(server, load):
                cells += [_noted(notes, f"{server['title']}: {reason}"), "", "", ""]
            else:
                cells += [f"{_median(rounds, 'requests_per_s'):,.0f} /s", f"{_median(rounds, 'p99_ms'):,.0f} ms"]
                cells += ["" if name in OURS else _over_texts(servers[own], load, rounds) for own in OURS]
        lines.append(f"| {server['title']} | {' | '.join(cells)} | {errors} |")
    return lines


def _steps(servers: dict[str, Raw], notes: list[str]) -> list[str]:
    lines = [STEPS_HEAD, "|---" * 8 + "|"]
    loads = {
        load: (server, rounds)
        for server in servers.values()
        for load, rounds in server["loads"].items()
        if load not in TOKENS
    }
    for load, (server, rounds) in loads.items():
        if reason := _reason(server, load):
            lines.append(f"| {load} | {_noted(notes, reason)} | | | | | | |")
            continue
        ratios = [_over(rounds, loads, kind.title) for kind in (TritonJson, TritonBinary)]
        cells = [f"{_median(rounds, 'steps_per_s'):,.0f}", f"{_median(rounds, 'p50_ms'):.1f} ms"]
        cells += [f"{_median(rounds, 'p99_ms'):.1f} ms", f"{_median(rounds, 'server_us_per_step'):.0f} us"]
        cells += [f"{_median(rounds, 'client_cores'):.2f} cores", *ratios]
        lines.append(f"| {load} | {' | '.join(cells)} |")
    return lines


def _servers(servers: dict[str, Raw]) -> list[str]:
    shown = ("title", "version", "workers", "threads", "options")
    rows = [f"| {' | '.join(str(server[name]) for name in shown)} |" for server in servers.values()]
    return [SERVERS_HEAD, "|---" * len(shown) + "|", *rows]


def _reason(server: Raw, load: str) -> str | None:
    reason: str | None = server["failed"].get(load) or server["failed"].get(START)
    return reason


def _noted(notes: list[str], reason: str) -> str:
    note = " ".join(reason.split())
    if note not in notes:
        notes.append(note)
    return f"failed ({notes.index(note) + 1})"


def _median(rounds: list[Raw], what: str) -> float:
    return statistics.median(float(one[what]) for one in rounds)


def _ratio(above: list[Raw], below: list[Raw], what: str) -> float:
    return statistics.median(float(a[what] / b[what]) for a, b in zip(above, below, strict=True))


def _over_texts(ours: Raw, load: str, rounds: list[Raw]) -> str:
    return "" if _reason(ours, load) else f"{_ratio(ours['loads'][load], rounds, 'requests_per_s'):.2f}"


def _over(rounds: list[Raw], loads: dict[str, tuple[Raw, list[Raw]]], other: str) -> str:
    server, below = loads.get(other, ({}, []))
    if rounds is below or not below or _reason(server, other):
        return ""
    return f"{_ratio(rounds, below, 'steps_per_s'):.2f}"
