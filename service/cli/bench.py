"""`baton bench`: what a running service bears, and how long it takes, for a typical call or for one's own.

It knows options, facts of models and tables, not how load is made.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.api import open_api
from service.cli.options import ApiKey
from service.errors import CommandError

if TYPE_CHECKING:
    from service.cli.closed_loop import ClosedLoop
    from service.cli.tally import Tally
    from service.cli.typical_calls import Body, Call, Facts

WARM_S = 1.0
SHOW_EVERY_S = 0.2
TIMES = {
    "latency": "latency, whole",
    "queue": "of it waiting for a run",
    "run": "of it in runs",
    "total": "of it in the service",
}


def bench(
    url: Annotated[str, typer.Argument(help="The running service, as http://localhost:8000.")],
    model: Annotated[
        str | None, typer.Option(help="The model to call; its task chooses the call.", show_default="the only one")
    ] = None,
    given: Annotated[
        Path | None,
        typer.Option("--input", exists=True, dir_okay=False, help="A file of request bodies, a line of JSON each."),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, help="Connections, each with one call under way.")] = 16,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds to measure, after a second that warms up.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Put load on a running service: requests per second, latency, and the service's own share of it.

    Each connection sends its next call when it has the whole answer. A typical call is one short text, one series of a
    week of hours, the next step of a session, or one row of tensors. What is refused (429, 503, 504) waits as long as
    the service says and is counted by code; any other failure is an error, and the status is then 1, as it is where
    nothing was answered. The load runs on one core: beside a service on the same machine it takes part of what it
    measures (docs/operations.md).

    \b
      baton bench http://127.0.0.1:8000 --model sentiment --duration 1
      baton bench http://127.0.0.1:8000 --model forecast --connections 64 --duration 1
      baton bench http://127.0.0.1:8000 --model sentiment --input requests.jsonl --duration 1 --json
    """
    from service.cli.typical_calls import call_for

    facts = _facts(url, model, api_key)
    call = call_for(facts)
    if given is not None:
        call = call.with_bodies(_read_bodies(given, facts["name"], call.items))
    tally, elapsed_s = _measure(url, call, connections, duration, api_key, sys.stderr.isatty())
    result = {
        "model": facts["name"],
        "version": facts["version"],
        "task": facts["task"],
        "connections": connections,
        "seconds": round(elapsed_s, 3),
        "requests_per_s": round(tally.answers / elapsed_s, 1),
        "items_per_s": round(tally.items / elapsed_s, 1),
        "answers": tally.answers,
        "times_ms": tally.times_ms(),
        "refusals": dict(tally.refusals),
        "errors": dict(tally.errors),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _show(result)
    if not tally.answers:
        raise CommandError(f"{url} answered none of the calls")
    if tally.errors:
        raise typer.Exit(1)


def _facts(url: str, model: str | None, api_key: str | None) -> Facts:
    """Return what the service says of a model. Raises: CommandError where there is no such service or model."""
    with open_api(url, api_key) as api:
        names = [line["name"] for line in api.get("/v1/models")["models"]]
        if model is None and len(names) == 1:
            (model,) = names
        if model not in names:
            asked = f"has no model {model}" if model else "has several models; name one with --model"
            raise CommandError(f"{url} {asked}: {', '.join(names)}")
        return api.get(f"/v1/models/{model}")


def _read_bodies(file: Path, model: str, items: str | None) -> list[Body]:
    """Return the bodies of a file, whose lists of items are their members `items`; each is for `model`.

    Raises: CommandError with the line that will not do.
    """
    bodies: list[Body] = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        body: Any = None
        with suppress(ValueError):
            body = json.loads(line)
        if not isinstance(body, dict) or (items and not isinstance(body.get(items), list)):
            wanted = f"a JSON object with a list {items!r}" if items else "a JSON object"
            raise CommandError(f"{file}:{number}: each line must be a request body, {wanted}; this is {line[:60]!r}")
        if items and body.setdefault("model", model) != model:
            raise CommandError(f"{file}:{number}: this body is for the model {body['model']}, not for {model}")
        bodies.append(body)
    if not bodies:
        raise CommandError(f"{file} is empty; each line must be a request body, a JSON object")
    return bodies


def _measure(
    url: str, call: Call, connections: int, duration: float, api_key: str | None, shown: bool
) -> tuple[Tally, float]:
    import uvloop

    from service.cli.closed_loop import ClosedLoop

    async def run() -> tuple[Tally, float]:
        await ClosedLoop(url, call, connections, api_key).run(min(WARM_S, duration))
        loop = ClosedLoop(url, call, connections, api_key)
        watching = asyncio.create_task(_watch(loop, duration)) if shown else None
        elapsed_s = await loop.run(duration)
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        return loop.tally, elapsed_s

    return uvloop.run(run())


async def _watch(loop: ClosedLoop, duration: float) -> None:
    """Show on the terminal how the load gets on."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar, started = progress.add_task("", total=duration), time.perf_counter()
        while True:
            await asyncio.sleep(SHOW_EVERY_S)
            tally, seconds = loop.tally, time.perf_counter() - started
            refused, failed = tally.refusals.total(), tally.errors.total()
            said = f"{tally.answers / seconds:,.0f} requests/s, {refused} refused, {failed} errors"
            progress.update(bar, completed=seconds, description=said)


def _show(result: dict[str, Any]) -> None:
    from service.cli.tables import print_table
    from service.cli.tally import PERCENTILES

    typer.echo(f"{result['model']} {result['version']}, {result['connections']} connections, {result['seconds']:.1f} s")
    typer.echo(f"{result['requests_per_s']:,.1f} requests/s, {result['items_per_s']:,.1f} items/s\n")
    times = result["times_ms"]
    rows = [[TIMES[name], *(f"{times[name][p]:,.2f} ms" for p in PERCENTILES)] for name in TIMES if name in times]
    print_table(("", *PERCENTILES), rows)
    for kind in ("refusals", "errors"):
        for code, count in result[kind].items():
            typer.echo(f"{kind}: {count:,} x {code}")
