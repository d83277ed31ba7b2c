"""`baton tag`: the words of texts, each with its label.

It knows where texts come from and how their words are shown, not how a model reads.
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

SHOWN = ("line", "token", "label", "score", "scores")


def tag(
    texts: Texts = None,
    file: TextFile = None,
    column: TextColumn = None,
    kind: Format = None,
    model: Annotated[
        str | None, typer.Option(help="The model [the only one].", autocompletion=complete_models("tag"))
    ] = None,
    scores: Scores = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Label the words of texts: a row for each.

    A text that cannot be labelled is reported with its place on stderr; the others are written, and the status is 1.

    \b
      baton tag --model tagger "They can fish."
      baton tag --model tagger --file reviews.csv --column text --output tags.csv
      cat reviews.txt | baton tag --model tagger-live --scores
    """
    refuse_overwriting(output, file)
    with many_objects():
        items = read_texts("tag", texts or [], file, column, kind)
    with open_rows(output, as_json, SHOWN) as write, open_api(url, api_key) as api:
        batch = Batch(api, "/v1/tag", "inputs", {"model": model, "scores": "all" if scores else None}, items)
        for place, result in batch.results():
            for token in result["tokens"]:
                named = {"token" if name == "text" else name: value for name, value in token.items()}
                write({**text_members(items[place]), **named})
    batch.end()
