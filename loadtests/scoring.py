"""`make bench-score`: `baton score` against the in-process limits on every core, and the memory that it takes.

It knows the command and its files, not how it works. A figure is rows over the whole time of the command, from its
start to its end, over the limit of the same run. Invariant: every row was written, or there is no figure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from psutil import process_iter

from loadtests import report, requirements
from loadtests.floors import forecast_limit, sentiment_limit
from loadtests.models import newest
from loadtests.payloads import read_series, read_texts
from loadtests.requirements import BenchError
from loadtests.serving import pss_mb
from loadtests.together import on_every_core
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "scoring.json"
PAGE = ROOT / "docs" / "benchmarks.md"
TEXTS, MANY, SERIES, VALUES, HORIZON = 200_000, 2_000_000, 20_000, 512, 12
SHORT = 3  # words of the texts of which there are many
LIMIT_S = 20.0
LOOK_S = 1.0  # a look takes 35 ms of a core
OF_TEXTS, OF_SERIES, MEMORY_MB, GROWTH, BY_RAY = 0.85, 0.8, 600.0, 1.1, 0.75  # wanted


@dataclass(frozen=True)
class Scored:
    """What a job took. Units: rows a second of the whole command; peak memory (PSS of all its processes) in MB."""

    rows: int
    per_s: float
    memory_mb: float


def score(model: str, file: Path, rows: int, folder: Path, *options: str) -> Scored:
    """Score a file. Raises: BenchError where that fails, or not all rows came of it."""
    output = folder / f"{file.stem}-out{len(options)}"
    command = [sys.executable, "-m", "service", "score", model, "--input", str(file), "--output", str(output), *options]
    began, peak = time.perf_counter(), 0.0
    with (folder / "stderr").open("w+") as told:
        running = subprocess.Popen(command, cwd=ROOT, stderr=told)
        while True:
            try:
                running.wait(LOOK_S)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _memory_mb(running.pid))
        took_s = time.perf_counter() - began
        told.seek(0)
        if running.returncode:
            raise BenchError(f"baton score failed: {told.read()}")
    done = json.loads((output / "_done.json").read_text())
    if done != {"rows": rows}:
        raise BenchError(f"of {rows} rows came {done}")
    return Scored(rows, rows / took_s, peak)


def _check_none_at_hand() -> None:
    """Raises: BenchError where `--ray auto` would take a cluster that is there instead of starting its own."""
    if "RAY_ADDRESS" in os.environ or any(each.info["name"] == "gcs_server" for each in process_iter(["name"])):
        raise BenchError("--ray auto is measured without a Ray cluster on this machine or in RAY_ADDRESS; end it first")


def _memory_mb(pid: int) -> float:
    try:
        return pss_mb(pid)
    except (FileNotFoundError, ProcessLookupError):  # one ended meanwhile
        return 0.0


def write_texts(file: Path, texts: Sequence[str], rows: int) -> Path:
    with pq.ParquetWriter(file, pa.schema({"id": pa.int64(), "text": pa.string()})) as writer:
        source, step = cycle(texts), 50_000
        for start in range(0, rows, step):
            count = min(step, rows - start)
            writer.write_table(pa.table({"id": range(start, start + count), "text": list(islice(source, count))}))
    return file


def write_series(file: Path, series: Sequence[Sequence[float]]) -> Path:
    """Write series of `VALUES` values in long form, until there are `SERIES`."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(file, pa.schema({"store": pa.int64(), "y": pa.float64()})) as writer:
        for start in range(0, SERIES, 500):
            values = [_walk(series, rng) for _ in range(500)]
            names = np.repeat(np.arange(start, start + 500), VALUES)
            writer.write_table(pa.table({"store": names, "y": np.concatenate(values)}))
    return file


