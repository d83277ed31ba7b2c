"""`make profile`: how much of the event loop's time a request costs, in a service of one worker under closed-loop load.

The kernel counts what each thread runs; the loop runs on the process's main thread, the models on others. With
`--functions` py-spy samples in one more round which functions of the loop hold the interpreter. It knows threads and
their clocks, not the service's code. Invariant: every request was answered, or there is no figure.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from loadtests import payloads, requirements
from loadtests.closedloop import run_wrk
from loadtests.models import gather_models
from loadtests.payloads import Pool
from loadtests.requirements import BenchError
from loadtests.serving import TICKS_PER_S, Running, baton

ROUNDS, SECONDS, WARM_S = 5, 3.0, 1.0
CONNECTIONS = {"sentiment-1": 64, "step-1": 32}
WANTED_US = 250
SAMPLES_PER_S, SHOWN = 200, 20
LOOP = re.compile(r"thread \(\w+\): MainThread;")  # how py-spy begins the stacks of the main thread
LINE = re.compile(r":\d+\)$")
HEAD = "| load | requests/s | event loop, a request | of it in the kernel | other threads, a request | wanted | |"


@dataclass(frozen=True)
class Clock:
    """What a thread has run. Units: seconds; the kernel's ticks make `user` and `system` the coarser ones."""

    running: float
    user: float
    system: float

    def __sub__(self, before: Clock) -> Clock:
        return Clock(self.running - before.running, self.user - before.user, self.system - before.system)


STOPPED = Clock(0, 0, 0)


@dataclass(frozen=True)
class Cost:
    """One round. Units: microseconds a request; `in_kernel` is a share of the loop's time; `others_us` most first."""

    requests_per_s: float
    loop_us: float
    in_kernel: float
    others_us: list[float]


def clocks(pid: int) -> dict[int, Clock]:
    """Return the clock of every thread of a process, by the thread's id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        user, system = (int(ticks) / TICKS_PER_S for ticks in fields[11:13])
        found[int(task.name)] = Clock(int((task / "schedstat").read_text().split()[0]) / 1e9, user, system)
    return found


def one_round(service: Running, pool: Pool, connections: int) -> Cost:
    """Load the service and return what a request took of each thread. Raises: BenchError when a request failed."""
    before = clocks(service.pid)
    load = run_wrk(service, pool, connections=connections, seconds=SECONDS)
    after = clocks(service.pid)
    if load.errors:
        raise BenchError(f"{load.errors} requests failed, so the time of the others tells nothing")
    ran = {thread: clock - before.get(thread, STOPPED) for thread, clock in after.items()}
    loop = ran.pop(service.pid)
    others = sorted((1e6 * clock.running / load.answers for clock in ran.values()), reverse=True)
    in_kernel = loop.system / (loop.user + loop.system)
    return Cost(load.requests_per_s, 1e6 * loop.running / load.answers, in_kernel, others)


def row(load: str, costs: list[Cost]) -> str:
    """Return a line of medians; threads that take less than a microsecond are left out."""
    rate, loop_us, in_kernel = (
        statistics.median(getattr(cost, field) for cost in costs)
        for field in ("requests_per_s", "loop_us", "in_kernel")
    )
    others = map(statistics.median, zip(*(cost.others_us for cost in costs), strict=False))  # threads may begin or end
    shown = " + ".join(f"{us:.0f}" for us in others if us >= 1) or "0"
    verdict = "met" if loop_us <= WANTED_US else "**missed**"
    figures = f"{rate:,.0f} | {loop_us:.0f} us | {in_kernel:.0%} | {shown} us"
    return f"| {load} | {figures} | ≤ {WANTED_US} us | {verdict} |"


def sample(service: Running, pool: Pool, connections: int) -> str:
    """Return py-spy's stacks of one round, of threads that held the interpreter. Raises: BenchError."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
        stacks = Path(folder, "stacks.txt")
        loading = beside.submit(run_wrk, service, pool, connections=connections, seconds=SECONDS + 2 * WARM_S)
        command = [py_spy(), "record", "--gil", "--threads", "--format", "raw", "--output", str(stacks)]
        command += ["--rate", str(SAMPLES_PER_S), "--duration", str(round(SECONDS)), "--pid", str(service.pid)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        loading.result()
        if ended.returncode:
            raise BenchError(f"py-spy failed: {ended.stderr.strip()}")
        return stacks.read_text()


def py_spy() -> str:
    """Return the path of py-spy. Raises: BenchError with the command that installs it."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    if (found := shutil.which("py-spy", path=beside)) is None:
        raise BenchError("py-spy is missing, which samples functions; install it: python -m pip install py-spy")
    return found


def functions_table(stacks: str) -> str:
    """Return the functions in which the event loop most often was, alone and with what they call, as a table."""
    alone: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in filter(LOOP.match, stacks.splitlines()):
        stack, _, samples = line.rpartition(" ")
        names = [LINE.sub(")", frame) for frame in stack.split(";")[1:]]
        alone[names[-1]] += int(samples)
        whole.update({name: int(samples) for name in names})
    total = alone.total()
    rows = [
        f"| `{name}` | {count / total:.1%} | {whole[name] / total:.1%} |" for name, count in alone.most_common(SHOWN)
    ]
    return "\n".join(["| function of the event loop | alone | with what it calls |", "|---|---|---|", *rows])


def measure(data: Path, functions: bool) -> str:
    """Return the tables. Raises: BenchError."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "models").mkdir()
        with baton(gather_models(folder / "models"), folder, BATON_WORKERS="1") as service:
            pools = {
                "sentiment-1": payloads.single_texts(folder, data),
                "step-1": payloads.sessions(folder, service.url, 1),
            }
            rows, sampled = [], []
            for name, pool in pools.items():
                run_wrk(service, pool, connections=CONNECTIONS[name], seconds=WARM_S)
                rows.append(row(name, [one_round(service, pool, CONNECTIONS[name]) for _ in range(ROUNDS)]))
                if functions:
                    sampled.append(f"{name}:\n\n{functions_table(sample(service, pool, CONNECTIONS[name]))}")
    return "\n\n".join(["\n".join([HEAD, "|" + (HEAD.count("|") - 1) * "---|", *rows]), *sampled])


def main(
    functions: Annotated[
        bool, typer.Option("--functions", help="Sample the event loop's functions with py-spy.")
    ] = False,
) -> None:
    """Measure what a request costs the event loop, and print it."""
    try:
        requirements.require_wrk()
        if functions:
            py_spy()
        print(measure(requirements.data_dir(), functions))
    except BenchError as failure:
        sys.exit(f"profile: {failure}")


if __name__ == "__main__":
    typer.run(main)
