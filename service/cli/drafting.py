"""`baton inspect` and `baton export`: a model of one's own made fit to serve, from an ONNX file or a PyTorch module.

It does not know what a draft is made of, nor what an export does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.errors import StartupError
from service.settings import load_settings

if TYPE_CHECKING:
    from service.inspect.draft import Draft

Task = Literal["step", "tensor", "tag", "transform", "classify"]


def inspect(
    file: Annotated[Path, typer.Argument(help="An ONNX file; its states, where it has any, are inputs and outputs.")],
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
    labels: Annotated[
        list[str] | None, typer.Option(help="What an output's numbers are, as in scores=ham,spam; may be given again.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The tokenizer that makes the ids, as a file of the tokenizers library.")
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(
            help="What it is for [step, or tensor where it cannot be; with labels tag or classify where it is no step]."
        ),
    ] = None,
    free: Annotated[
        bool, typer.Option("--free-batch", help="Rewrite a graph of one row so that rows share runs; needs onnx.")
    ] = False,
) -> None:
    """Draft the manifest of an ONNX file that was not trained here.

    The draft goes to stdout; what the graph does not tell goes to stderr, and into the draft's description. The draft
    is loaded and tried as `serve` would: where that fails, or a state is a guess, the reason is shown, nothing is
    written, and the status is 1. With --free-batch it is the draft of a rewritten copy, which must answer as FILE does.

    \b
      baton inspect model.onnx
      baton inspect model.onnx --name pump --output drafts
    """
    from service.engine.trial import Trial
    from service.inspect.draft import draft
    from service.inspect.free_batch import free_batch
    from service.inspect.hints import read_hints

    settings, hints = load_settings(), read_hints(axis or (), constant or (), state or (), labels or (), tokenizer)
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


def _name_of(file: Path) -> str:
    """Return the file's name as a model may be called."""
    return re.sub(r"[^a-z0-9_-]+", "-", file.stem.lower()).strip("-_")[:64] or "model"


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
