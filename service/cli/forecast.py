"""`baton forecast`: what comes next in series, with intervals.

It knows series and how a forecast is shown, not how a model forecasts. Invariant: what was found, filled or cut on the
way is said on stderr.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.api import open_api
from service.cli.batches import FAILED, Batch, Item
from service.cli.forecasts import Forecast, name_members
from service.cli.given import read_series
from service.cli.options import ApiKey, AsJson, Format, Output, Url, complete_models, refuse_unknown
from service.cli.series import Duplicates, Gaps, Layout, Series, read_numbers
from service.cli.sinks import open_rows, refuse_overwriting, wants_table
from service.cli.sources import many_objects
from service.cli.tables import print_table
from service.errors import CommandError

PLOTS = (".png", ".svg")
FILLS: Mapping[Gaps, str] = {"previous": "ffill", "linear": "linear"}


def forecast(
    horizon: Annotated[int, typer.Option(min=1, help="How many values to forecast.")],
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE | NUMBER...]", help="A file of series, or the numbers of one; - reads stdin."),
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="The column of values; again for more channels.")] = None,
    time: Annotated[str | None, typer.Option(help="The column of times.")] = None,
    by: Annotated[str | None, typer.Option(help="The column that tells series apart.")] = None,
    freq: Annotated[str | None, typer.Option(help="How far apart times are, as h, D, MS [as found].")] = None,
    day_first: Annotated[bool, typer.Option("--day-first", help="Read 01/02/2026 as the 1st of February.")] = False,
    duplicates: Annotated[Duplicates | None, typer.Option(help="Combine values of the same time [refuse].")] = None,
    gaps: Annotated[Gaps | None, typer.Option(help="Fill what is missing [refuse].")] = None,
    levels: Annotated[str | None, typer.Option(help="Intervals in percent, as 80,95 [all; in a table two].")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw history and intervals to this file, .png or .svg.")] = None,
    kind: Format = None,
    model: Annotated[
        str | None, typer.Option(help="The model [forecast].", autocompletion=complete_models("forecast"))
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Forecast series: the mean, and the bounds of intervals, of each of the next values.

    A series is a line of numbers; of CSV and Parquet a --column, or several told apart --by another. Times are sorted,
    and their frequency found. A series that cannot be forecast is reported on stderr; the others are written, and the
    status is 1.

    \b
      baton forecast 112 118 132 129 121 135 148 148 136 119 --horizon 3
      baton forecast sales.csv --column y --time date --horizon 12 --plot out.png
      baton forecast sales.csv --column y --time date --by store --horizon 12 --levels 80,95 --output next.csv
      cat series.txt | baton forecast --horizon 4 --url http://127.0.0.1:8000
    """
    refuse_unknown(given or [])
    layout = Layout(column or [], time, by, freq, day_first, duplicates, gaps)
    _check(layout, plot)
    refuse_overwriting(output, *given or [])
    with many_objects():
        series, failures = read_series("forecast", given or [], kind, layout)
    options = {
        "model": model,
        "horizon": horizon,
        "levels": _read_levels(levels),
        "missing": FILLS.get(gaps) if gaps else None,
    }
    done: list[Forecast] = []
    sketched, members = wants_table(output, as_json), name_members(series)
    with open_rows(output, as_json) as write, _sketches(done, shown=sketched), open_api(url, api_key) as api:
        batch = Batch(api, "/v1/forecast", "series", options, [Item(each.label, _ask(each)) for each in series])
        for place, result in batch.results():
            for warning in result["warnings"]:
                typer.echo(f"{series[place].label}: {warning}", err=True)
            forecast = Forecast(series[place], result, layout.columns)
            if sketched or plot is not None:
                done.append(forecast)
            if len(series) + len(failures) == 1 or not sketched:  # at once: what fails later does not lose it
                for row in forecast.rows(members, few=sketched and levels is None):
                    write(row)
    if plot is not None and done:
        from service.cli.plot import draw

        draw(plot, done)
    batch.end()
    if failures:
        raise typer.Exit(FAILED)


@contextmanager
def _sketches(done: list[Forecast], *, shown: bool) -> Iterator[None]:
    """Show a person a sketch of each series in the end, or of those that were done before a failure."""
    try:
        yield
    finally:
        if shown and done:
            print_table(("series", "history, forecast", "last", "next"), [each.sketch() for each in done])


def _check(layout: Layout, plot: Path | None) -> None:
    """Raises: CommandError for options that do not go together."""
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise CommandError(f"--plot {plot} must end with {' or '.join(PLOTS)}")
    if (layout.time or layout.by) and not layout.columns:
        raise CommandError("--time and --by are about columns; name the column of values with --column")
    if layout.time is None and (layout.freq or layout.duplicates or layout.day_first):
        raise CommandError("--freq, --duplicates and --day-first are about times; name their column with --time")
    if layout.freq is not None:
        from service.cli.timeline import read_grid

        read_grid(layout.freq)


def _read_levels(levels: str | None) -> list[float | None] | None:
    return None if levels is None else read_numbers(levels, "--levels")


def _ask(series: Series) -> dict[str, Any]:
    times = {"start": series.start, "freq": series.freq} if series.start is not None else {}
    return {"values": series.values, **times}
