"""`baton translate`: texts in another language.

It knows where texts come from and how their translations are shown, not how a model searches for them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.api import open_api
from service.cli.batches import Batch
from service.cli.given import read_texts, text_members
from service.cli.options import ApiKey, AsJson, Format, Output, TextColumn, TextFile, Texts, Url, complete_models
from service.cli.sinks import open_rows, refuse_overwriting
from service.cli.sources import many_objects

SHOWN = ("line", "text", "rank", "translation", "score", "finish")


def translate(
    texts: Texts = None,
    file: TextFile = None,
    column: TextColumn = None,
    kind: Format = None,
    model: Annotated[
        str | None, typer.Option(help="The model [translate].", autocompletion=complete_models("translate"))
    ] = None,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Hypotheses to follow at a time; 1 takes the likeliest piece [4].")
    ] = None,
    length_penalty: Annotated[
        float | None, typer.Option(min=0, help="0 prefers what is likeliest as a whole, more longer texts [1].")
    ] = None,
    alternatives: Annotated[
        int | None, typer.Option(min=1, help="How many translations of each text, at most --beams [1].")
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Add what each piece attends to; a table leaves it out.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Translate texts: a row for each translation, the best first.

    A text that cannot be translated is reported with its place on stderr; the others are written, and the status is 1.

    \b
      baton translate "I am very tired today." "Where is the station?"
      baton translate --beams 8 --alternatives 3 "How are you?"
      baton translate --file reviews.csv --column text --output translations.csv
      cat reviews.txt | baton translate --beams 1 --attention
    """
    refuse_overwriting(output, file)
    with many_objects():
        items = read_texts("translate", texts or [], file, column, kind)
    options = {
        "model": model,
        "beams": beams,
        "length_penalty": length_penalty,
        "alternatives": alternatives,
        "attention": attention or None,
    }
    with open_rows(output, as_json, SHOWN) as write, open_api(url, api_key) as api:
        batch = Batch(api, "/v1/translate", "inputs", options, items)
        for place, result in batch.results():
            for warning in result.get("warnings", ()):
                typer.echo(f"{items[place].place}: {warning}", err=True)
            for rank, found in enumerate([result, *result.get("alternatives", ())], start=1):
                told = {name: found[name] for name in ("score", "finish", "attention") if name in found}
                write({**text_members(items[place]), "rank": rank, "translation": found["text"], **told})
    batch.end()
