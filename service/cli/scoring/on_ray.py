"""Chunks scored by Ray Data, on a cluster or on this machine: tasks read files, and actors have an engine each.

It knows Ray, chunks and parts, not what is scored. Ray runs again what died with its process or node; a part is written
whole under the name of its chunk, so what ran twice is there once. Invariant: a chunk, however files are read, is that
of a job without Ray, and so goes on without it, too.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from service.cli.scoring.files import File
from service.cli.scoring.fork_server import FOR_ENGINES
from service.cli.scoring.groups import Groups
from service.cli.scoring.inputs import Chunk, Reading, read_file
from service.cli.scoring.parts import Parts
from service.cli.scoring.scorer import Job, Scorer, find_model
from service.cli.scoring.tally import Scored, Tally
from service.cli.sources import import_arrow
from service.errors import CommandError
from service.settings import load_settings
from service.workers.cores import usable_cores

AUTO = "auto"
CONNECT_S = 5.0
MOST_DEATHS = 10  # of an actor; its nodes will not end as often, so a chunk is what kills it
REFUSED = "refused"  # the column with the reason why a job ends
READER_CPUS = 0.1  # a task that reads waits for the actors most of the time, and leaves each the rest of a core


def score_on_ray(
    address: str,
    files: Sequence[File],
    reading: Reading,
    done: set[str],
    job: Job,
    parts: Parts,
    most_actors: int | None,
    told: Callable[[Tally], object],
) -> Tally:
    """Score the chunks of `files` that are not `done`, and write their parts; `told` hears after each.

    Raises: CommandError where Ray is not installed, not there or gives up; what a chunk raises.
    """
    if job.wanted.states and not load_settings().token_keys:
        raise CommandError("--states on Ray needs BATON_TOKEN_KEYS: each machine would seal with a key of its own")
    tally, groups = Tally(), Groups(reading.group)
    with _connected(address) as (ray, cpus):
        scored = _plan(files, reading, done, job, parts, cpus, most_actors or cpus)
        try:
            for row in scored.iter_rows():
                refused = row.pop(REFUSED)
                if refused is not None:
                    raise CommandError(refused)
                chunk = Scored(**row)
                groups.see(chunk.place, chunk.groups)
                tally.count(chunk)
                told(tally)
        except ray.exceptions.RayError as failure:
            raise CommandError(f"Ray gave up: {failure}; what is written stays, and --resume goes on") from failure
    return tally


def _plan(
    files: Sequence[File], reading: Reading, done: set[str], job: Job, parts: Parts, cpus: int, most_actors: int
) -> Any:
    """Return the data set of what came of each chunk; nothing runs before its rows are asked for."""
    data = importlib.import_module("ray.data")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a block is a chunk, which goes to an actor as soon as it is read
    chunks = data.from_items([*range(len(files))], override_num_blocks=min(len(files), cpus)).flat_map(
        partial(_read, files, reading, done), num_cpus=READER_CPUS, compute=data.TaskPoolStrategy(size=cpus)
    )
    return chunks.map_batches(
        _Actor,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1 - READER_CPUS,
        compute=data.ActorPoolStrategy(min_size=1, max_size=most_actors),
        fn_constructor_args=(job, parts, _settings()),
        runtime_env={"env_vars": FOR_ENGINES},
        max_task_retries=-1,  # each call of an actor is one until Ray finds that its node has ended
        max_restarts=MOST_DEATHS,
    )


def _read(files: Sequence[File], reading: Reading, done: set[str], number: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a file, each as a row; behind them the reason, where the file cannot be read any further."""
    try:
        for chunk in read_file(files, number["item"], reading):
            table = chunk.table.slice(0, 0) if chunk.name in done else chunk.table
            told = {"rows": chunk.table.num_rows, "there": chunk.name in done, REFUSED: None}
            yield {**vars(chunk), "groups": [*chunk.groups], "table": _packed(table), **told}
    except CommandError as failure:
        nothing = Chunk("", files[number["item"]].place, 0, b"", 0.0)
        yield {**vars(nothing), "groups": [], "rows": 0, "there": False, REFUSED: str(failure)}


class _Actor:
    """An engine on some machine of the cluster, for chunks that are rows. What it refuses is told in the column."""

    def __init__(self, job: Job, parts: Parts, settings: dict[str, str]) -> None:
        os.environ.update(settings)
        here = find_model(job.manifest.name)
        if here.sha256 != job.manifest.sha256:
            here_is = f"{here.name} is version {here.version} on {os.uname().nodename}, or of other weights"
            raise CommandError(f"{here_is}, and the job is of version {job.manifest.version}")
        self._scorer, self._parts = Scorer(job), parts

    def __call__(self, batch: Any) -> Any:
        (row,) = batch.to_pylist()
        rows, there, refused = row.pop("rows"), row.pop("there"), row.pop(REFUSED)
        scored = Scored(row["place"], rows, row["share"], row["groups"], there=there)
        if not there and refused is None:
            try:
                scored = self._scorer.put(Chunk(**{**row, "table": _unpacked(row["table"])}), self._parts)
            except CommandError as failure:
                refused = str(failure)
        return import_arrow().Table.from_pylist([{**vars(scored), REFUSED: refused}], _schema())


def _schema() -> Any:
    arrow = import_arrow()
    text, count = arrow.string(), arrow.int64()
    members = {"place": text, "rows": count, "share": arrow.float64(), "groups": arrow.list_(text)}
    return arrow.schema({**members, "failed": count, "example": text, "there": arrow.bool_(), REFUSED: text})


def _packed(table: Any) -> bytes:
    sink = import_arrow().BufferOutputStream()
    with import_arrow("ipc").new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _unpacked(table: bytes) -> Any:
    return import_arrow("ipc").open_stream(table).read_all()


def _settings() -> dict[str, str]:
    """Return the settings of this process, for those on other machines; there, too, the models are in this folder."""
    own = {name: value for name, value in os.environ.items() if name.startswith("BATON_")}
    return {**own, "BATON_MODELS_DIR": str(Path(load_settings().models_dir).absolute())}


@contextmanager
def _connected(address: str) -> Iterator[tuple[Any, int]]:
    """Connect to a cluster, or start Ray on this machine; give Ray, and how many processors it has.

    Raises: CommandError where Ray is not installed, or no cluster is at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError as missing:
        raise CommandError("--ray needs the extra ray: pip install 'baton-serving[ray]'") from missing
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    found = _find_cluster() if address == AUTO else _check_answers(address)
    if found is None:
        ray.init(address="local", num_cpus=usable_cores(), include_dashboard=False, **quiet)
    else:
        ray.init(address=found, **quiet)
    try:
        yield ray, max(1, int(ray.cluster_resources().get("CPU", 0)))
    finally:
        ray.shutdown()


def _find_cluster() -> str | None:
    """Return the address of the cluster that this machine is part of, or that RAY_ADDRESS names, if it answers.

    Ray itself would try for minutes to reach a cluster that has ended.
    """
    services = importlib.import_module("ray._private.services")
    try:
        return _check_answers(services.canonicalize_bootstrap_address(AUTO))
    except (ConnectionError, CommandError):
        if "RAY_ADDRESS" in os.environ:
            raise
        return None


def _check_answers(address: str) -> str:
    """Return an address. Raises: CommandError where nothing listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError) as failure:
        wanted = "give it as host:port, from a machine that is part of it"
        raise CommandError(f"no Ray cluster answers at {address} ({failure}); {wanted}") from failure
    return address