def _walk(series: Sequence[Sequence[float]], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    whole = np.array(series[rng.integers(len(series))])
    return np.resize(whole, VALUES) * rng.uniform(0.5, 2)


def run(data: Path, folder: Path) -> dict[str, Any]:
    _check_none_at_hand()
    texts = read_texts(data)
    with on_every_core(partial(sentiment_limit, newest("sentiment"), texts)) as team:
        texts_limit = team.rate(LIMIT_S)
    file = write_texts(folder / "texts.parquet", texts, TEXTS)
    scored = score("sentiment", file, TEXTS, folder, "--column", "text")
    by_ray = score("sentiment", file, TEXTS, folder, "--column", "text", "--ray", "auto")
    short = [" ".join(text.split()[:SHORT]) for text in texts]
    few, many = (
        score("spam", write_texts(folder / f"short-{rows}.parquet", short, rows), rows, folder, "--column", "text")
        for rows in (TEXTS, MANY)
    )
    series = [values for values in read_series(data) if len(values) >= VALUES // 4]
    file = write_series(folder / "series.parquet", series)
    walks = [values.tolist() for values in pq.read_table(file)["y"].to_numpy().reshape(SERIES, VALUES)[:4096]]
    with on_every_core(partial(forecast_limit, newest("forecast"), walks)) as team:
        series_limit = team.rate(LIMIT_S)
    options = ("--id", "store", "--value", "y", "--horizon", str(HORIZON))
    forecast = score("forecast", file, SERIES * VALUES, folder, *options)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit_date": requirements.commit_date(),
        "texts_limit_per_s": texts_limit,
        "texts": asdict(scored),
        "by_ray": asdict(by_ray),
        "short": [asdict(few), asdict(many)],
        "series_limit_per_s": series_limit,
        "series_per_s": forecast.per_s / VALUES,
        "series_memory_mb": forecast.memory_mb,
    }


def summary(result: dict[str, Any]) -> str:
    texts, (few, many) = result["texts"], result["short"]
    of_texts = texts["per_s"] / result["texts_limit_per_s"]
    by_ray = result["by_ray"]["per_s"] / texts["per_s"]
    of_series = result["series_per_s"] / result["series_limit_per_s"]
    grown = many["memory_mb"] / few["memory_mb"]
    rows = [
        (
            f"`sentiment`, {TEXTS:,} texts: {texts['per_s']:,.0f}/s of {result['texts_limit_per_s']:,.0f}/s",
            *(f"{of_texts:.2f}", f"≥ {OF_TEXTS:g}", of_texts >= OF_TEXTS),
        ),
        (
            f"the same by Ray Data, started here for it ({result['by_ray']['per_s']:,.0f}/s), over in process",
            *(f"{by_ray:.2f}", f"≥ {BY_RAY:g}", by_ray >= BY_RAY),
        ),
        (
            "its peak memory in process",
            *(f"{texts['memory_mb']:.0f} MB", f"≤ {MEMORY_MB:g} MB", texts["memory_mb"] <= MEMORY_MB),
        ),
        (
            f"memory for {MANY:,} short texts over {TEXTS:,} (`spam`, {many['per_s']:,.0f}/s)",
            *(f"{grown:.3f}", f"≤ {GROWTH:g}", grown <= GROWTH),
        ),
        (
            f"`forecast`, {SERIES:,} series of {VALUES} values: {result['series_per_s']:,.0f}/s of "
            f"{result['series_limit_per_s']:,.0f}/s",
            *(f"{of_series:.2f}", f"≥ {OF_SERIES:g}", of_series >= OF_SERIES),
        ),
    ]
    told = [f"| {what} | {found} | {wanted} | {'met' if met else '**missed**'} |" for what, found, wanted, met in rows]
    head = f"Measured on {result['date']} at the commit of {result['commit_date']}."
    return "\n".join([head, "", "| what | measured | wanted | |", "|---|---|---|---|", *told])


def main() -> None:
    """Measure `baton score` beside the in-process limits; write docs/benchmarks.md (minutes)."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = run(requirements.data_dir(), Path(folder))
        RESULTS.write_text(json.dumps(result) + "\n")
        report.write_between(PAGE, "scoring", summary(result))
        print(summary(result))
    except BenchError as failure:
        sys.exit(f"scoring: {failure}")


if __name__ == "__main__":
    typer.run(main)
