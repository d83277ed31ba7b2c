"""The `python -m training` command: train a recipe's model and publish it.

It knows recipes by name, runs and publishing, not tasks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.contract import read_manifest
from service.errors import StartupError
from training.publish import publish
from training.recipes import RECIPES
from training.runs import fit

app = typer.Typer(
    help="Train recurrent networks, export them to ONNX, and publish them for `python -m service serve`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
LARGEST_SEED = 2**32 - 1


def _known(recipe: str) -> str:
    if recipe not in RECIPES:
        raise typer.BadParameter(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    return recipe


@app.command()
def recipes() -> None:
    """Show the models that can be trained."""
    table = Table("recipe", "epochs", "what", box=None, pad_edge=False)
    for recipe in RECIPES.values():
        table.add_row(recipe.name, str(recipe.epochs), recipe.summary)
    Console().print(table)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(callback=_known, help=f"What to train: {', '.join(RECIPES)}.")],
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Fixes every random number of the run.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training data.", show_default="the recipe's")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch; give the same seed and epochs.")
    ] = False,
    models_dir: Annotated[Path, typer.Option(help="Where to publish, as <name>/<version>/.")] = Path("models"),
    runs_dir: Annotated[Path, typer.Option(help="Where checkpoints and logs go, as <name>/.")] = Path("runs"),
) -> None:
    """Train a model, check its export against PyTorch, measure it through the service, and publish it.

    Data comes from the folder in BATON_DATA_DIR if that is set, else from its public address. The checkpoint with the
    best validation figure is exported; publishing takes the next free version number and never overwrites one. Use
    OMP_NUM_THREADS to leave processors to others.
    """
    chosen = RECIPES[recipe]
    count = epochs or chosen.epochs
    module = fit(chosen, seed=seed, epochs=count, resume=resume, runs_dir=runs_dir)
    command = f"python -m training train {recipe} --seed {seed} --epochs {count}"
    directory = publish(chosen.release(module), models_dir, command=command, seed=seed)
    _show(directory)


def _show(directory: Path) -> None:
    provenance = read_manifest(directory).provenance
    assert provenance is not None
    table = Table("figure", "value", "floor", "floor is", box=None, pad_edge=False)
    for metric in provenance.metrics:
        floor = "" if metric.floor is None else f"{metric.floor:.4g}"
        table.add_row(metric.name, f"{metric.value:.4g}", floor, metric.floor_method)
    console = Console()
    console.print(f"published {directory}, parity {provenance.parity_max_abs:.2g}")
    console.print(table)


def main() -> None:
    """Run the command; a StartupError becomes one line on stderr and exit status 1."""
    try:
        app()
    except StartupError as error:
        sys.exit(f"training: {error}")
