"""The `baton` command.

Each of its commands imports what it needs by itself: all together takes a second, which `baton keys` need not wait for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service import __version__
from service.errors import StartupError
from service.settings import load_settings

if TYPE_CHECKING:
    from service.inspect.draft import Draft

app = typer.Typer(
    help="Serve recurrent models over HTTP, their state a value that the client carries.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they print local variables, and with them keys
)

keys = typer.Typer(help="Make and list the keys that seal state tokens.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys, name="keys")

SHOWN = ("name", "version", "task", "streamable", "description")
TIMEOUT_S = 10.0


@app.callback(invoke_without_command=True)
def baton(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"baton {__version__}")
        raise typer.Exit


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [BATON_HOST, 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one [BATON_PORT, 8000].")] = None,
    models_dir: Annotated[
        Path | None, typer.Option(help="Directory of <name>/<version>/ models [BATON_MODELS_DIR, models].")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where models run [BATON_DEVICE, auto].")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(help="Processes that serve, or auto: one for each core [BATON_WORKERS, auto].")
    ] = None,
) -> None:
    """Load every model, check it, and serve it until SIGTERM or Ctrl-C.

    Each option has an environment variable, shown with its default; more settings are environment variables only and
    stand in docs/settings.md. A model that breaks its manifest, or an unknown BATON_ variable, ends start-up with the
    reason.
    """
    from service.workers.run import run_service

    run_service(load_settings(host=host, port=port, models_dir=models_dir, device=device, workers=workers))


@app.command()
def models(
    source: Annotated[
        str | None,
        typer.Argument(help="A models directory, or the URL of a running service [BATON_MODELS_DIR, models]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    api_key: Annotated[str | None, typer.Option(help="API key, where the service asks for one.")] = None,
) -> None:
    """Show the newest version of each model that a directory holds, or a running service serves.

    A directory's manifests and file hashes are verified on the way; nothing is loaded into a runtime.
    """
    if source is not None and source.startswith(("http://", "https://")):
        lines = _from_service(source, api_key)
    else:
        lines = _from_directory(load_settings().models_dir if source is None else Path(source))
    if as_json:
        typer.echo(json.dumps({"models": lines}, indent=2))
        return
    cells = [{**line, "streamable": "yes" if line["streamable"] else "no"} for line in lines]
    _print_table(SHOWN, [[str(line[name]) for name in SHOWN] for line in cells])


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="An ONNX file, of a step model with its states as inputs and outputs.")],
    name: Annotated[str | None, typer.Option(help="The model's name [the file's].")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Also write the draft, beside a copy of FILE, as <name>/1 in this directory.")
    ] = None,
    axis: Annotated[
        list[str] | None, typer.Option(help="What the axes of an input are, as in input=batch,576; may be given again.")
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option(help="An input that stays the same, as in sr=16000; may be given again.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="An input and an output that are a state, as in h0=hn; may be given again.")
    ] = None,
    task: Annotated[
        Literal["step", "tensor"] | None,
        typer.Option(help="A model of steps, or a plain one of tensors [step, or tensor where it cannot be one]."),
    ] = None,
    free: Annotated[
        bool, typer.Option("--free-batch", help="Rewrite a graph of one row so that rows share runs; needs onnx.")
    ] = False,
) -> None:
    """Draft the manifest of an ONNX file that was not trained here.

    The draft goes to stdout; what the graph does not tell goes to stderr, and into the draft's description. The draft
    is loaded and tried as `serve` would: where that fails, or a state is a guess, the reason is shown, nothing is
    written, and the status is 1. With --free-batch it is the draft of a rewritten copy, which must answer as FILE does.
    """
    from service.engine.trial import Trial
    from service.inspect.draft import draft
    from service.inspect.free_batch import free_batch
    from service.inspect.hints import read_hints

    settings, hints = load_settings(), read_hints(axis or (), constant or (), state or ())
    name = name or _name_of(file)
    with Trial(settings) as trial, tempfile.TemporaryDirectory() as folder:
        found, _ = trial.run(name, file, draft, file, name, settings, hints, task)
        if free and found.problem is None:
            freed = Path(folder) / file.name
            found, _ = trial.run(name, file, free_batch, file, found, settings, hints, freed)
            file = freed
            typer.echo(
                "the batch axis was freed, and rows together are answered as the file answers each alone", err=True
            )
        _show(found, file, output)


def _show(found: Draft, file: Path, output: Path | None) -> None:
    """Print a draft and its doubts, and write it where it can be served.

    Raises: StartupError where it cannot.
    """
    typer.echo(found.json(), nl=False)
    typer.echo("the graph does not tell, so settle it in the manifest:", err=True)
    for number, doubt in enumerate(found.doubts, start=1):
        typer.echo(f"  {number}. {doubt}", err=True)
    if found.problem is not None:
        raise StartupError(f"the draft cannot be served as it stands: {found.problem.field}: {found.problem.message}")
    ways = ", in a batch and in chunks with carried state" if found.manifest.streamable else " and in a batch"
    typer.echo(f"tried: loads, and answers the same alone{ways}", err=True)
    if output is not None:
        typer.echo(f"wrote {found.write(file, output)}", err=True)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def export(context: typer.Context) -> None:
    """Export a PyTorch module and publish it; needs the extra `train`. `baton export --help` shows its options.

    It is `python -m training export`, run as a process of its own: the service has no part in it.
    """
    if missing := [name for name in ("torch", "onnx", "onnxscript", "lightning") if not find_spec(name)]:
        raise StartupError(
            f"export needs {', '.join(missing)}, which the extra train brings: pip install 'baton-serving[train]'"
        )
    # It finds the packages that this process finds, and none that happen to lie in the working directory.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", "training", "export", *context.args]
    raise typer.Exit(subprocess.call(command, env=environment))


def _name_of(file: Path) -> str:
    """Return the file's name as a model may be called."""
    return re.sub(r"[^a-z0-9_-]+", "-", file.stem.lower()).strip("-_")[:64] or "model"


