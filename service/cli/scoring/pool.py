"""Processes that score chunks and write their parts, one engine for each core.

It knows chunks and parts, not what is scored. Invariant: no more chunks are in memory than are scored and wait to be,
two for each process; a chunk whose part is there is not scored again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from service.cli.scoring.inputs import Chunk
from service.cli.scoring.parts import Parts
from service.cli.scoring.scorer import Job, Scorer
from service.errors import CommandError

WAITING = 2  # chunks for each process: one is scored, one is at hand
PRELOADED = ("service.cli.command", "service.cli.scoring.pool", "service.app", "pyarrow.parquet")


@dataclass
class Tally:
    """What came of a job so far: rows that were scored, or whose part was there; `failed` items; a few of those."""

    rows: int = 0
    there: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scored:
    """What came of a chunk: its rows, how many of its items failed, and the first that did."""

    rows: int
    failed: int
    example: str | None


def score_chunks(
    chunks: Iterator[Chunk],
    done: set[str],
    job: Job,
    parts: Parts,
    processes: int,
    told: Callable[[Chunk, Tally], object],
) -> Tally:
    """Score the chunks that are not `done`, and write their parts; `told` hears of each that is.

    Raises: CommandError where a process ends, and with `job.strict` where an item fails.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    tally, under_way = Tally(), deque[tuple[Chunk, Future[Scored]]]()

    def settle() -> None:
        chunk, scored = under_way.popleft()
        result = scored.result()
        tally.rows += result.rows
        tally.failed += result.failed
        if result.example is not None and len(tally.examples) < 3:
            tally.examples.append(result.example)
        told(chunk, tally)

    with ProcessPoolExecutor(processes, context, _open, (job, parts, dict(os.environ))) as pool:
        try:
            for chunk in chunks:
                if chunk.name in done:
                    tally.there += chunk.table.num_rows
                    told(chunk, tally)
                    continue
                if len(under_way) == WAITING * processes:
                    settle()
                under_way.append((chunk, pool.submit(_score, chunk)))
            while under_way:
                settle()
        except BrokenProcessPool as failure:
            raise CommandError(
                "a process that scores ended, as for want of memory; what is written stays, and --resume goes on"
            ) from failure
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tally


_scorer: Scorer
_parts: Parts


def _open(job: Job, parts: Parts, environment: dict[str, str]) -> None:
    """Make this process ready to score, by the command's settings; it ends when that does, whatever that ends of."""
    global _scorer, _parts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)  # the processes are forked from one that may be older
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    _scorer, _parts = Scorer(job), parts


def _end_with_the_command() -> None:
    command: Any = multiprocessing.parent_process()
    wait([command.sentinel])
    os._exit(1)


def _score(chunk: Chunk) -> Scored:
    try:
        results, failed = _scorer.score(chunk.table, chunk.first)
    except CommandError as failure:
        raise CommandError(f"{chunk.place}, {failure}") from None
    _parts.write(chunk.name, results)
    return Scored(chunk.table.num_rows, len(failed), f"{chunk.place}, {failed[0]}" if failed else None)
