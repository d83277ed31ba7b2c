"""Load of one text a request, and the check before it that a server answers as ONNX Runtime does.

It knows rows of ids and wrk, not servers. Every draw has a fixed seed: each server gets the same rows in one order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtests.closedloop import Load, run_wrk
from loadtests.models import WORDS
from loadtests.payloads import Pool
from loadtests.peers.apps.reader import Reader
from loadtests.peers.environments import PeerError
from loadtests.serving import Running

Ids = list[int]
SHORTEST, LONGEST = 2, 60
ROWS, CONNECTIONS = 256, 64
COMPARED, MAX_TEXT_CHARS = 128, 300
MOST_APART = 1e-5  # a batch rounds differently from a single row, and some answers have six digits


@dataclass(frozen=True)
class Form:
    """How a server is asked: where, the body that carries a row of ids, and the probabilities in its answer."""

    path: str
    encode: Callable[[Ids], Any]
    decode: Callable[[Any], Sequence[float]]

    def ask(self, url: str, row: Ids, *, client: Any = httpx) -> httpx.Response:
        answer: httpx.Response = client.post(f"{url}{self.path}", json=self.encode(row), timeout=30)
        return answer


def draw_rows(shortest: int, longest: int) -> list[Ids]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(shortest, longest, endpoint=True, size=ROWS)
    return [rng.integers(1, WORDS, size=length).tolist() for length in lengths]


def load_texts(server: Running, form: Form, rows: list[Ids], folder: Path, *, warm_s: float, seconds: float) -> Load:
    """Load `server` for `warm_s` and then, measured, for `seconds`."""
    bodies = [json.dumps(form.encode(row)).encode() for row in rows]
    pool = Pool(form.path, 1, bodies, rows, folder / "bodies.jsonl")
    pool.file.write_bytes(b"\n".join(bodies) + b"\n")
    run_wrk(server, pool, connections=CONNECTIONS, seconds=warm_s)
    return run_wrk(server, pool, connections=CONNECTIONS, seconds=seconds)


def check_answers(server: Running, form: Form, rows: list[Ids], reader: Reader) -> None:
    """Ask `CONNECTIONS` at a time, so that rows share batches.

    Raises: PeerError for an answer that is not the graph's.
    """
    limits = httpx.Limits(max_connections=CONNECTIONS)
    with httpx.Client(limits=limits) as client, ThreadPoolExecutor(CONNECTIONS) as pool:
        waiting = [(row, pool.submit(form.ask, server.url, row, client=client)) for row in rows[:COMPARED]]
        for row, answer in waiting:
            try:
                got = np.array(form.decode(answer.result().raise_for_status().json()))
            except httpx.HTTPStatusError as refused:
                status, text = refused.response.status_code, refused.response.text[:MAX_TEXT_CHARS]
                raise PeerError(f"{len(row)} tokens get {status}: {text}") from None
            except httpx.TransportError as failure:
                raise PeerError(f"{len(row)} tokens get no answer: {failure}") from None
            (wanted,) = reader.read([row])
            if got.shape != wanted.shape or not np.abs(got - wanted).max() < MOST_APART:
                raise PeerError(f"{len(row)} tokens get {got.tolist()}, where the graph gives {wanted.tolist()}")
