"""`baton score`: a model over files of any number of rows, into a folder of part files.

It knows the options and what a person is told, not how chunks are read, scored or written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.cli.batches import FAILED
from service.cli.options import complete_models

if TYPE_CHECKING:
    from service.cli.scoring.files import File
    from service.cli.scoring.scorer import Job
    from service.cli.scoring.tally import Tally

PART_ROWS, GROUPED_ROWS = 16_384, 131_072  # so that a part holds some hundred series, too
SCORED = ("sentiment", "classify", "tag", "translate", "forecast", "step")


def score(
    model: Annotated[str, typer.Argument(help="The model.", autocompletion=complete_models(*SCORED))],
    input_: Annotated[
        list[str], typer.Option("--input", "-i", help="A file, folder, pattern or URL of rows; again for more.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="The folder, or URL of it, for part files.")],
    column: Annotated[str | None, typer.Option(help="The column of texts.")] = None,
    group: Annotated[str | None, typer.Option("--id", help="The column that tells series or sessions apart.")] = None,
    values: Annotated[
        list[str] | None, typer.Option("--value", help="The column of values; again for more features.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="How many values to forecast.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="Columns of the input to write before the results, as id,text [all].")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Write the score of every label.")] = False,
    states: Annotated[bool, typer.Option("--states", help="Write the state after each session.")] = False,
    kind: Annotated[
        Literal["parquet", "csv", "jsonl"] | None, typer.Option("--format", help="What the input is [by its ending].")
    ] = None,
    form: Annotated[
        Literal["parquet", "csv", "jsonl"], typer.Option("--output-format", help="What the parts are.")
    ] = "parquet",
    part_rows: Annotated[
        int | None,
        typer.Option(min=1, help=f"Rows of the input for each part [{PART_ROWS}; of ids {GROUPED_ROWS}]."),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Engines at work [one for each core].")] = None,
    ray: Annotated[
        str | None, typer.Option(help="Score on a Ray cluster: its address, or auto for that at hand, or one here.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a job that was interrupted.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End at the first row that fails.")] = False,
) -> None:
    """Score files of any size, by an engine for each core: texts, series, or sessions of a model that steps.

    The rows of a series or session stand together, in their order. Each part file is written whole or not at all, so a
    job that was interrupted goes on with --resume. What fails has its reason in the column error, and the status is 1.

    \b
      baton score sentiment --input reviews.parquet --output labels --column text
      baton score forecast --input sales.csv --output next --id store --value y --horizon 12
      baton score forecast-live --input sensors/ --output warm --id sensor --value reading --states
      baton score spam --input 'messages/*.jsonl' --output spam --column text --output-format csv
    """
    from service.cli.scoring.fork_server import leave_out_pandas, prepare_processes

    if ray is None:  # first of all: they take longest
        prepare_processes()
        leave_out_pandas()

    from service.cli.scoring.files import find_files
    from service.cli.scoring.inputs import Reading, read_chunks
    from service.cli.scoring.on_ray import score_on_ray
    from service.cli.scoring.parts import Parts
    from service.cli.scoring.pool import score_chunks
    from service.cli.scoring.scorer import Job, find_model
    from service.cli.scoring.tasks import find_work
    from service.cli.scoring.work import Wanted
    from service.workers.cores import usable_cores

    kept = None if keep is None else tuple(dict.fromkeys(keep.split(",")))
    wanted = Wanted(column, group, tuple(values or ()), kept, horizon, scores, states)
    manifest = find_model(model)
    work = find_work(manifest, wanted)
    files = find_files(input_, kind)
    part_rows = part_rows or (PART_ROWS if work.group is None else GROUPED_ROWS)
    reading, job = Reading(part_rows, work.columns, work.numbers, work.group), Job(manifest, wanted, strict)
    parts = Parts(output, form)
    done = parts.begin(_describe(job, files, form, part_rows), resume=resume)
    began = time.monotonic()
    with _progress() as show:
        if ray is None:
            tally = score_chunks(read_chunks(files, reading), done, job, parts, processes or usable_cores(), show)
        else:
            tally = score_on_ray(ray, files, reading, done, job, parts, processes, show)
    took_s = time.monotonic() - began
    tally.failed += parts.failed_before(done)
    parts.end({"rows": tally.rows + tally.there})
    _tell(tally, took_s, output)
    if tally.failed:
        raise typer.Exit(FAILED)


def _describe(job: Job, files: Sequence[File], form: str, part_rows: int) -> dict[str, Any]:
    """Return, in JSON's types, what makes a job another."""
    return {
        "model": job.manifest.name,
        "version": job.manifest.version,
        "sha256": job.manifest.sha256,
        "input": [[file.place, file.kind, file.size, file.changed_ns] for file in files],
        "options": json.loads(json.dumps({**vars(job.wanted), "strict": job.strict})),
        "output_format": form,
        "part_rows": part_rows,
    }


def _tell(tally: Tally, took_s: float, output: str) -> None:
    before = f", {tally.there:,} were there" if tally.there else ""
    typer.echo(f"{tally.rows:,} rows in {took_s:.1f} s, {tally.rows / took_s:,.0f} rows/s{before}; {output}", err=True)
    for example in tally.examples:
        typer.echo(f"baton: {example}", err=True)
    if tally.failed:
        typer.echo(f"baton: {tally.failed:,} failed; the column error has the reasons", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[Tally], Any]]:
    """Show on a terminal's stderr how much is done, how fast, and how long the rest takes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console, began = Console(stderr=True), time.monotonic()
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[speed]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0, rows=0, speed=0.0)

        def show(tally: Tally) -> None:
            speed = tally.rows / (time.monotonic() - began)
            progress.update(task, completed=tally.share, rows=tally.rows + tally.there, speed=speed)

        yield show
