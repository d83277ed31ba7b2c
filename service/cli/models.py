"""`baton models`: what a directory or a running service has to offer.

It does not load a model.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.api import open_api
from service.cli.options import ApiKey
from service.cli.tables import print_table
from service.errors import CommandError
from service.settings import load_settings

SHOWN = ("name", "version", "task", "streamable", "description")


def models(
    source: Annotated[
        str | None,
        typer.Argument(help="A models directory, or the URL of a running service [BATON_MODELS_DIR, models]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Show the version of each model that answers new work, in a directory or at a running service.

    A directory's manifests and file hashes are verified on the way; nothing is loaded into a runtime.

    \b
      baton models
      baton models http://127.0.0.1:8000 --json
    """
    if source is not None and source.startswith(("http://", "https://")):
        lines = _from_service(source, api_key)
    else:
        lines = _from_directory(load_settings().models_dir if source is None else Path(source))
    if as_json:
        typer.echo(json.dumps({"models": lines}, indent=2))
        return
    cells = [{**line, "streamable": "yes" if line["streamable"] else "no"} for line in lines]
    print_table(SHOWN, [[str(line[name]) for name in SHOWN] for line in cells])


def _from_directory(models_dir: Path) -> list[dict[str, Any]]:
    from service.contract.files import read_choice
    from service.model.repository import find_versions, read_verified

    if not models_dir.is_dir():
        raise CommandError(f"{models_dir} is no directory, and no URL, which begins with http:// or https://")
    lines = []
    for model, versions in groupby(find_versions(models_dir), lambda directory: directory.parent):
        manifests = {directory.name: read_verified(directory) for directory in versions}
        *_, newest = manifests
        lines.append(manifests[read_choice(model, manifests) or newest].model_dump(include=set(SHOWN)))
    return lines


def _from_service(url: str, api_key: str | None) -> list[dict[str, Any]]:
    with open_api(url, api_key) as api:
        return [{name: line[name] for name in SHOWN} for line in api.get("/v1/models")["models"]]
