"""`baton stream`: steps as lines come, and what stands out in them.

It knows lines, outputs and checkpoints, not how a model steps. Invariant: a checkpoint is written after the outputs of
its lines, so a restart may show those of the last LINES_AT_ONCE again, and leaves none out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from service.cli.api import LONGEST_WAIT_S, Refusal, open_api
from service.cli.checkpoint import Checkpoint, locked, read_checkpoint, write_checkpoint
from service.cli.lines import Line, ended_by_signals, read_lines
from service.cli.options import ApiKey, AsJson, Url, complete_models
from service.cli.session import Session, Step
from service.cli.sinks import Write, drop_stdout, outermost, show_cell, wants_table, write_line
from service.cli.steps import BadLine, LineKind, LineReader
from service.errors import CommandError
from service.settings import load_settings

Bad = Literal["stop", "skip"]
PREDICTION = "quantiles"
# What a model tells of the values that lie furthest out, by the output that a bound may be set on.
HIGHEST = {"anomaly": 10.0, "likelihood": 1.0}


def stream(
    model: Annotated[str, typer.Argument(help="The model.", autocompletion=complete_models("step"))],
    anomaly: Annotated[
        float | None,
        typer.Option(
            help="Show only values whose score is above this; 1 is the 95 % interval's bound, 10 the highest."
        ),
    ] = None,
    likelihood: Annotated[
        float | None,
        typer.Option(
            help="Show only values whose likelihood of being marked by people is above this, from 0 to 1; 0.45 is a "
            "good bound."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read this, from the line of the checkpoint on [stdin].")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait at the end of --file for what is added.")] = False,
    kind: Annotated[LineKind, typer.Option("--format", help="What a line is.")] = "text",
    column: Annotated[list[str] | None, typer.Option(help="The column of values; again for more.")] = None,
    time: Annotated[str | None, typer.Option(help="The column of times [when a line came].")] = None,
    bad: Annotated[Bad, typer.Option(help="What to do at a line that is no step.")] = "stop",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where to go on from [streams/MODEL.json in BATON_STATE_DIR].")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, whatever the checkpoint holds.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Take a step for each line as it comes, and show what it answers, or what stands out.

    The state is kept in a checkpoint behind what was shown; started again, the stream goes on from there, and of a
    --file takes the lines behind it. Ctrl-C ends it. Of CSV the first line must be the header.

    \b
      tail -f log | baton stream forecast-live --anomaly 3
      baton stream forecast-live --likelihood 0.45 --file log --follow
      seq 1 50 | baton stream forecast-live --fresh --checkpoint stream.json
      cat sales.csv | baton stream forecast-live --format csv --column y --time date --fresh
    """
    bound = _bound(anomaly=anomaly, likelihood=likelihood)
    if follow and file is None:
        raise CommandError("--follow needs a --file; stdin is followed to its end")
    with ended_by_signals() as stop, open_api(url, api_key) as api:
        session = Session(api, model)
        if bound is not None and bound.output not in session.outputs:
            has = ", ".join(session.outputs)
            raise CommandError(f"{model} gives no output {bound.output!r}, only {has}; leave out --{bound.output}")
        api.patience_s = LONGEST_WAIT_S
        with locked(checkpoint or load_settings().state_dir / "streams" / f"{model}.json") as target:
            kept = _begin(session, target, None if fresh else read_checkpoint(target), piped=file is None)
            reader = LineReader(session, kind, column or [], time, kept.header)
            write = _write_text if wants_table(None, as_json) else write_line
            run = _Stream(session, reader, target, kept, bound, write)
            for lines in read_lines(file, kept.line, follow=follow, stop=stop):
                if not run.take(lines, bad):
                    return


class _Bound(NamedTuple):
    """Above which value of which output a step stands out."""

    output: str
    above: float


def _bound(**options: float | None) -> _Bound | None:
    """Return the bound that is set, if one is. Raises: CommandError where it shows all or nothing, or two are set."""
    given = [_Bound(name, above) for name, above in options.items() if above is not None]
    for name, above in given:
        if not 0 <= above < HIGHEST[name]:
            raise CommandError(f"--{name} {above:g} would show all or nothing: scores are from 0 to {HIGHEST[name]:g}")
    if len(given) > 1:
        raise CommandError(f"give one of {' and '.join(f'--{bound.output}' for bound in given)}")
    return given[0] if given else None


