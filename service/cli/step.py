"""`baton step`: steps of a session, from a state to the next.

It knows where steps and states come from and go to, not what a state holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.api import open_api
from service.cli.options import ApiKey, AsJson, Format, Output, Url, complete_models, refuse_unknown
from service.cli.session import Session, Step
from service.cli.sinks import check_target, open_rows, refuse_overwriting
from service.cli.sources import STDIN, Source, check_text, is_piped
from service.cli.state_file import read_state, write_state
from service.cli.steps import SEPARATORS, BadLine, read_step
from service.errors import CommandError


def step(
    model: Annotated[str, typer.Argument(help="The model.", autocompletion=complete_models("step"))],
    steps: Annotated[
        list[str] | None, typer.Argument(help="Steps: numbers, rows as 0.1,0.2, or texts; - or nothing reads stdin.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="A file of steps: one a line, or by its ending.")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="The column of values; again for more.")] = None,
    kind: Format = None,
    state: Annotated[str | None, typer.Option(help="The state to go on from, or @FILE that holds it [begin].")] = None,
    begin: Annotated[
        str | None, typer.Option(help="The text that a session begins from, of a model that begins from one [nothing].")
    ] = None,
    save_state: Annotated[Path | None, typer.Option(help="Write the state after the last step to this file.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Take steps of a session, and show what each answers.

    A state goes on in this process and at a service that has the same keys; used twice, it is two sessions.

    \b
      baton step forecast-live 10 12 11 13 --save-state state.txt
      baton step forecast-live 12 --state @state.txt
      baton step sentiment-live "not a bad film" --json
      baton step translate --begin "I am tired." "Je suis" --output steps.jsonl
    """
    refuse_unknown(steps or [])
    refuse_overwriting(output, file)
    check_target(save_state, "--save-state", output)
    with open_rows(output, as_json) as write, open_api(url, api_key) as api:
        session = Session(api, model, _state(state), None if begin is None else check_text(begin, "--begin"))
        before = session.state
        for made in session.take(list(_read(session, steps or [], file, column or [], kind))):
            for number, row in enumerate(made, start=session.step - len(made) + 1):
                write({"step": number, **row})
        for warning in session.warnings:
            typer.echo(f"--begin: {warning}", err=True)
        if session.state == before:
            raise CommandError("there are no steps")
        if save_state is not None:
            assert session.state is not None
            write_state(save_state, "--save-state", session.state, session.step, session.expires_at)


def _state(given: str | None) -> str | None:
    if given is None or not given.startswith("@"):
        return given
    return read_state(Path(given[1:]), f"--state {given}")


def _read(session: Session, given: list[str], file: str | None, columns: list[str], kind: Format) -> Iterator[Step]:
    for place, cells in _cells(session, given, file, columns, kind):
        try:
            yield read_step(session, cells)
        except BadLine as failure:
            raise CommandError(f"{place}: {failure}") from failure


def _cells(
    session: Session, given: list[str], file: str | None, columns: list[str], kind: Format
) -> Iterator[tuple[str, Any]]:
    """Yield the cells of each step, with their place."""
    if given and given != [STDIN]:
        if file is not None:
            raise CommandError("give steps, or --file, not both")
        if columns or kind is not None:
            raise CommandError("--column and --format are about a file or stdin, and the arguments are steps")
        yield from ((f"step {number}", _split(session, text)) for number, text in enumerate(given, start=1))
        return
    if file is None and not given and not is_piped():
        if session.begin is not None:
            return
        raise CommandError("give steps, a --file of them, or pipe them in; baton step --help has examples")
    source = Source(file or STDIN, kind)
    if source.has_columns and not columns:
        columns = [source.only_column()]
    for line, value in source.columns(*columns) if columns else source.values():
        cells = value if not isinstance(value, str) else _split(session, value)
        yield f"{source.name}, line {line}", cells if isinstance(cells, list | tuple) else [cells]


def _split(session: Session, text: str) -> list[str]:
    return [text] if session.member == "text" else SEPARATORS.split(text.strip())
