"""What was measured, as tables: figures beside what is wanted of them, and what tells whether to believe them.

It knows raw results and Markdown, not how anything was measured. Invariant: a figure that is missed, or was measured
while requests failed, says so.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from loadtests.figures import UNITS, Raw, errors, figures, workers
from loadtests.requirements import BenchError

WHO = ("client", "server", "other")
FIGURES_HEAD = "| what | measured | floor | ratio | wanted | |"
CLOSED_HEAD = (
    "| closed loop | requests/s | items/s | p50 | p99 | errors | client, server, other CPU | server's CPU an item "
    "| padding | rows a run |"
)
OPEN_HEAD = (
    "| open loop | offered/s | sent/s | sent late, p99 | 200s/s | 429 | of them no Retry-After | other status | reset "
    "| no answer | p50 | p99 | generator's CPU | server, other CPU |"
)


def page(result: Raw) -> str:
    """Return the tables of a result; those of loops that were not measured are left out."""
    scenarios = result["scenarios"]
    limits = [
        f"{name} {' and '.join(map(str, sorted(set(limit['batches']))))} rows (padding {limit['padding']:.3f})"
        for name in UNITS
        if "padding" in (limit := scenarios.get(name, {}).get("limit", {}))
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
        f"{machine['processor']}; the service with its default settings, which gave it {workers(result['workers'])}; "
        f"{versions}. Closed loops: medians of {timing['rounds']} rounds of "
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
                f"| {of('load', 'p50_ms'):.1f} ms | {of('load', 'p99_ms'):.1f} ms | {errors(rounds)} "
                f"| {used} | {of('load', 'cpu_us'):,.0f} us "
                f"| {of('batching', 'padding'):.3f} | {of('batching', 'batch_rows'):.1f} |"
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
        statuses = r["statuses"]
        refused, others = statuses.get("429", 0), sum(statuses.values()) - statuses.get("200", 0)
        used = ", ".join(f"{r['cores'][who]:.2f}" for who in WHO[1:])
        lines.append(
            f"| {of_peak:g} x {peak:,.0f} | {r['offered_per_s']:,.0f} | {r['sent_per_s']:,.0f} "
            f"| {_ms(r['send_delay_p99_ms'])} | {r['goodput_per_s']:,.0f} | {refused:,} "
            f"| {r['refused_without_retry_after']:,} | {others - refused:,} "
            f"| {r['connection_errors']:,} | {r['unanswered']:,} "
            f"| {_ms(r['p50_ms'])} | {_ms(r['p99_ms'])} | {r['cpu']:.2f} | {used} |"
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
