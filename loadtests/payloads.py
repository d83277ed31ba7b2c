"""Request bodies from real data, each pool a list of distinct bodies and a file with one JSON body a line.

It knows the data sets' formats and the service's requests, not how load is made. Every draw has a fixed seed, so two
runs send the same bodies, but for the tokens in step requests, which come from the service under test.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import numpy as np

from loadtests.models import FEATURES, STEP_MODEL, TEXT_MODEL, WORDS, text_of

SEED = 0
BODIES = 256
TEXTS_PER_REQUEST, SERIES_PER_REQUEST, SESSIONS_PER_REQUEST = 32, 16, 16
HORIZON = 13  # what M4 asks of weekly series
EVEN, MIXED = (25, 25), (2, 60)  # the fewest and the most words of a drawn text
T = TypeVar("T")


@dataclass(frozen=True)
class Pool:
    """Bodies for one path; `items` in each, and all of them in order as `content`; `file` holds the bodies.

    With `head_bytes` the bodies are of one size, so many bytes of JSON and then tensors, and stand in `file` one after
    the other; else each is a line of JSON.
    """

    path: str
    items: int
    bodies: list[bytes]
    content: list[Any]
    file: Path
    head_bytes: int = 0


def write_pool(file: Path, path: str, batches: Sequence[list[Any]], field: str, **more: Any) -> Pool:
    """Write one body for each batch of items, which stand in its member `field`."""
    bodies = [json.dumps({**more, field: batch}).encode() for batch in batches]
    file.write_bytes(b"\n".join(bodies) + b"\n")
    return Pool(path, len(batches[0]), bodies, [item for batch in batches for item in batch], file)


def read_texts(data: Path) -> list[str]:
    """Return the test sentences of SST-2, in an order of our own."""
    lines = (data / "sst2" / "test.tsv").read_text().splitlines()[1:]
    return _shuffled([line.split("\t", 1)[1] for line in lines], np.random.default_rng(SEED))


def read_series(data: Path) -> list[list[float]]:
    """Return the M4 weekly series, 80 to 2,597 values each, in an order of our own."""
    with (data / "m4_weekly" / "Weekly-train.csv").open(newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    return _shuffled([[float(cell) for cell in row[1:] if cell] for row in rows], np.random.default_rng(SEED))


def single_texts(folder: Path, data: Path) -> Pool:
    """One sentence a request, every sentence once."""
    batches = [[text] for text in read_texts(data)]
    return write_pool(folder / "texts-1.jsonl", "/v1/sentiment", batches, "inputs")


def tagged_texts(folder: Path, data: Path, model: str, per_request: int) -> Pool:
    batches = _batches(read_texts(data), per_request)
    return write_pool(folder / f"texts-tag-{per_request}.jsonl", "/v1/tag", batches, "inputs", model=model)


def many_texts(folder: Path, data: Path) -> Pool:
    batches = _batches(read_texts(data), TEXTS_PER_REQUEST)
    return write_pool(folder / "texts-32.jsonl", "/v1/sentiment", batches, "inputs")


def drawn_texts(folder: Path, words: tuple[int, int], model: str = TEXT_MODEL) -> Pool:
    """One text a request, of the fewest to the most `words` that the BiLSTM knows, each number as likely as another."""
    rng = np.random.default_rng(SEED)
    lengths = rng.integers(words[0], words[1], size=BODIES, endpoint=True)
    batches = [[text_of(rng.integers(1, WORDS, size).tolist())] for size in lengths]
    return write_pool(folder / f"{model}-{words[1]}.jsonl", "/v1/sentiment", batches, "inputs", model=model)


def drawn_ids(folder: Path, model: str = TEXT_MODEL) -> Pool:
    """Tensors of rows of ids that the BiLSTM knows, as bytes behind the JSON of an inference request."""
    rng, words, rows = np.random.default_rng(SEED), EVEN[0], TEXTS_PER_REQUEST
    content = rng.integers(1, WORDS, (BODIES * rows, words), np.int32)
    tensor = {"name": "ids", "shape": [rows, words], "datatype": "INT32"}
    size = {"binary_data_size": rows * words * content.itemsize}
    scores = {"name": "scores", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [{**tensor, "parameters": size}], "outputs": [scores]}).encode()
    bodies = [head + batch.tobytes() for batch in np.split(content, BODIES)]
    file = folder / f"{model}-ids.bin"
    file.write_bytes(b"".join(bodies))
    return Pool(f"/v2/models/{model}/infer", rows, bodies, [*content], file, len(head))


def many_series(folder: Path, data: Path) -> Pool:
    batches = _batches([{"values": values} for values in read_series(data)], SERIES_PER_REQUEST)
    return write_pool(folder / "series-16.jsonl", "/v1/forecast", batches, "series", horizon=HORIZON)


def sessions(folder: Path, url: str, per_request: int, *, hold: Literal["client", "server"] = "client") -> Pool:
    """Steps of sessions that are under way at the service at `url`: each item carries the token of its first step.

    With `hold` "server" the token refers to a state that the service holds.
    """
    rng = np.random.default_rng(SEED)
    batches = []
    with httpx.Client(base_url=url) as client:
        for _ in range(BODIES):
            begin = {"model": STEP_MODEL, "hold": hold, "items": [{"inputs": _step(rng)} for _ in range(per_request)]}
            results = client.post("/v1/step", json=begin).raise_for_status().json()["results"]
            batches.append([{"state": result["state"], "inputs": _step(rng)} for result in results])
    file = folder / f"sessions-{hold}-{per_request}.jsonl"
    return write_pool(file, "/v1/step", batches, "items", model=STEP_MODEL)


def _step(rng: np.random.Generator) -> list[list[float]]:
    rows: list[list[float]] = rng.normal(size=(1, FEATURES)).round(4).tolist()
    return rows


def _batches(items: list[T], size: int) -> list[list[T]]:
    """Return `BODIES` batches; every pass over the items is in another order."""
    endless = _passes(items)
    return [[next(endless) for _ in range(size)] for _ in range(BODIES)]


def _passes(items: list[T]) -> Iterator[T]:
    rng = np.random.default_rng(SEED)
    while True:
        yield from _shuffled(items, rng)


def _shuffled(items: list[T], rng: np.random.Generator) -> list[T]:
    return [items[index] for index in rng.permutation(len(items))]
