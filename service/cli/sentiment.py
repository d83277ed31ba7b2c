"""`baton sentiment`: labels of texts.

It knows where texts come from and how their labels are shown, not how a model reads.
"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.api import open_api
from service.cli.batches import Batch
from service.cli.given import read_texts, text_members
from service.cli.options import (
    ApiKey,
    AsJson,
    Format,
    Output,
    Scores,
    TextColumn,
    TextFile,
    Texts,
    Url,
    complete_models,
)
from service.cli.sinks import open_rows, refuse_overwriting
from service.cli.sources import many_objects

SHOWN = ("line", "text", "label", "score", "polarity", "scores")


def sentiment(
    texts: Texts = None,
    file: TextFile = None,
    column: TextColumn = None,
    kind: Format = None,
    model: Annotated[
        str | None, typer.Option(help="The model [sentiment].", autocompletion=complete_models("sentiment"))
    ] = None,
    scores: Scores = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Label texts.

    A text that cannot be labelled is reported with its place on stderr; the others are written, and the status is 1.

    \b
      baton sentiment "a good film" "not my kind of film"
      baton sentiment --model spam --scores "WIN a prize now"
      baton sentiment --file reviews.csv --column text --output labels.csv
      cat reviews.txt | baton sentiment --url http://127.0.0.1:8000
    """
    refuse_overwriting(output, file)
    with many_objects():
        items = read_texts("sentiment", texts or [], file, column, kind)
    with open_rows(output, as_json, SHOWN) as write, open_api(url, api_key) as api:
        options = {"model": model, "scores": "all" if scores else None}
        batch = Batch(api, "/v1/sentiment", "inputs", options, items)
        for place, result in batch.results():
            told = {name: value for name, value in result.items() if name not in ("index", "id")}
            write({**text_members(items[place]), **told})
    batch.end()
