"""The options that commands share, and what a shell completes them with."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service.cli.sources import STDIN, Kind
from service.contract.manifest import Manifest
from service.settings import KEY_VARIABLE, load_settings

Url = Annotated[
    str | None, typer.Option(help="A running service, as http://host:8000 [the models directory, in this process].")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar=KEY_VARIABLE, help="API key, where the service asks for one; a variable does not show it to others."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON lines on a terminal too.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to this file, .csv, .jsonl or .parquet [stdout].")
]
Texts = Annotated[list[str] | None, typer.Argument(help="Texts; - or nothing reads stdin.")]
TextFile = Annotated[str | None, typer.Option("--file", "-f", help="A file of texts: a text a line, or by its ending.")]
TextColumn = Annotated[str | None, typer.Option(help="The column, or member, that holds the texts.")]
Scores = Annotated[bool, typer.Option("--scores", help="Show the score of every label.")]
Format = Annotated[Kind | None, typer.Option("--format", help="What the input is [by its ending; of stdin, text].")]

# Of a command whose arguments may be numbers below zero; `refuse_unknown` finds the options among them.
NEGATIVES = {"ignore_unknown_options": True}
NEGATIVE = re.compile(r"-[\d.,]")


def refuse_unknown(arguments: Sequence[str]) -> None:
    """Raises: typer.BadParameter for an argument that is a misspelt option; behind -- there are none."""
    behind = len(sys.argv) - sys.argv.index("--") - 1 if "--" in sys.argv else 0
    for argument in arguments[: max(0, len(arguments) - behind)]:
        if argument.startswith("-") and argument != STDIN and not NEGATIVE.match(argument):
            raise typer.BadParameter(f"no such option: {argument}")


def complete_models(*tasks: str) -> Callable[[str], list[str]]:
    """Return what completes the names of models that answer one of `tasks`, from the models directory."""

    def complete(incomplete: str) -> list[str]:
        files = load_settings().models_dir.glob(f"{incomplete}*/*/manifest.json")
        return sorted({file.parent.parent.name for file in files if not _answers(file).isdisjoint(tasks)})

    return complete


def _answers(file: Path) -> frozenset[str]:
    """Return the tasks that a manifest's model answers; none where it would not be served."""
    try:
        return frozenset(Manifest.model_validate_json(file.read_text()).answers)
    except ValidationError:
        return frozenset()
