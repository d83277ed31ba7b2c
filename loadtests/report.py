"""What was measured, as tables: figures beside what is wanted of them, and what tells whether to believe them.

It knows raw results and Markdown, not how anything was measured. Invariant: a figure that is missed, or was measured
while requests failed, says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.requirements import BenchError

Raw = dict[str, Any]
WHO = ("client", "server", "other")
FLAT = 1.05  # memory that stays within 5 % does not grow
FIGURES_HEAD = "| what | measured | floor | ratio | wanted | |"
CLOSED_HEAD = (
    "| closed loop | requests/s | items/s | p50 | p99 | errors | client, server, other CPU | padding | rows a run |"
)
OPEN_HEAD = (
    "| open loop | offered/s | sent/s | sent late, p99 | 200s/s | 429 | other | no Retry-After | p50 | p99 "
    "| client, server, other CPU |"
)
UNITS = {
    "sentiment-1": "texts/s",
    "sentiment-32": "texts/s",
    "step-1": "steps/s",
    "step-16": "steps/s",
    "forecast-16": "series/s",
    "stream-1": "steps/s",
    "stream-1-workers": "steps/s",
    "stream-64": "steps/s",
}


@dataclass(frozen=True)
class Figure:
    """One line of the table; `value` is what `at_least` or `at_most` bounds, a ratio where there is a floor."""

    what: str
    measured: str
    value: float
    floor: str = ""
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = ""
    clean: bool = True

    @property
    def met(self) -> bool:
        return self.clean and self.at_least <= self.value <= self.at_most

    def row(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least > -math.inf else f"≤ {self.at_most:g}"
        ratio = f"{self.value:.2f}" if self.floor else ""
        verdict = "met" if self.met else "**missed**" if self.clean else "**missed: requests failed**"
        return f"| {self.what} | {self.measured} | {self.floor} | {ratio} | {bound}{self.unit} | {verdict} |"


def figures(scenarios: dict[str, Raw]) -> list[Figure]:
    """Return the figures of the scenarios that were measured."""
    found: list[Figure] = []
    if raw := scenarios.get("sentiment-1"):
        found.append(_closed("sentiment-1", raw, "in_process", "1 text a request, of the in-process limit", 0.65))
        found.append(_closed("sentiment-1", raw, "plain", "the same, over a plain FastAPI handler", 3))
    if raw := scenarios.get("sentiment-32"):
        found.append(_closed("sentiment-32", raw, "in_process", "32 texts a request, of the in-process limit", 0.85))
    if raw := scenarios.get("sentiment-1"):
        found.append(_padding(raw))
    if raw := scenarios.get("step-1"):
        found.append(_closed("step-1", raw, "echo", "`/v1/step`, 1 session, over a FastAPI echo of the body", 0.75))
    if raw := scenarios.get("step-16"):
        found.append(_closed("step-16", raw, "in_process", "`/v1/step`, 16 sessions, of the in-process limit", 0.75))
    if raw := scenarios.get("forecast-16"):
        found.append(_closed("forecast-16", raw, "in_process", "`/v1/forecast`, 16 series, of the limit", 0.8))
    if raw := scenarios.get("tokens"):
        found.append(_tokens(raw))
    if raw := scenarios.get("stream-1"):
        found.append(_closed("stream-1", raw, "echo", "`/v1/stream`, 1 step a frame, over a WebSocket echo", 0.35))
    if raw := scenarios.get("stream-1-workers"):
        found.append(_closed("stream-1-workers", raw, "echo", "the same, the service with 2 workers", 0.35))
    if raw := scenarios.get("stream-64"):
        found.append(_cost_per_step(raw))
    if raw := scenarios.get("steady"):
        found.append(_steady(raw))
    if raw := scenarios.get("overload"):
        found += _overload(raw)
    if raw := scenarios.get("start"):
        ready_s, used_mb = statistics.median(raw["ready_s"]), statistics.median(raw["resident_used_mb"])
        found.append(Figure("start to ready", f"{ready_s:.2f} s", ready_s, at_most=2, unit=" s"))
        what = "resident memory after a call of each kind"
        found.append(Figure(what, f"{used_mb:.0f} MB", used_mb, at_most=250, unit=" MB"))
    return found


def _closed(name: str, raw: Raw, floor: str, what: str, at_least: float) -> Figure:
    rounds, unit = raw["rounds"], UNITS[name]
    measured = statistics.median(r["load"]["items_per_s"] for r in rounds)
    below = statistics.median(r["floors"][floor] for r in rounds)
    ratio = statistics.median(r["load"]["items_per_s"] / r["floors"][floor] for r in rounds)
    text = f"{what}, {raw['connections']} connections"
    clean = not _errors(rounds)
    return Figure(text, f"{measured:,.0f} {unit}", ratio, f"{below:,.0f} {unit}", at_least=at_least, clean=clean)


def _cost_per_step(raw: Raw) -> Figure:
    rounds = raw["rounds"]
    ours, floor = (
        [1e6 / rate for rate in rates]
        for rates in ([r["load"]["items_per_s"] for r in rounds], [r["floors"]["session_run"] for r in rounds])
    )
    ratio = statistics.median(mine / least for mine, least in zip(ours, floor, strict=True))
    batch = raw["limit"]["batch"]
    what = f"`/v1/stream`, 64 steps a frame: time a step, of `session.run` on batches of {batch}"
    text = f"{what}, {raw['connections']} connections"
    us, least_us = statistics.median(ours), statistics.median(floor)
    return Figure(text, f"{us:.1f} us", ratio, f"{least_us:.1f} us", at_most=1.4, clean=not _errors(rounds))


def _tokens(raw: Raw) -> Figure:
    ours, floor = (statistics.median(r[name] for r in raw["rounds"]) for name in ("seal_and_open_us", "cipher_us"))
    what = f"seal and open a state of 4 KiB (the cipher alone: {floor:.1f} us)"
    return Figure(what, f"{ours:.1f} us", ours, at_most=30, unit=" us")


def _padding(raw: Raw) -> Figure:
    padding = statistics.median(r["batching"]["padding"] for r in raw["rounds"])
    what = f"padded over real steps, mixed lengths, {raw['connections']} connections"
    return Figure(what, f"{padding:.3f}", padding, at_most=1.15, clean=not _errors(raw["rounds"]))


def _steady(raw: Raw) -> Figure:
    rounds = raw["rounds"]
    p50, p99 = (statistics.median(r[name] for r in rounds) for name in ("p50_ms", "p99_ms"))
    ratio = statistics.median(r["p99_ms"] / r["p50_ms"] for r in rounds)
    what = f"open loop at {raw['of_peak']:.0%} of the peak: p99 over p50"
    return Figure(what, f"{p99:.1f} ms", ratio, f"{p50:.1f} ms", at_most=4, clean=not any(map(_not_answered, rounds)))


def _overload(raw: Raw) -> list[Figure]:
    what, peak = f"open loop at {raw['of_peak']:g} x the peak", statistics.mean(raw["peaks_per_s"])
    refused, proper = _not_answered(raw), _refused_properly(raw)
    resident = raw["resident_mb"]
    first, second = max(resident[: len(resident) // 2]), max(resident[len(resident) // 2 :])
    return [
        Figure(
            f"{what}: answers of 200, of the peak",
            f"{raw['goodput_per_s']:,.0f} /s",
            raw["goodput_per_s"] / peak,
            f"{peak:,.0f} /s",
            at_least=0.9,
        ),
        Figure(
            f"{what}: of all that got no 200, answered 429 with Retry-After",
            f"{proper:,}",
            proper / max(1, refused),
            f"{refused:,}",
            at_least=1,
        ),
        Figure(
            f"{what}: most memory in the second half, over the first",
            f"{second:.0f} MB",
            second / first,
            f"{first:.0f} MB",
            at_most=FLAT,
        ),
    ]


def _errors(rounds: Sequence[Raw]) -> int:
    return sum(r["load"]["errors"] + r["batching"]["failed_items"] for r in rounds)


def _not_answered(raw: Raw) -> int:
    return int(raw["arrivals"] - raw["statuses"].get("200", 0))


def _refused_properly(raw: Raw) -> int:
    return int(max(0, raw["statuses"].get("429", 0) - raw["refused_without_retry_after"]))


def page(result: Raw) -> str:
    """Return the tables of a result; those of loops that were not measured are left out."""
    scenarios = result["scenarios"]
    limits = [
        f"{name} {scenarios[name]['limit']['batch']} rows (padding {scenarios[name]['limit']['padding']:.3f})"
        for name in UNITS
        if "padding" in scenarios.get(name, {}).get("limit", {})
    ]
    parts = [
        about(result),
        _table(FIGURES_HEAD, [figure.row() for figure in figures(scenarios)]),
        _table(CLOSED_HEAD, closed_rows(scenarios)),
        f"Best batches of the in-process limits: {', '.join(limits)}." if limits else "",
        _table(OPEN_HEAD, open_rows(scenarios)),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(head: str, rows: list[str]) -> str:
    columns = head.count("|") - 1
    return "\n".join([head, "|" + columns * "---|", *rows]) if rows else ""


def about(result: Raw) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    machine, timing = result["machine"], result["timing"]
    return (
        f"Measured on {result['date']} at the commit of {result['commit_date']}: {machine['cores']} cores, "
        f"{machine['processor']}; {versions}. Closed loops: medians of {timing['rounds']} rounds of "
        f"{timing['seconds']:g} s, floors and service in turn."
    )


def closed_rows(scenarios: dict[str, Raw]) -> list[str]:
    lines = []
    for name in UNITS:
        if raw := scenarios.get(name):
            rounds = raw["rounds"]

            def of(part: str, field: str, rounds: list[Raw] = rounds) -> float:
                return float(statistics.median(r[part][field] for r in rounds))

            used = ", ".join(f"{statistics.median(r['load']['cores'][who] for r in rounds):.2f}" for who in WHO)
            lines.append(
                f"| {name} | {of('load', 'requests_per_s'):,.0f} | {of('load', 'items_per_s'):,.0f} "
                f"| {of('load', 'p50_ms'):.1f} ms | {of('load', 'p99_ms'):.1f} ms | {_errors(rounds)} "
                f"| {used} | {of('batching', 'padding'):.3f} | {of('batching', 'batch_rows'):.1f} |"
            )
    return lines


def open_rows(scenarios: dict[str, Raw]) -> list[str]:
    runs = [(r["peak_per_s"], scenarios["steady"]["of_peak"], r) for r in scenarios.get("steady", {}).get("rounds", [])]
    if raw := scenarios.get("overload"):
        runs.append((raw["peaks_per_s"][0], raw["of_peak"], raw))
    if raw := scenarios.get("sweep"):
        runs += [(raw["peak_per_s"], point["of_peak"], point) for point in raw["points"]]
    lines = []
    for peak, of_peak, r in runs:
        refused = r["statuses"].get("429", 0)
        used = ", ".join(f"{r['cores'][who]:.2f}" for who in WHO)
        lines.append(
            f"| {of_peak:g} x {peak:,.0f} | {r['offered_per_s']:,.0f} | {r['sent_per_s']:,.0f} "
            f"| {_ms(r['send_delay_p99_ms'])} | {r['goodput_per_s']:,.0f} | {refused:,} "
            f"| {_not_answered(r) - refused:,} | {r['refused_without_retry_after']:,} "
            f"| {_ms(r['p50_ms'])} | {_ms(r['p99_ms'])} | {used} |"
        )
    return lines


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:,.1f} ms"


def write_between(page_file: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name`. Raises: BenchError when the page lacks them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = page_file.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise BenchError(f"{page_file.name} lacks {begin} or {end}")
    page_file.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")
