"""POST /v1/transform through a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Server, ServerFactory
from tiny_sequences import run

CLOSE = 1e-5
SERIES = [[0.5, -1, 2, 0.25, 3], [1.5], [-2, 4, 1]]
SIGNALS = ["cleaner", "cleaner-frames", "cleaner-live"]


def transform(server: Server, model: str, *items: dict) -> list[dict]:
    return server.post("/v1/transform", {"model": model, "items": items}).json()["results"]


def framed(values: list[float], samples: int) -> np.ndarray:
    filled = [*values, *[0] * (-len(values) % samples)]
    return np.array(filled, np.float32).reshape(-1, samples)


def test_an_answer_has_the_documented_members(sequence_server: Server) -> None:
    answer = sequence_server.post("/v1/transform", {"model": "cleaner", "items": [{"id": "a", "values": [1, 2, 3]}]})
    body = answer.json()
    assert (answer.status_code, body["model"], body["version"]) == (200, "cleaner", "1")
    assert (body["summary"], body["usage"]["steps"]) == ({"ok": 1, "failed": 0}, 3)
    assert [*body["results"][0]] == ["index", "id", "outputs"]
    assert set(body["timing_ms"]) == {"queue", "run", "total"}


def test_a_signal_of_single_samples_is_what_the_graph_makes_of_it(
    sequence_server: Server, sequence_models: Path
) -> None:
    for values, result in zip(
        SERIES, transform(sequence_server, "cleaner", *({"values": v} for v in SERIES)), strict=True
    ):
        made = run(sequence_models, "cleaner", x=np.array(values, np.float32))
        assert result["outputs"] == pytest.approx(made.tolist(), abs=CLOSE)


@pytest.mark.parametrize("model", ["cleaner-frames", "cleaner-live"])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_zeros_fill_the_last_frame_and_the_answer_has_as_many_samples_as_came(
    sequence_server: Server, sequence_models: Path, model: str, count: int
) -> None:
    values = np.random.default_rng(count).normal(size=count).tolist()
    (result,) = transform(sequence_server, model, {"values": values})
    made = run(sequence_models, model, x=framed(values, 4))
    assert result["outputs"] == pytest.approx(made.ravel()[:count].tolist(), abs=CLOSE)


def test_rows_of_features_give_rows(sequence_server: Server, sequence_models: Path) -> None:
    rows = [[1, 2, 3], [0.5, -1, 2]]
    (result,) = transform(sequence_server, "rows", {"inputs": rows})
    made = run(sequence_models, "rows", x=np.array(rows, np.float32))
    assert np.array(result["outputs"]) == pytest.approx(made, abs=CLOSE)


@pytest.mark.parametrize("model", SIGNALS)
def test_a_batch_answers_as_its_series_do_alone(sequence_server: Server, model: str) -> None:
    together = transform(sequence_server, model, *({"values": values} for values in SERIES))
    for values, result in zip(SERIES, together, strict=True):
        (alone,) = transform(sequence_server, model, {"values": values})
        assert alone["outputs"] == pytest.approx(result["outputs"], abs=CLOSE)
        assert len(result["outputs"]) == len(values)


@pytest.mark.parametrize(
    ("model", "item", "code", "field"),
    [
        ("cleaner", {}, "invalid_request", "items[1].values"),
        ("cleaner", {"values": [], "id": "x"}, "empty_input", "items[1].values"),
        ("cleaner", {"values": [1, None]}, "invalid_request", "items[1].values[1]"),
        ("cleaner", {"values": [1, 1e39]}, "not_finite", "items[1].values"),
        ("cleaner", {"values": [1], "inputs": [[1]]}, "invalid_request", "items[1].inputs"),
        ("cleaner", {"inputs": [[1]]}, "invalid_request", "items[1].inputs"),
        ("cleaner-frames", {"inputs": [[1, 2, 3, 4]]}, "invalid_request", "items[1].inputs"),
        ("cleaner", {"text": "good"}, "invalid_request", "items[1].text"),
        ("cleaner", {"values": [0] * 4097}, "item_too_large", "items[1].values"),
        ("cleaner-live", {"values": [0] * (4 * 4096 + 1)}, "item_too_large", "items[1].values"),
    ],
)
def test_a_bad_series_fails_alone(sequence_server: Server, model: str, item: dict, code: str, field: str) -> None:
    good = {"values": [1, 2]}
    body = sequence_server.post("/v1/transform", {"model": model, "items": [good, item, good]}).json()
    assert body["summary"] == {"ok": 2, "failed": 1}
    assert (body["results"][1]["error"]["code"], body["results"][1]["error"]["field"]) == (code, field)
    assert body["results"][0]["outputs"] == pytest.approx(body["results"][2]["outputs"], abs=CLOSE)


@pytest.mark.parametrize(
    ("item", "code", "field"),
    [
        ({"values": [1, 2, 3]}, "invalid_request", "items[0].values"),
        ({"inputs": [[1, 2, 3], [1, 2]]}, "ragged_inputs", "items[0].inputs[1]"),
        ({"inputs": []}, "empty_input", "items[0].inputs"),
        ({"inputs": [[1, 2, 3]] * 4097}, "item_too_large", "items[0].inputs"),
    ],
)
def test_rows_that_do_not_fit_are_refused(sequence_server: Server, item: dict, code: str, field: str) -> None:
    (result,) = transform(sequence_server, "rows", item)
    assert (result["error"]["code"], result["error"]["field"]) == (code, field)


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_a_number_that_is_not_finite_is_refused_with_its_place(sequence_server: Server, number: str) -> None:
    body = f'{{"model": "cleaner", "items": [{{"values": [1, 2, {number}]}}]}}'
    answer = sequence_server.client.post(
        "/v1/transform", content=body, headers={"content-type": "application/json"}
    ).json()
    assert (answer["error"]["code"], answer["error"]["field"]) == ("not_finite", "items[0].values[2]")


def test_the_limit_of_steps_bounds_the_samples_of_an_item(
    sequence_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """A frame is a step, so that more samples fit where a frame has more."""
    server = start_server(sequence_models, tmp_path, BATON_MAX_STEPS="2")
    for model, most in (("cleaner", 2), ("cleaner-frames", 8)):
        good, bad = transform(server, model, {"values": [1] * most}, {"values": [1] * (most + 1)})
        assert len(good["outputs"]) == most
        assert (bad["error"]["code"], bad["error"]["limit"]) == ("item_too_large", most)


def test_a_model_of_another_task_is_refused(sequence_server: Server) -> None:
    answer = sequence_server.post("/v1/transform", {"model": "forecast", "items": [{"values": [1]}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "wrong_task")
