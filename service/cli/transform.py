"""`baton transform`: series into as many other values, as noise out of a signal.

It knows series and how they are shown, not what a model does to them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.api import open_api
from service.cli.batches import FAILED, Batch
from service.cli.given import place_members, read_series, series_item
from service.cli.options import ApiKey, AsJson, Format, Output, Url, complete_models, refuse_unknown
from service.cli.series import Layout
from service.cli.sinks import open_rows, refuse_overwriting
from service.cli.sources import many_objects
from service.errors import CommandError


def transform(
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE | NUMBER...]", help="A file of series, or the numbers of one; - reads stdin."),
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="The column of values; again for more features.")] = None,
    by: Annotated[str | None, typer.Option(help="The column that tells series apart.")] = None,
    kind: Format = None,
    model: Annotated[
        str | None, typer.Option(help="The model [the only one].", autocompletion=complete_models("transform"))
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Transform series: a row for each step, with what went in and what came out.

    A series is a line of numbers; of CSV and Parquet a --column, or several told apart --by another. A series that
    cannot be transformed is reported on stderr; the others are written, and the status is 1.

    \b
      baton transform --model denoise 0.1 0.3 0.2 0.9 0.4 0.1
      baton transform signal.csv --model denoise --column mv --output clean.csv
      cat series.txt | baton transform --model denoise
    """
    refuse_unknown(given or [])
    refuse_overwriting(output, *given or [])
    if by is not None and not column:
        raise CommandError("--by is about columns; name the column of values with --column")
    layout = Layout(column or [], None, by, None, False, None, "never")
    with many_objects():
        series, failures = read_series("transform", given or [], kind, layout)
    with open_rows(output, as_json) as write, open_api(url, api_key) as api:
        batch = Batch(api, "/v1/transform", "items", {"model": model}, [series_item(each) for each in series])
        for place, result in batch.results():
            steps = zip(series[place].values, result["outputs"], strict=True)
            for step, (value, made) in enumerate(steps, start=1):
                write({**place_members(series[place]), "step": step, "value": value, "output": made})
    batch.end()
    if failures:
        raise typer.Exit(FAILED)
