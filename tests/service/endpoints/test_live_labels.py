"""Models that tag, transform and classify in one direction: steps and streams in chunks give what their calls do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Server
from streams import CLOSE, Stream
from tiny_sequences import KINDS, TAGS

Scores = list[list[float]]
Chunks = list[dict]
TEXT, PARTS = "a good film e !", ["a good", "film", "e !"]
FRAMES = np.random.default_rng(5).normal(size=(6, 4)).astype(np.float32)
TEXTS: Chunks = [{"text": part} for part in PARTS]
ROWS: Chunks = [{"inputs": FRAMES[start:end].tolist()} for start, end in ((0, 1), (1, 4), (4, 6))]


def tagged(server: Server, model: str) -> Scores:
    body = {"model": model, "inputs": [TEXT], "scores": "all"}
    (result,) = server.post("/v1/tag", body).json()["results"]
    return [[token["scores"][tag] for tag in TAGS] for token in result["tokens"]]


def transformed(server: Server, model: str) -> Scores:
    body = {"model": model, "items": [{"values": FRAMES.ravel().tolist()}]}
    (result,) = server.post("/v1/transform", body).json()["results"]
    return np.reshape(result["outputs"], FRAMES.shape).tolist()


def classified(server: Server, model: str) -> Scores:
    body = {"model": model, "items": [{"values": FRAMES.ravel().tolist()}], "scores": "all"}
    (result,) = server.post("/v1/classify", body).json()["results"]
    return [[result["scores"][kind] for kind in KINDS]]


def stepped(server: Server, model: str, output: str, chunks: Chunks) -> Scores:
    made: Scores = []
    carried: dict = {}
    for chunk in chunks:
        body = {"model": model, "items": [{**chunk, **carried}], "return": "all"}
        (result,) = server.post("/v1/step", body).json()["results"]
        carried = {"state": result["state"]}
        made += result["outputs"][output]
    return made


def streamed(server: Server, model: str, output: str, chunks: Chunks) -> Scores:
    with Stream(server, model, **{"return": "all"}) as stream:
        return [row for chunk in chunks for row in stream.ask(**chunk)["outputs"][output]]


@pytest.mark.parametrize("in_chunks", [stepped, streamed])
@pytest.mark.parametrize(
    ("model", "output", "chunks", "at_once"),
    [
        ("tagger-live", "scores", TEXTS, tagged),
        ("speller-live", "scores", TEXTS, tagged),
        ("cleaner-live", "clean", ROWS, transformed),
        ("listener-live", "scores", ROWS, classified),
    ],
)
def test_chunks_give_what_the_model_s_own_call_gives_of_the_whole(
    sequence_server: Server,
    model: str,
    output: str,
    chunks: Chunks,
    at_once: Callable[[Server, str], Scores],
    in_chunks: Callable[[Server, str, str, Chunks], Scores],
) -> None:
    """Of a classifier the scores after the last step are compared: they are its answer."""
    whole, made = at_once(sequence_server, model), in_chunks(sequence_server, model, output, chunks)
    np.testing.assert_allclose(made[-len(whole) :], whole, atol=CLOSE)
    assert len(made) == (len(FRAMES) if chunks is ROWS else len(TEXT.split()))
