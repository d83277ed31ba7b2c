"""What Triton's `perf_analyzer` finds of Baton, beside what this project's own generators find on such requests.

It is the second half of `make bench-peers`: it writes `loadtests/results/analysis.json` and a table in
`docs/benchmarks.md`. With `--seconds` it only prints the table. It knows what is asked, not how a generator works.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtests import bench, report, requirements
from loadtests.closedloop import run_wrk
from loadtests.models import GRAPH_FILE, PLAIN_MODEL, STEP_MODEL, newest, write_plain_reader, write_references
from loadtests.payloads import drawn_ids
from loadtests.peers.analyzer import NAME, Analysis, analyze, prepare_analyzer, write_ids
from loadtests.peers.environments import CACHE, PeerError, pinned
from loadtests.peers.sessions import INPUTS, BatonBinary
from loadtests.peers.steps import load_steps
from loadtests.requirements import BenchError
from loadtests.serving import Running, baton, metrics
from loadtests.workbench import check_scores

Raw = dict[str, Any]
RESULTS = bench.RESULTS.with_name("analysis.json")
SECONDS, WARM_S = 60.0, 1.0
BATCHES, SEQUENCES, STEPS = 8, 32, 20  # requests and sequences at a time, and about how many steps a sequence has
REFUSED = ("baton_rejected_total", "baton_item_errors_total")
HEAD = "| `perf_analyzer` | inferences/s | p50 | p99 | requests | errors | beside it | inferences/s | p50 | p99 |"


def analyze_batches(command: list[str], service: Running, models: Path, folder: Path, seconds: float) -> Raw:
    """Rows of ids, many a request, to a model without a task; beside them wrk with the same rows."""
    pool = drawn_ids(folder, PLAIN_MODEL)
    check_scores(service, pool, newest(PLAIN_MODEL, models))
    data = folder / "ids.json"
    write_ids(data, [row.tolist() for row in pool.content])
    options = ("-b", str(pool.items), "--input-data", str(data))
    found = analyze(command, service, PLAIN_MODEL, options, concurrency=BATCHES, seconds=seconds, folder=folder)
    wrk = run_wrk(service, pool, connections=BATCHES, seconds=_beside_s(seconds))
    if wrk.errors:
        raise PeerError(f"wrk had {wrk.errors} errors")
    return {
        "what": f"{pool.items} rows of {len(pool.content[0])} ids a request, {BATCHES} at a time",
        **asdict(found),
        "beside": _beside("wrk", Analysis(wrk.answers, wrk.items_per_s, wrk.p50_ms, wrk.p99_ms)),
    }


def analyze_sequences(command: list[str], service: Running, models: Path, folder: Path, seconds: float) -> Raw:
    """Sequences of the LSTM, one step a request; beside them those of our own client, which do not end.

    `perf_analyzer` asks synchronously: as it stops otherwise, it ends sequences beside steps that are on their way.
    """
    options = ("--shape", f"x:1,{INPUTS.shape[1]}", "--sequence-length", str(STEPS), "--sync")
    found = analyze(command, service, STEP_MODEL, options, concurrency=SEQUENCES, seconds=seconds, folder=folder)
    graph = newest(STEP_MODEL, models) / GRAPH_FILE
    ours = load_steps(service, BatonBinary, graph, sessions=SEQUENCES, warm_s=WARM_S, seconds=_beside_s(seconds))
    steps = round(ours.steps_per_s * _beside_s(seconds))
    return {
        "what": f"sequences of about {STEPS} steps of the LSTM, {SEQUENCES} at a time",
        **asdict(found),
        "beside": _beside("our own client", Analysis(steps, ours.steps_per_s, ours.p50_ms, ours.p99_ms)),
    }


def _beside_s(seconds: float) -> int:
    """Return for how long what stands beside is measured; wrk knows whole seconds alone."""
    return round(seconds / 3)


def _beside(client: str, found: Analysis) -> Raw:
    return {"client": client, **asdict(found)}


ANALYSES: tuple[Callable[[list[str], Running, Path, Path, float], Raw], ...] = (analyze_batches, analyze_sequences)


def measure(seconds: float, cache: Path) -> list[Raw]:
    """Return what was found, with the errors that the service counted meanwhile.

    Raises: PeerError where a request failed.
    """
    command, found = prepare_analyzer(cache), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = write_references(folder / "models")
        write_plain_reader(models / PLAIN_MODEL / "1")
        with baton(models, folder) as service:
            for take in ANALYSES:
                before = _refused(service)
                raw = take(command, service, models, folder, seconds)
                found.append({**raw, "errors": _refused(service) - before})
    return found


def _refused(service: Running) -> int:
    counted = metrics(service.url)
    return round(sum(counted[name] for name in REFUSED))


def page(result: Raw) -> str:
    """Return the table of a result as Markdown."""
    about = (
        f"Measured on {result['date']} at the commit of {result['commit_date']}: perf-analyzer {result['version']}, "
        f"{result['timing']['seconds']:g} s each; what stands beside it a third of that."
    )
    lines = [HEAD, "|---" * 10 + "|"]
    for raw in result["analyses"]:
        ours, theirs = _figures(raw["beside"]), _figures(raw)
        cells = [raw["what"], *theirs, f"{raw['requests']:,}", str(raw["errors"]), raw["beside"]["client"], *ours]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([about, "", *lines])


def _figures(raw: Raw) -> list[str]:
    return [f"{raw['inferences_per_s']:,.0f}", f"{raw['p50_ms']:.1f} ms", f"{raw['p99_ms']:.1f} ms"]


def main(
    seconds: Annotated[
        float | None, typer.Option(min=3, help=f"How long each load takes, and only print; {SECONDS:g} by default.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where perf_analyzer is kept.")] = CACHE,
) -> None:
    """Load Baton with perf_analyzer, and write what it finds."""
    try:
        requirements.require_wrk()
        facts = bench.facts(requirements.cores(), requirements.raise_open_files())
        version, timing = pinned(NAME, "perf-analyzer"), {"seconds": seconds or SECONDS}
        result = {**facts, "version": version, "timing": timing, "analyses": measure(timing["seconds"], cache)}
    except (BenchError, PeerError) as failure:
        sys.exit(f"analysis: {failure}")
    if seconds is None:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
        report.write_between(bench.PAGE, "analysis", page(result))
    print(page(result))


if __name__ == "__main__":
    typer.run(main)
