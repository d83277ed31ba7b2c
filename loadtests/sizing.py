"""`make sizing`: what each committed model bears and takes, with one worker and with two.

Each model is served alone, and gets the calls that `baton bench` sends. It knows rounds and tables, not what is in a
call. Writes `loadtests/results/sizing.json` and the table of docs/operations.md; with models named, it measures those
alone and prints theirs. Invariants: a figure comes from answers alone; one error, and there is no table. What a busy
machine gave is printed, and not written.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from loadtests import requirements
from loadtests.bench import facts
from loadtests.closedloop import run_wrk
from loadtests.models import COMMITTED
from loadtests.payloads import Pool
from loadtests.report import write_between
from loadtests.requirements import BenchError
from loadtests.serving import Running, baton, metrics, pss_mb, read
from loadtests.workbench import ask
from service.cli.typical_calls import Call, call_for
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "sizing.json"
PAGE = ROOT / "docs" / "operations.md"
WORKERS = (1, 2)
CONNECTIONS, BODIES = 32, 64
ROUNDS, SECONDS, WARM_S = 3, 2.0, 1.0  # wrk knows whole seconds alone
MAX_OTHER_CORES, MAX_SPREAD = 0.2, 1.5
STORE_BYTES, HELD_PER_REQUEST, REQUESTS_BETWEEN_LOOKS = 16 * 2**20, 128, 8
SEED, STEPS, STEPS_OF_HELD = 0, 64, 8
HEAD = (
    "| model | a call | state | token | held sessions a GB of `BATON_STORE_BYTES` "
    "| 1 worker: calls/s, p99 | memory | 2 workers: calls/s, p99 | memory |"
)
CALLS = {
    "sentiment": "one text",
    "forecast": "one series",
    "step": "one step, token in and out",
    "tag": "one text, whole",
    "transform": "one signal, whole",
    "classify": "one signal, whole",
    "translate": "one sentence, 4 beams",
}
Raw = dict[str, Any]


def under_way(service: Running, call: Call, folder: Path) -> Pool:
    """Return bodies as connections send them after their first: the next in turn, or of a session of its own."""
    sent = []
    for _ in range(BODIES):
        bodies = call.bodies()
        first = json.dumps(next(bodies)).encode()
        sent.append(json.dumps(bodies.send(ask(service, call.path, first))).encode())
    file = folder / "bodies.jsonl"
    file.write_bytes(b"\n".join(sent) + b"\n")
    return Pool(call.path, 1, sent, [], file)


def measure_loads(service: Running, pool: Pool) -> list[Raw]:
    """Return a load for each round. Raises: BenchError when a request failed."""
    run_wrk(service, pool, connections=CONNECTIONS, seconds=WARM_S)
    rounds = [run_wrk(service, pool, connections=CONNECTIONS, seconds=SECONDS) for _ in range(ROUNDS)]
    if failed := sum(load.errors for load in rounds):
        raise BenchError(f"{failed} requests to {pool.path} failed, so the figures are worth nothing")
    return [asdict(load) for load in rounds]


def held_in_full_store(service: Running, call: Call) -> int:
    """Hold sessions, no two with the same state, until the store has dropped some; return how many it keeps."""
    steps = [step["items"][0] for step in islice(call.bodies(), STEPS)]
    rng, held, before = np.random.default_rng(SEED), 0, -1
    while held > before:
        before = held
        for _ in range(REQUESTS_BETWEEN_LOOKS):
            chosen = rng.integers(len(steps), size=(HELD_PER_REQUEST, STEPS_OF_HELD))
            items = [_joined([steps[place] for place in places]) for places in chosen.tolist()]
            body = {**next(call.bodies()), "hold": "server", "items": items}
            ask(service, call.path, json.dumps(body).encode())
        held = int(metrics(service.url)["baton_held_states"])
    return held


def _joined(steps: list[Raw]) -> Raw:
    """Return one item that takes all of these steps, and begins as the first does."""
    begun = {"begin": steps[0]["begin"]} if "begin" in steps[0] else {}
    if "text" in steps[0]:
        return {**begun, "text": " ".join(step["text"] for step in steps)}
    return {**begun, "inputs": [row for step in steps for row in step["inputs"]]}


def measure(name: str, folder: Path) -> Raw:
    """Return the raw figures of one model."""
    models = folder / name
    models.mkdir()
    (models / name).symlink_to(COMMITTED / name)
    found: Raw = {"workers": {}}
    for workers in WORKERS:
        settings = {"BATON_WORKERS": str(workers), "BATON_STORE_BYTES": str(STORE_BYTES)}
        scratch = folder / f"{name}-{workers}"
        scratch.mkdir()
        with baton(models, scratch, **settings) as service:
            described = json.loads(read(f"{service.url}/v1/models/{name}"))
            call = call_for(described)
            pool = under_way(service, call, scratch)
            found["workers"][str(workers)] = {"loads": measure_loads(service, pool), "pss_mb": pss_mb(service.pid)}
            found |= {"task": described["task"], "state_bytes": described["state_bytes"]}
            if described["task"] == "step" and workers == 1:
                found["token_chars"] = len(json.loads(pool.bodies[0])["items"][0]["state"])
                found["held_in_store"] = held_in_full_store(service, call)
    return found


def disturbances(result: Raw) -> list[str]:
    """Return what tells of each load that the machine was busy with something else."""
    found = []
    for name, raw in result["models"].items():
        for workers, measured in raw["workers"].items():
            others = statistics.median(load["cores"]["other"] for load in measured["loads"])
            rates = [load["requests_per_s"] for load in measured["loads"]]
            where = f"{name} with workers {workers}"
            if others > MAX_OTHER_CORES:
                found.append(f"{where}: other processes took {others:.2f} cores; at most {MAX_OTHER_CORES}")
            if max(rates) > MAX_SPREAD * min(rates):
                found.append(f"{where}: {min(rates):,.0f} to {max(rates):,.0f} calls/s; at most {MAX_SPREAD} times")
    return found


def table(result: Raw) -> str:
    """Return the figures as the page shows them."""
    machine, models = result["machine"], result["models"]
    loads = [load for raw in models.values() for found in raw["workers"].values() for load in found["loads"]]
    others = statistics.median(load["cores"]["other"] for load in loads)
    lines = [
        f"Measured on {result['date']} at the commit of {result['commit_date']}: {machine['cores']} cores, "
        f"{machine['processor']}, which the service shares with wrk, and with other processes that took {others:.2f} "
        f"cores meanwhile; {CONNECTIONS} connections, medians of {ROUNDS} rounds of {SECONDS:g} s; memory is PSS of "
        "all processes of a service that serves the model alone, after the load. Held sessions are counted in a full "
        f"store of {STORE_BYTES // 2**20} MiB, and scaled to a GB.",
        "",
        HEAD,
        "|" + (HEAD.count("|") - 1) * "---|",
        *(_row(name, raw) for name, raw in models.items()),
    ]
    return "\n".join(lines)


def _row(name: str, raw: Raw) -> str:
    cells = [f"`{name}`", CALLS[raw["task"]]]
    if raw["task"] == "step":
        a_gb = raw["held_in_store"] / STORE_BYTES * 1e9
        cells += [f"{raw['state_bytes']:,} B", f"{raw['token_chars']:,} B", f"{float(f'{a_gb:.2g}'):,.0f}"]
    else:
        cells += ["none", "", ""]
    for measured in raw["workers"].values():
        rounds = measured["loads"]
        rate, p99_ms = (statistics.median(load[of] for load in rounds) for of in ("requests_per_s", "p99_ms"))
        cells += [f"{rate:,.0f}, {p99_ms:.0f} ms", f"{measured['pss_mb']:.0f} MB"]
    return f"| {' | '.join(cells)} |"


def publish(result: Raw) -> None:
    """Write the figures and the page's table. Raises: BenchError for those of a busy machine, which are not written."""
    if found := disturbances(result):
        raise BenchError("\n".join(("nothing is written: measure again on a quiet machine", *found)))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    write_between(PAGE, "sizing", table(result))


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="All committed ones, by default.")
    ] = None,
) -> None:
    """Measure, and write docs/operations.md and loadtests/results/sizing.json; with models named, only print."""
    committed = sorted(model.name for model in COMMITTED.iterdir())
    try:
        if unknown := sorted(set(names or ()) - set(committed)):
            raise BenchError(f"no model is called {', '.join(unknown)}; there are {', '.join(committed)}")
        requirements.require_wrk()
        result = facts(requirements.cores(), requirements.raise_open_files())
        result["timing"] = {"rounds": ROUNDS, "seconds": SECONDS, "connections": CONNECTIONS}
        with tempfile.TemporaryDirectory() as scratch:
            result["models"] = {name: measure(name, Path(scratch)) for name in names or committed}
        print(table(result))
        if not names:
            publish(result)
    except BenchError as failure:
        sys.exit(f"sizing: {failure}")


if __name__ == "__main__":
    typer.run(main)
