"""`python -m loadtests.tracing`: what tracing costs the service, in processor time a request, off and on in turn.

Four services of one worker run beside one another, each loaded while the others rest: two without tracing, one with
every request traced and its spans sent to a collector on loopback, one with a tenth of them. It writes the table
between its marks in docs/logs-and-traces.md. Invariant: every request was answered and every span arrived, or there is
no figure.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import typer
from opentelemetry.sdk.version import __version__ as sdk_version

from loadtests import payloads, requirements
from loadtests.closedloop import run_wrk
from loadtests.collector import collecting
from loadtests.models import gather_models
from loadtests.payloads import Pool
from loadtests.profile import clocks
from loadtests.requirements import BenchError
from loadtests.serving import Running, baton

PAGE = Path(__file__).parent.parent / "docs" / "logs-and-traces.md"
BEGIN, END = "<!-- tracing:begin -->", "<!-- tracing:end -->"
STARTS, ROUNDS, SECONDS, CONNECTIONS = 10, 4, 1.0, 64
WANTED = 1.10
SPANS = 3  # of a text: its request, its wait, its run
OFF, AGAIN, ALL, TENTH = "off", "off, again", "every request", "a tenth"
SETTINGS = {
    OFF: {},
    AGAIN: {},  # how much two services differ that are the same
    ALL: {"BATON_TRACING": "true"},
    TENTH: {
        "BATON_TRACING": "true",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
    },
}
SHARES = {OFF: 0.0, AGAIN: 0.0, ALL: 1.0, TENTH: 0.1}  # of the requests, that are traced


def table(costs: dict[str, list[float]]) -> str:
    """Return the medians of the costs, of their ratios to the cost without tracing of the same start, and all costs.

    Units: microseconds of processor time a request.
    """
    lines = ["| traced | processor time a request | ratio | wanted | | of each start |", "|---|---|---|---|---|---|"]
    for name, each in costs.items():
        ratio = statistics.median(cost / off for cost, off in zip(each, costs[OFF], strict=True))
        shown = "" if name == OFF else f"{ratio:.3f}"
        judged = f"≤ {WANTED:.2f} | {'met' if ratio <= WANTED else '**missed**'}" if name == ALL else " | "
        all_us = ", ".join(f"{us:.0f}" for us in each)
        lines.append(f"| {name} | {statistics.median(each):.0f} us | {shown} | {judged} | {all_us} |")
    return "\n".join(lines)


def measure(data: Path) -> str:
    """Return the table. Raises: BenchError."""
    costs: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "models").mkdir()
        models, pool = gather_models(folder / "models"), payloads.single_texts(folder, data)
        for _ in range(STARTS):
            for name, cost_us in one_start(models, pool, folder).items():
                costs[name].append(cost_us)
    return table(costs)


def one_start(models: Path, pool: Pool, folder: Path) -> dict[str, float]:
    """Start the services, load each in turn, and return what a request cost each: starts differ, by some percent.

    Raises: BenchError when a request failed, or spans are lost.
    """
    asked, answers, cpu_s = Counter[str](), Counter[str](), dict.fromkeys(SETTINGS, 0.0)
    with ExitStack() as stack:
        collectors = {name: stack.enter_context(collecting()) for name in SETTINGS}
        with ExitStack() as running:
            services = {
                name: running.enter_context(
                    baton(
                        models,
                        folder,
                        BATON_WORKERS="1",
                        BATON_MAX_WAIT_MS="60000",  # a slow machine is no overload
                        OTEL_EXPORTER_OTLP_ENDPOINT=collectors[name].endpoint,
                        **settings,
                    )
                )
                for name, settings in SETTINGS.items()
            }
            for number in range(1 + ROUNDS):
                for name, service in services.items():
                    before = _cpu_s(service)
                    load = run_wrk(service, pool, connections=CONNECTIONS, seconds=SECONDS)
                    if load.errors:
                        raise BenchError(f"{load.errors} requests failed, so the time of the others tells nothing")
                    asked[name] += load.answers
                    if number > 0:  # the first warms up
                        answers[name] += load.answers
                        cpu_s[name] += _cpu_s(service) - before
        for name, share in SHARES.items():
            arrived = len(collectors[name].spans) / (SPANS * asked[name])
            if not 0.8 * share <= arrived <= 1.4 * share:  # more: what was under way at the end of a round
                raise BenchError(f"{name}: of the spans {arrived:.1%} arrived, in place of {share:.0%}")
    return {name: 1e6 * cpu_s[name] / answers[name] for name in SETTINGS}


def _cpu_s(service: Running) -> float:
    return sum(clock.running for clock in clocks(service.pid).values())


def main() -> None:
    """Measure what tracing costs, and write it into the page."""
    try:
        requirements.require_wrk()
        found = measure(requirements.data_dir())
    except BenchError as failure:
        sys.exit(f"tracing: {failure}")
    about = (
        f"Measured on {time.strftime('%Y-%m-%d')}: {requirements.cores()} cores, Python {platform.python_version()}, "
        f"opentelemetry-sdk {sdk_version}; one worker, one text a request over {CONNECTIONS} connections; {STARTS} "
        f"starts of all four services, {ROUNDS} rounds of {SECONDS:g} s each in turn. Medians, ratios within a start."
    )
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{about}\n\n{found}\n\n{END}{rest.split(END)[1]}")
    print(found)


if __name__ == "__main__":
    typer.run(main)