@keys.command("new")
def new() -> None:
    """Print a fresh token key, fit for BATON_TOKEN_KEYS; its id and what to do with it go to stderr."""
    from service.state.keys import key_id, new_key

    key = new_key()
    typer.echo(f"key {key_id(key, 'the new key').hex()}; keep it secret.", err=True)
    typer.echo(
        "To rotate, put it last in BATON_TOKEN_KEYS of every replica, then first; take the old one out a "
        "BATON_STATE_TTL_S later (docs/state.md).",
        err=True,
    )
    typer.echo(key)


@keys.command("list")
def list_keys() -> None:
    """Show the key ring that a service would have under the current settings; never the keys themselves.

    An id is what the log names where a token was sealed with a key that is not in the ring.
    """
    from service.state.keys import KEY_FILE, kept_key, key_id

    settings = load_settings()
    ring = [(key.get_secret_value(), f"BATON_TOKEN_KEYS[{n}]") for n, key in enumerate(settings.token_keys)]
    if not ring and (kept := kept_key(settings.state_dir)) is not None:
        ring = [(kept, str(settings.state_dir / KEY_FILE))]
    if not ring:
        typer.echo(f"no key yet: the first start will make one in {settings.state_dir}", err=True)
        return
    uses = ["opens" if number else "seals, opens" for number in range(len(ring))]
    rows = [[key_id(key, source).hex(), use, source] for (key, source), use in zip(ring, uses, strict=True)]
    _print_table(("id", "use", "from"), rows)


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=None, pad_edge=False)
    for cells in rows:
        table.add_row(*map(Text, cells))
    Console().print(table)


def _from_directory(models_dir: Path) -> list[dict[str, Any]]:
    from service.model.repository import find_versions, read_verified

    manifests = (read_verified(directory) for directory in find_versions(models_dir))
    newest = {manifest.name: manifest for manifest in manifests}
    return [manifest.model_dump(include=set(SHOWN)) for manifest in newest.values()]


def _from_service(url: str, api_key: str | None) -> list[dict[str, Any]]:
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"{url.rstrip('/')}/v1/models")
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return [{name: line[name] for name in SHOWN} for line in json.load(answer)["models"]]
    except urllib.error.HTTPError as failure:
        hint = "; give its key with --api-key" if failure.code == HTTPStatus.UNAUTHORIZED else ""
        raise StartupError(f"{url} answers {failure.code} {failure.reason}{hint}") from failure
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as failure:
        raise StartupError(f"{url} does not answer as a Baton service: {failure}") from failure


def main() -> None:
    """Run the command; a StartupError becomes one line on stderr and exit status 1."""
    try:
        app()
    except StartupError as error:
        sys.exit(f"baton: {error}")
