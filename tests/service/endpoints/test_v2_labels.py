"""Models that tag, transform and classify over the Open Inference Protocol, through tritonclient."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Server
from tiny import WORDS
from tiny_sequences import KINDS, TAGS, WIDTH
from triton_clients import connect, given, infer, outputs, texts

CLOSE = 1e-5
TEXTS = ["a good film", "not good !", "Goooood"]


def tagged(server: Server, model: str, text: str) -> list[list[float]]:
    body = {"model": model, "inputs": [text], "scores": "all"}
    (result,) = server.post("/v1/tag", body).json()["results"]
    return [[token["scores"][tag] for tag in TAGS] for token in result["tokens"]]


def test_metadata_asks_for_texts_and_never_for_the_ids_of_characters(sequence_server: Server) -> None:
    with connect(sequence_server.url) as client:
        facts = client.get_model_metadata("tagger")
    assert facts["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert facts["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, -1, len(TAGS)]}]
    assert facts["properties"]["optional_inputs"].startswith(f"ids INT32 [-1, -1, {1 + WIDTH}]")


@pytest.mark.parametrize("model", ["tagger", "tagger-live"])
def test_texts_get_the_scores_that_v1_tag_gives(sequence_server: Server, model: str) -> None:
    made = outputs(infer(sequence_server.url, model, [given("text", texts(*TEXTS))]))
    assert made["lengths"].tolist() == [3, 3, 1]
    for text, scores, length in zip(TEXTS, made["scores"], made["lengths"], strict=True):
        assert scores[:length] == pytest.approx(np.array(tagged(sequence_server, model, text)), abs=CLOSE)


def test_without_a_text_a_step_is_the_token_and_its_characters(sequence_server: Server) -> None:
    (word,) = outputs(infer(sequence_server.url, "tagger", [given("text", texts("good"))]))["scores"]
    for spelled, same in (([6, 10, 10, 4, 0], True), ([6, 10, 10, 3, 0], False)):
        ids = np.array([[[WORDS.index("good"), *spelled]]], np.int32)
        (scores,) = outputs(infer(sequence_server.url, "tagger", [given("ids", ids)]))["scores"]
        assert np.allclose(scores, word, atol=CLOSE) is same


@pytest.mark.parametrize(("model", "features"), [("cleaner", ()), ("cleaner-frames", (4,))])
def test_signals_are_frames_and_give_what_v1_transform_does(
    sequence_server: Server, model: str, features: tuple[int, ...]
) -> None:
    frames = np.random.default_rng(1).normal(size=(2, 3, *features)).astype(np.float32)
    made = outputs(infer(sequence_server.url, model, [given("x", frames)]))["clean"]
    items = [{"values": row.ravel().tolist()} for row in frames]
    results = sequence_server.post("/v1/transform", {"model": model, "items": items}).json()["results"]
    assert made.reshape(2, -1) == pytest.approx(np.array([result["outputs"] for result in results]), abs=CLOSE)


def test_frames_are_labelled_as_v1_classify_does(sequence_server: Server) -> None:
    frames = np.random.default_rng(2).normal(size=(2, 5, 4)).astype(np.float32)
    whole = outputs(infer(sequence_server.url, "listener", [given("x", frames)]))["scores"]
    by_step = outputs(infer(sequence_server.url, "listener-live", [given("x", frames)]))["scores"]
    items = [{"values": row.ravel().tolist()} for row in frames]
    for model, made in (("listener", whole), ("listener-live", by_step[:, -1])):
        body = {"model": model, "items": items, "scores": "all"}
        results = sequence_server.post("/v1/classify", body).json()["results"]
        due = [[result["scores"][kind] for kind in KINDS] for result in results]
        assert made == pytest.approx(np.array(due), abs=CLOSE)


def test_a_live_model_goes_on_as_a_sequence(sequence_server: Server) -> None:
    frames = np.random.default_rng(3).normal(size=(1, 6, 4)).astype(np.float32)
    whole = outputs(infer(sequence_server.url, "cleaner-live", [given("x", frames)]))["clean"]
    chunks = [
        outputs(
            infer(
                sequence_server.url,
                "cleaner-live",
                [given("x", frames[:, part])],
                sequence_id=11,
                sequence_start=part.start == 0,
                sequence_end=part.stop == 6,
            )
        )["clean"]
        for part in (slice(0, 2), slice(2, 3), slice(3, 6))
    ]
    assert np.concatenate(chunks, axis=1) == pytest.approx(whole, abs=CLOSE)
