"""`baton classify`: labels of whole sequences: texts, recordings or series.

It knows where sequences come from and how their labels are shown, not how a model reads.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.api import open_api
from service.cli.batches import FAILED, Batch, Item
from service.cli.given import place_members, read_recordings, read_series, read_texts, series_item, text_members
from service.cli.options import ApiKey, AsJson, Format, Output, Scores, TextFile, Url, complete_models, refuse_unknown
from service.cli.series import Layout
from service.cli.sinks import open_rows, refuse_overwriting
from service.cli.sources import many_objects
from service.errors import CommandError

SHOWN = ("line", "series", "file", "text", "label", "score", "scores", "steps", "seconds")


def classify(
    given: Annotated[
        list[str] | None, typer.Argument(help="Texts, WAV files or numbers; - or nothing reads stdin.")
    ] = None,
    audio: Annotated[bool, typer.Option("--audio", help="The arguments are WAV files; stdin is not read.")] = False,
    series: Annotated[
        bool, typer.Option("--series", help="The arguments are the numbers of a series, or a file of series.")
    ] = False,
    file: TextFile = None,
    column: Annotated[
        list[str] | None, typer.Option(help="The column of texts or of values; again for more features.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="The column that tells series apart.")] = None,
    kind: Format = None,
    model: Annotated[
        str | None, typer.Option(help="The model [the only one].", autocompletion=complete_models("classify"))
    ] = None,
    scores: Scores = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Label whole sequences: texts, recordings with --audio, or --series.

    What cannot be labelled is reported with its place on stderr; the others are written, and the status is 1.

    A text that begins with a dash stands behind --.

    \b
      baton classify --model spam "WIN a prize now" "See you at six"
      baton classify --model digits --audio seven.wav --scores
      baton classify --model digits --series recording.csv --column sample
    """
    refuse_unknown(given or [])
    refuse_overwriting(output, file, *given or [])
    _check(audio, series, file, column or [], by, kind)
    with many_objects():
        items, told, failed = _read(given or [], audio, series, file, column or [], by, kind)
    with open_rows(output, as_json, SHOWN) as write, open_api(url, api_key) as api:
        batch = Batch(api, "/v1/classify", "items", {"model": model, "scores": "all" if scores else None}, items)
        for place, result in batch.results():
            write({**told[place], **{name: value for name, value in result.items() if name not in ("index", "id")}})
    batch.end()
    if failed:
        raise typer.Exit(FAILED)


def _check(audio: bool, series: bool, file: str | None, columns: list[str], by: str | None, kind: Format) -> None:
    """Raises: CommandError for options that do not go together."""
    if audio and series:
        raise CommandError("give --audio or --series, not both")
    if (audio or series) and file is not None:
        raise CommandError("--file is about texts; of --audio and --series the files are arguments")
    if audio and (columns or kind is not None):
        raise CommandError("--column and --format are about texts and series, and recordings have none")
    if by is not None and not (series and columns):
        raise CommandError("--by is about the columns of --series; name that of the values with --column")
    if not series and len(columns) > 1:
        raise CommandError("a text is in a single --column; --series has several")


def _read(
    given: list[str], audio: bool, series: bool, file: str | None, columns: list[str], by: str | None, kind: Format
) -> tuple[list[Item], list[dict[str, Any]], bool]:
    """Return what is to be labelled, what is said of each in its row, and whether some could not be read."""
    if audio:
        recordings = read_recordings(given)
        return recordings, [{"file": each.place} for each in recordings], False
    if series:
        read, failures = read_series("classify", given, kind, Layout(columns, None, by, None, False, None, "never"))
        return [series_item(each) for each in read], [place_members(each) for each in read], bool(failures)
    texts = read_texts("classify", given, file, columns[0] if columns else None, kind)
    return texts, [text_members(each) for each in texts], False
