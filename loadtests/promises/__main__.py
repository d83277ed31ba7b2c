"""The command: `python -m loadtests.promises --seconds 1800`."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtests import report, requirements
from loadtests.promises.clients import Client
from loadtests.promises.history import History
from loadtests.promises.nemesis import Nemesis, small_disk
from loadtests.promises.oracle import Oracle
from loadtests.promises.replicas import Replica
from service.launch import ROOT

MODEL = "forecast-live"
REPLICAS = ("a", "b", "c")
PAGE = ROOT / "docs" / "loadtests.md"
FULL_S = 1800.0  # the page tells of runs that are at least as long
LEAST_ANSWERED_PER_S = 0.2  # operations of each kind


async def strike_while_clients_work(
    seconds: float, clients: Sequence[Client], nemesis: Nemesis, urls: Sequence[str]
) -> None:
    """Let clients work and the nemesis strike; then, when all is well again, go on from every place once more."""
    stopped, calm = asyncio.Event(), asyncio.Event()
    working = [asyncio.create_task(client.run(stopped.is_set)) for client in clients]
    striking = asyncio.create_task(nemesis.run(calm))
    try:
        await asyncio.wait([*working, striking], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        calm.set()
        await striking
        stopped.set()
        await asyncio.gather(*working)
        await asyncio.gather(*(client.verify(urls) for client in clients))
    finally:
        for task in (*working, striking):
            task.cancel()


def run(seconds: float, clients: int, seed: int) -> tuple[History, set[str]]:
    """Return what happened, and which nemeses could strike."""
    history = History()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="baton-promises-")))
        disk = stack.enter_context(small_disk(folder / "disk"))
        (folder / "models").mkdir()
        (folder / "models" / MODEL).symlink_to(ROOT / "models" / MODEL)
        version = max((ROOT / "models" / MODEL).glob("[0-9]*"), key=lambda path: int(path.name))
        replicas = [Replica(name, folder, folder / "models", folder / "disk" / "state") for name in REPLICAS]
        for replica in replicas:
            stack.callback(replica.end)
            replica.start()
        oracle, urls = Oracle(version), [replica.url for replica in replicas]
        nemesis = Nemesis(replicas, history, seed, disk)
        working = [Client(urls, oracle, history, seed + number) for number in range(clients)]
        asyncio.run(strike_while_clients_work(seconds, working, nemesis, urls))
        return history, set(nemesis.kinds)


def summary(result: dict[str, Any]) -> str:
    told = {
        name: ", ".join(f"{kind} {count:,}" for kind, count in sorted(result[name].items())) or "none"
        for name in ("answered", "given_up", "nemeses")
    }
    return (
        f"{result['seconds']:g} s, {result['clients']} clients, seed {result['seed']} ({result['date']}, the commit of "
        f"{result['commit_date']}): {result['sessions']:,} sessions. Operations answered: {told['answered']}; "
        f"given up: {told['given_up']}. Strokes: {told['nemeses']}. {result['steps']:,} answers were compared: "
        f"**{result['differing']} differ, {result['lost']} sessions lost**."
    )


def main(
    seconds: Annotated[float, typer.Option(help="How long clients work and the nemesis strikes.")] = FULL_S,
    clients: Annotated[int, typer.Option(help="How many clients work at a time.")] = 12,
    seed: Annotated[int, typer.Option(help="What clients and nemesis do follows from it.")] = 1,
    output: Annotated[Path | None, typer.Option(help="A file for the history, as JSON.")] = None,
) -> None:
    """Put sessions against three replicas to the test; the exit code is 1 where a promise was broken."""
    history, nemeses = run(seconds, clients, seed)
    about = {"date": datetime.now(UTC).date().isoformat(), "commit_date": requirements.commit_date()}
    result = {**about, "seconds": seconds, "clients": clients, "seed": seed, **history.content()}
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
    if seconds >= FULL_S:
        report.write_between(PAGE, "promises", summary(result))
    typer.echo(summary(result))
    if "disk" not in nemeses:
        typer.echo("no disk was filled: this process may mount none")
    for breach in result["breaches"]:
        typer.echo(json.dumps(breach))
    failures = history.failures(least_answered=int(LEAST_ANSWERED_PER_S * seconds), nemeses=nemeses)
    sys.exit(f"FAILED: {'; '.join(failures)}" if failures else 0)


if __name__ == "__main__":
    typer.run(main)