def _begin(session: Session, file: Path, found: Checkpoint | None, *, piped: bool) -> Checkpoint:
    """Go on from the checkpoint that was found, or from the beginning, and say so.

    Raises: CommandError where it is another model's.
    """
    if found is None:
        typer.echo(f"begins anew; the checkpoint is {file}", err=True)
        return Checkpoint(session.model, 0, None, 0, None, None)
    if found.model != session.model:
        raise CommandError(f"{file} is of {found.model}; name another --checkpoint, or begin with --fresh")
    begins = f"; stdin begins at line {found.line + 1}" if piped else ""
    typer.echo(f"goes on from step {found.step}, line {found.line}{begins}; the checkpoint is {file}", err=True)
    session.state, session.step = found.state, found.step
    return found


class _Stream:
    """A session whose outputs are shown, and then kept in `file` as `kept` is."""

    def __init__(
        self, session: Session, reader: LineReader, file: Path, kept: Checkpoint, bound: _Bound | None, write: Write
    ) -> None:
        self._session, self._reader, self._file, self._kept = session, reader, file, kept
        self._bound, self._write, self._expected = bound, write, kept.expected

    def take(self, lines: list[Line], bad: Bad) -> bool:
        """Take the steps on `lines`, show what is to be shown and keep the state; return whether anyone still reads.

        Raises: CommandError for a line that is no step, behind those before it, and where the service refuses.
        """
        steps, last, failure = self._read(lines, bad)
        try:
            self._show(steps)
        except BrokenPipeError:
            drop_stdout()
            write_checkpoint(self._file, self._kept)  # also where none was yet
            return False
        except Refusal as refusal:
            hint = "; --fresh begins anew" if refusal.code.startswith("state_") else ""
            raise CommandError(f"after step {self._session.step}: {refusal}{hint}") from refusal
        if last > self._kept.line:
            session, header = self._session, self._reader.header
            self._kept = Checkpoint(session.model, session.step, session.state, last, header, self._expected)
            write_checkpoint(self._file, self._kept)
        if failure is not None:
            raise failure
        return True

    def _read(self, lines: list[Line], bad: Bad) -> tuple[list[tuple[Step, Any]], int, CommandError | None]:
        """Return the steps on `lines`, the last line that was taken, and why that is not the last one, if it is not."""
        steps = []
        for number, line in lines:
            try:
                if (step := self._reader.read(line)) is not None:
                    steps.append(step)
            except BadLine as failure:
                if bad == "stop":
                    reason = CommandError(f"line {number}: {failure}; --bad skip goes on behind it")
                    return steps, number - 1, reason
                typer.echo(f"baton: line {number} is skipped: {failure}", err=True)
        return steps, lines[-1][0], None

    def _show(self, steps: list[tuple[Step, Any]]) -> None:
        """Take steps, each with its time, and show what is to be shown.

        Raises: Refusal; BrokenPipeError.
        """
        given = iter(steps)
        for made in self._session.take([step for step, _ in steps]) if steps else ():
            for number, row in enumerate(made, start=self._session.step - len(made) + 1):
                if "token" in row:  # a line may be several, and a token has no time but now
                    self._show_row({"step": number, "time": _now()}, row)
                else:
                    value, time = next(given)
                    self._show_row({"step": number, "time": time or _now(), "value": value}, row)

    def _show_row(self, told: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Show a step if it is to be shown, beside the interval that was predicted for it."""
        expected, predicted = self._expected, row.get(PREDICTION)
        self._expected = outermost(predicted) if isinstance(predicted, dict) else None
        if self._bound is None:
            self._write({**told, **row})
        elif (score := row[self._bound.output]) > self._bound.above:
            self._write({**told, "expected": expected, "score": score})


def _write_text(row: Mapping[str, Any]) -> None:
    """Write a row for people, at once."""
    print("  ".join(f"{name} {show_cell(value)}" for name, value in row.items()), flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
