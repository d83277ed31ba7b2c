"""What was measured of the servers, as tables.

It knows raw results and Markdown, not how anything was measured. Invariant: every server of the results is in a table,
with figures, or with a number that leads to the reason why it has none.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from loadtests.peers.catalogue import BATON
from loadtests.peers.measure import START, TOKENS
from loadtests.peers.sessions import TritonBinary, TritonJson

Raw = dict[str, Any]
TEXTS_HEAD = (
    "| one text a request | 25 tokens each | p99 | Baton over it | 2 to 60 tokens | p99 | Baton over it | errors |"
)
STEPS_HEAD = (
    "| sessions of an LSTM 2x256 | steps/s | p50 | p99 | server CPU a step | client CPU "
    "| over Triton, JSON | over Triton, binary |"
)
SERVERS_HEAD = "| server | version | workers | threads a run | options |"


def page(result: Raw) -> str:
    """Return the tables of one run as Markdown."""
    notes: list[str] = []
    tables = [_texts(result["servers"], notes), _steps(result["servers"], notes), _servers(result["servers"])]
    remarks = "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))
    return "\n\n".join(["".join(_intro(result)), *("\n".join(table) for table in tables if len(table) > 2), remarks])


def _intro(result: Raw) -> Iterator[str]:
    machine, timing = result["machine"], result["timing"]
    yield f"Measured on {result['date']} at the commit of {result['commit_date']}: {machine['cores']} cores, "
    yield f"{machine['processor']}; {', '.join(f'{name} {version}' for name, version in result['versions'].items())}. "
    yield f"Medians of {_counted(timing['rounds'], 'round')} of {timing['seconds']:g} s. "
    yield f"Baton with its defaults, which were {_counted(result['servers'][BATON]['workers'], 'worker')} here. "
    ours = result["servers"][BATON]["loads"]
    others = [one["cores"]["other"] for load in TOKENS for one in ours[load]]
    if others:
        yield f"Beside Baton's loads of texts everything else here used {statistics.median(others):.2f} cores."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _texts(servers: dict[str, Raw], notes: list[str]) -> list[str]:
    lines = [TEXTS_HEAD, "|---" * 8 + "|"]
    ours = servers[BATON]["loads"]
    for name, server in servers.items():
        if not server["loads"].keys() & TOKENS.keys():
            continue
        cells, errors = [], 0
        for load in TOKENS:
            rounds = server["loads"][load]
            errors += sum(one["errors"] for one in rounds)
            if reason := _reason(server, load):
                cells += [_noted(notes, f"{server['title']}: {reason}"), "", ""]
            else:
                alone = name == BATON or _reason(servers[BATON], load)
                ratio = "" if alone else f"{_ratio(ours[load], rounds, 'requests_per_s'):.2f}"
                cells += [f"{_median(rounds, 'requests_per_s'):,.0f} /s", f"{_median(rounds, 'p99_ms'):,.0f} ms", ratio]
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


def _over(rounds: list[Raw], loads: dict[str, tuple[Raw, list[Raw]]], other: str) -> str:
    server, below = loads.get(other, ({}, []))
    if rounds is below or not below or _reason(server, other):
        return ""
    return f"{_ratio(rounds, below, 'steps_per_s'):.2f}"
