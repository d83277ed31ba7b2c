"""Processes that score chunks and write their parts, one engine for each core.

It knows chunks and parts, not what is scored. A chunk goes to its process in a file: a pipe that is full holds up the
end of the pool where a process was killed. Invariant: no more chunks are at hand than two for each process; a chunk
whose part is there is not scored again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from service.cli.scoring.fork_server import leave_out_pandas, prepare_processes
from service.cli.scoring.inputs import Chunk
from service.cli.scoring.parts import Parts
from service.cli.scoring.scorer import Job, Scorer
from service.cli.scoring.tally import Scored, Tally
from service.cli.sources import import_arrow
from service.errors import BatonError, CommandError

WAITING = 2  # chunks for each process: one is scored, one is at hand


def score_chunks(
    chunks: Iterator[Chunk],
    done: set[str],
    job: Job,
    parts: Parts,
    processes: int,
    told: Callable[[Tally], object],
) -> Tally:
    """Score the chunks that are not `done`, and write their parts; `told` hears after each.

    Raises: CommandError where a process ends, and with `job.strict` where an item fails.
    """
    context = prepare_processes()
    tally, under_way = Tally(), deque[Future[Scored]]()

    def count(scored: Scored) -> None:
        tally.count(scored)
        told(tally)

    with (
        tempfile.TemporaryDirectory() as spool,
        ProcessPoolExecutor(processes, context, _open, (job, parts, dict(os.environ))) as pool,
    ):
        try:
            for chunk in chunks:
                if chunk.name in done:
                    count(Scored(chunk.place, chunk.table.num_rows, chunk.share, chunk.groups, there=True))
                    continue
                if len(under_way) == WAITING * processes:
                    count(under_way.popleft().result())
                under_way.append(pool.submit(_score, replace(chunk, table=_put(chunk, Path(spool)))))
            while under_way:
                count(under_way.popleft().result())
        except BrokenProcessPool as failure:
            raise CommandError(
                "a process that scores ended, as for want of memory; what is written stays, and --resume goes on"
            ) from failure
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tally


_scorer: Scorer | BatonError
_parts: Parts


def _open(job: Job, parts: Parts, environment: dict[str, str]) -> None:
    """Make this process ready to score, by the command's settings; it ends when that does, whatever that ends of."""
    global _scorer, _parts  # noqa: PLW0603 - the processes of a pool have nothing else to keep things in
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_out_pandas()
    os.environ.clear()
    os.environ.update(environment)  # the processes are forked from one that may be older
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    _parts = parts
    try:
        _scorer = Scorer(job)
    except BatonError as failure:
        _scorer = failure  # for who gives the first chunk: the pool would only say that a process ended


def _end_with_the_command() -> None:
    command: Any = multiprocessing.parent_process()
    wait([command.sentinel])
    os._exit(1)


def _put(chunk: Chunk, spool: Path) -> Path:
    """Write the table of a chunk to a file, and return that."""
    file = spool / chunk.name
    with import_arrow("ipc").new_file(str(file), chunk.table.schema) as writer:
        writer.write_table(chunk.table)
    return file


def _score(chunk: Chunk) -> Scored:
    """Score a chunk, whose table is in a file."""
    with import_arrow().OSFile(str(chunk.table)) as file:
        table = import_arrow("ipc").open_file(file).read_all()
    chunk.table.unlink()
    if isinstance(_scorer, BatonError):
        raise CommandError(str(_scorer))
    return _scorer.put(replace(chunk, table=table), _parts)
