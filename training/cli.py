"""The `python -m training` command: train a recipe's model and publish it.

It knows recipes by name or file, runs, publishing and reports, not tasks.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.contract.files import read_manifest
from service.errors import StartupError
from training.catalogue import find_recipe, names
from training.export.quantize import Quantized
from training.fit import torchrun
from training.fit.curve import learning_curve
from training.fit.job import LOG, Crew, here
from training.fit.ray_workers import ray_workers
from training.fit.runs import RUNS_DIR, best_of, fit_seeds
from training.old_cpu import interpreter
from training.publish.model_directory import publish
from training.publish.quantized import publish_quantized
from training.report.card import value_and_spread

app = typer.Typer(
    help="Train recurrent networks, export them to ONNX, and publish them for `python -m service serve`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
LARGEST_SEED = 2**32 - 1


def _seeds(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    seeds = [int(part) for part in parts if part.isdecimal() and int(part) <= LARGEST_SEED]
    if len({*seeds}) < len(parts):
        rule = f"whole numbers from 0 to {LARGEST_SEED}, each once, as in 0,1,2"
        raise typer.BadParameter(f"{text!r} is not a list of seeds: {rule}", param_hint="--seeds")
    return tuple(seeds)


def _starting(processes: int | None, ray: str | None) -> AbstractContextManager[Crew]:
    started = torchrun.started()
    if started is not None and ray is not None:
        raise typer.BadParameter("torchrun has started the processes; use one of the two", param_hint="--ray")
    if started is not None and processes not in (None, started):
        message = f"torchrun has started {started}, on all hosts together, not {processes}; leave the option out"
        raise typer.BadParameter(message, param_hint="--processes")
    if ray is not None:
        return ray_workers(ray, processes or 1)
    return nullcontext(here(processes or 1)) if started is None else torchrun.leading()


@app.command()
def recipes() -> None:
    """Show the models that can be trained."""
    table = Table("recipe", "epochs", "what", box=None, pad_edge=False)
    for name in names():
        recipe = find_recipe(name)
        table.add_row(recipe.name, str(recipe.run.epochs), recipe.summary)
    Console().print(table)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"What to train: {', '.join(names())}, or a .toml file of your own.")],
    seeds: Annotated[
        str, typer.Option(help="A run for each, as in 0,1,2; the best on validation data is published.")
    ] = "0",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training data.", show_default="the recipe's")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch; give the same other options.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that divide each batch, on as many GPUs if there are.",
            show_default="as many as torchrun started, else 1",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Have Ray place the processes: in this machine's cluster (auto), or that at HOST:PORT."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Publish it as <name>-int8 too, for CPUs; its layers must be LSTM.")
    ] = False,
    float16: Annotated[bool, typer.Option("--float16", help="Publish it as <name>-float16 too, for GPUs.")] = False,
    models_dir: Annotated[Path, typer.Option(help="Where to publish, as <name>/<version>/.")] = Path("models"),
    runs_dir: Annotated[Path, typer.Option(help="Where checkpoints and logs go, as <name>/seed-<n>/.")] = RUNS_DIR,
) -> None:
    """Train a model, check its export against PyTorch, measure it through the service, and publish it.

    Data comes from the folder in BATON_DATA_DIR if that is set, else from its public address. The checkpoint with the
    best validation figure is exported; publishing takes the next free version number and never overwrites one. With
    several seeds every seed's model is measured, and the figures' spread is published. A run that is finished is not
    trained again under --resume. Models in int8 and float16 are made from the published one and measured beside it. Use
    OMP_NUM_THREADS to leave processors to others.
    """
    numbers, chosen = _seeds(seeds), find_recipe(recipe)
    if epochs is not None:
        chosen = replace(chosen, run=chosen.run.model_copy(update={"epochs": epochs}))
    starting = _starting(processes, ray)
    if torchrun.follows():
        torchrun.follow(chosen)
        return
    with starting as crew:
        trained = fit_seeds(chosen, numbers, resume=resume, runs_dir=runs_dir, crew=crew)
    command = f"python -m training train {Path(recipe).name} --seeds {seeds} --epochs {chosen.run.epochs}"
    command += f" --processes {crew.processes}" if crew.processes > 1 else ""
    wanted: dict[Quantized, bool] = {"int8": int8, "float16": float16}
    quantized = [arithmetic for arithmetic, asked in wanted.items() if asked]
    command += "".join(f" --{arithmetic}" for arithmetic in quantized)
    best = best_of(chosen, trained)
    releases = {run.seed: chosen.release(run.module) for run in trained}
    release = releases.pop(best.seed)
    learned = learning_curve(best.folder / LOG)
    directory = publish(release, models_dir, command=command, seed=best.seed, others=releases, curve=learned)
    _show(directory)
    for arithmetic in quantized:
        with interpreter() if arithmetic == "int8" else nullcontext() as old_cpu:
            made = publish_quantized(release, directory, arithmetic, models_dir, command=command, old_cpu=old_cpu)
        _show(made)


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(help="FILE.py:FUNCTION; it takes nothing and returns a dict of export_module's arguments.")
    ],
    name: Annotated[str | None, typer.Option(help="The model's name.", show_default="the file's")] = None,
    models_dir: Annotated[Path, typer.Option(help="Where to publish, as <name>/<version>/.")] = Path("models"),
) -> None:
    """Export a PyTorch module that was made elsewhere, compare it with PyTorch, and publish it.

    Each nn.RNN, nn.LSTM and nn.GRU in it becomes nodes with lengths and states. docs/bring-your-own.md has an example.
    """
    from training.publish.foreign_module import export_module
    from training.publish.source import read_source

    directory = export_module(
        **read_source(source),
        name=name or Path(source.rpartition(":")[0]).stem,
        models_dir=models_dir,
        command=f"python -m training export {Path(source).name}",
    )
    _show(directory)


@app.command()
def report(
    models_dir: Annotated[Path, typer.Option(help="Where the models are, as <name>/<version>/.")] = Path("models"),
    page: Annotated[Path, typer.Option(help="The page of all models, written again.")] = Path("docs/models.md"),
    only: Annotated[list[str] | None, typer.Option(help="Draw these models alone; may be given again.")] = None,
) -> None:
    """Draw each model's report from what the service answers: pictures, its card's, and the page of all models.

    Needs the extra `report` (matplotlib, statsforecast) and the data sets.
    """
    from training.report.pages import models_page, versions, write_reports
    from training.reporters import REPORTERS

    known = {directory.parent.name for directory in versions(models_dir)}
    if missing := set(only or ()) - known:
        raise typer.BadParameter(f"{models_dir} holds no {', '.join(sorted(missing))}", param_hint="--only")
    for directory in write_reports(models_dir, REPORTERS, set(only or known)):
        Console().print(f"drew {directory}")
    page.write_text(models_page(models_dir, page.parent))


@app.command()
def gradients(
    page: Annotated[
        Path, typer.Option(help="The page whose tables are written again; pictures go to the folder of its name.")
    ] = Path("docs/recurrent-networks.md"),
) -> None:
    """Measure how gradients fare on their way back through time, and draw it.

    It trains small networks on a task that it draws itself, for some minutes on one core. Needs the extra `report`.
    """
    from training.gradients.page import write_report
    from training.gradients.study import Sizes, measure

    write_report(measure(Sizes()), page)


def _show(directory: Path) -> None:
    provenance = read_manifest(directory).provenance
    assert provenance is not None
    table = Table("figure", "value", "floor", "floor is", box=None, pad_edge=False)
    for metric in provenance.metrics:
        floor = "" if metric.floor is None else f"{metric.floor:.4g}"
        table.add_row(metric.name, value_and_spread(metric, provenance), floor, metric.floor_method)
    console = Console()
    console.print(f"published {directory}, parity {provenance.parity_max_abs:.2g}")
    if provenance.metrics:
        console.print(table)


def main() -> None:
    """Run the command; a StartupError becomes one line on stderr and exit status 1."""
    try:
        app()
    except StartupError as error:
        sys.exit(f"training: {error}")
