"""The `baton` command: its parts put together.

It knows the names of the commands, not what they do. Invariant: whatever ends a command early is one line on stderr and
a status above 0.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from service import __version__
from service.cli import (
    bench,
    classify,
    drafting,
    forecast,
    generate,
    keys,
    models,
    new_project,
    score,
    sentiment,
    serving,
    step,
    stream,
    tag,
    transform,
    translate,
)
from service.cli.options import NEGATIVES
from service.cli.sinks import drop_stdout
from service.errors import BatonError

app = typer.Typer(
    help="Serve recurrent models over HTTP, their state a value that the client carries.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they print local variables, and with them keys
)


@app.callback(invoke_without_command=True)
def baton(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"baton {__version__}")
        raise typer.Exit


app.command()(serving.serve)
app.command()(models.models)
app.command()(sentiment.sentiment)
app.command(context_settings=NEGATIVES)(forecast.forecast)
app.command(context_settings=NEGATIVES)(step.step)
app.command()(stream.stream)
app.command()(generate.generate)
app.command()(tag.tag)
app.command()(translate.translate)
app.command(context_settings=NEGATIVES)(transform.transform)
app.command(context_settings=NEGATIVES)(classify.classify)
app.command()(score.score)
app.command()(bench.bench)
app.command()(drafting.inspect)
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    drafting.export
)
app.command()(new_project.new)
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the command; what Baton raises becomes one line on stderr and exit status 1."""
    try:
        app(prog_name="baton")
    except BatonError as error:
        sys.exit(f"baton: {error}")
    except OSError as failure:  # of a disk that is full, say, under what is written
        try:
            print(end="", flush=True)
        except OSError:  # Python would fail of the same as it ends, with a status of its own
            drop_stdout()
        sys.exit(f"baton: {failure}")
