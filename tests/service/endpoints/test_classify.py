"""POST /v1/classify with texts, values and rows, through a real server; audio has tests of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from tiny_sequences import KINDS, run

CLOSE = 1e-5
SERIES = [[0.5, -1, 2, 0.25, 3], [1.5], [-2, 4, 1, 1, 2, 2, 3, 3, 9]]


def classify(server: Server, model: str, *items: dict, **more: object) -> list[dict]:
    return server.post("/v1/classify", {"model": model, "items": items, **more}).json()["results"]


def scores_of(result: dict) -> list[float]:
    return [result["scores"][kind] for kind in KINDS]


def framed(values: list[float]) -> np.ndarray:
    return np.array([*values, *[0] * (-len(values) % 4)], np.float32).reshape(-1, 4)


def test_an_answer_has_the_documented_members(sequence_server: Server) -> None:
    body = {"model": "listener", "items": [{"values": [1, 2, 3, 4, 5]}, {"id": "b", "values": [1]}], "scores": "all"}
    answer = sequence_server.post("/v1/classify", body)
    assert answer.status_code == 200
    assert (answer.json()["model"], answer.json()["summary"]) == ("listener", {"ok": 2, "failed": 0})
    first, second = answer.json()["results"]
    assert [*first] == ["index", "id", "label", "score", "scores", "steps"]
    assert (first["steps"], second["steps"], second["id"]) == (2, 1, "b")
    assert first["score"] == max(first["scores"].values()) == first["scores"][first["label"]]


@pytest.mark.parametrize("model", ["listener", "listener-live"])
def test_a_signal_is_labelled_as_the_graph_does(sequence_server: Server, sequence_models: Path, model: str) -> None:
    """Of a model that gives scores after each step the last step's are the answer."""
    together = classify(sequence_server, model, *({"values": values} for values in SERIES), scores="all")
    for values, result in zip(SERIES, together, strict=True):
        made = run(sequence_models, model, x=framed(values))
        assert scores_of(result) == pytest.approx(made.reshape(-1, len(KINDS))[-1].tolist(), abs=CLOSE)
        (alone,) = classify(sequence_server, model, {"values": values}, scores="all")
        assert scores_of(alone) == pytest.approx(scores_of(result), abs=CLOSE)


def test_rows_are_labelled_as_the_graph_does(sequence_server: Server, sequence_models: Path) -> None:
    rows = [[1, 2], [0.5, -3], [2, 2]]
    (result,) = classify(sequence_server, "rows-kind", {"inputs": rows}, scores="all")
    made = run(sequence_models, "rows-kind", x=np.array(rows, np.float32))
    assert (scores_of(result), result["steps"]) == (pytest.approx(made.tolist(), abs=CLOSE), 3)


def test_a_text_is_labelled_as_v1_sentiment_does(sequence_server: Server) -> None:
    text = "a good xyzzy " * 7
    (result,) = classify(sequence_server, "sentiment", {"text": text}, scores="all")
    (due,) = sequence_server.post("/v1/sentiment", {"inputs": [text], "scores": "all"}).json()["results"]
    assert due.pop("polarity") is not None
    assert {**result, "scores": pytest.approx(due["scores"], abs=CLOSE)} == {**due, "steps": 16, "id": None}
    assert result["truncated"]


def test_a_long_text_is_refused_where_that_is_asked_for(sequence_server: Server) -> None:
    (result,) = classify(sequence_server, "sentiment", {"text": "good " * 17}, truncate="error")
    assert (result["error"]["code"], result["error"]["field"]) == ("item_too_large", "items[0].text")


@pytest.mark.parametrize(
    ("model", "item", "code", "field"),
    [
        ("listener", {}, "invalid_request", "items[0].values"),
        ("listener", {"text": "good"}, "invalid_request", "items[0].text"),
        ("listener", {"inputs": [[1, 2, 3, 4]]}, "invalid_request", "items[0].inputs"),
        ("listener", {"values": [1], "audio": ""}, "invalid_request", "items[0].values"),
        ("listener", {"values": []}, "empty_input", "items[0].values"),
        ("listener", {"values": [1] * (4 * 4096 + 1)}, "item_too_large", "items[0].values"),
        ("rows-kind", {"inputs": [[1, 2], [1]]}, "ragged_inputs", "items[0].inputs[1]"),
        ("rows-kind", {"audio": "UklGRg=="}, "invalid_request", "items[0].audio"),
        ("sentiment", {"text": ""}, "empty_input", "items[0].text"),
        ("sentiment", {"values": [1]}, "invalid_request", "items[0].values"),
        ("sentiment", {"text": "x" * 100_001}, "item_too_large", "items[0].text"),
        ("sentiment", {"text": 5}, "invalid_request", "items[0].text"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    sequence_server: Server, model: str, item: dict, code: str, field: str
) -> None:
    (result,) = classify(sequence_server, model, item)
    assert (result["error"]["code"], result["error"]["field"]) == (code, field)


def test_a_model_without_labels_is_refused(sequence_server: Server) -> None:
    answer = sequence_server.post("/v1/classify", {"model": "cleaner", "items": [{"values": [1]}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "wrong_task")
    assert answer.json()["error"]["message"].endswith(
        "for 'classify' there is listener, listener-live, rows-kind, sentiment"
    )


def test_an_item_with_nothing_is_told_what_the_call_takes(sequence_server: Server) -> None:
    (result,) = classify(sequence_server, "listener", {})
    assert result["error"]["message"] == "nothing given; this call takes audio or values for model 'listener'"
