"""POST /v2/models/{name}/infer through a real server: every task as tensors, in JSON and in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_forms
import tiny_kinds
from conftest import Server
from oip import arrays, binary, infer, pack, post, tensor

CLOSE = 1e-5  # batching changes float32 sums only in their order
TEXTS = ["good", "a very good film !", "not good", "bad bad film"]
IDS = [[3], [2, 7, 3, 5, 8], [6, 3], [4, 4, 5]]  # the same, by the tiny vocabulary
STEPS = np.random.default_rng(1).normal(size=(4, 6, 2)).astype(np.float32)


def padded(rows: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, rows))
    return [row + [0] * (longest - len(row)) for row in rows]


def ids(rows: list[list[int]]) -> dict[str, Any]:
    return tensor("ids", "INT32", padded(rows))


def lengths(rows: list[list[int]]) -> dict[str, Any]:
    return tensor("lengths", "INT32", [len(row) for row in rows])


def steps(values: np.ndarray) -> dict[str, Any]:
    return tensor("x", "FP32", values.tolist())


def scores(server: Server, texts: list[str]) -> np.ndarray:
    """Return what /v1 says of texts."""
    answer = server.post("/v1/sentiment", {"inputs": texts, "scores": "all"}).json()
    return np.array([[*result["scores"].values()] for result in answer["results"]])


def test_texts_and_ids_get_the_scores_that_v1_gives(server: Server) -> None:
    by_text = infer(server, "sentiment", tensor("text", "BYTES", TEXTS), id="mine")
    assert (by_text["model_name"], by_text["model_version"], by_text["id"]) == ("sentiment", "1", "mine")
    wanted = scores(server, TEXTS)
    np.testing.assert_allclose(arrays(by_text)["scores"], wanted, atol=CLOSE)
    in_column = infer(server, "sentiment", tensor("text", "BYTES", [[text] for text in TEXTS]))
    np.testing.assert_allclose(arrays(in_column)["scores"], wanted, atol=CLOSE)
    by_ids = infer(server, "sentiment", ids(IDS), lengths(IDS))
    np.testing.assert_allclose(arrays(by_ids)["scores"], wanted, atol=CLOSE)


def test_a_ragged_batch_answers_as_its_rows_do_alone(server: Server) -> None:
    together = arrays(infer(server, "sentiment", ids(IDS), lengths(IDS)))["scores"]
    for row, made in zip(IDS, together, strict=True):
        alone = arrays(infer(server, "sentiment", tensor("ids", "INT32", [row])))["scores"]
        np.testing.assert_allclose(alone[0], made, atol=CLOSE)


def test_outputs_by_step_end_in_zeros_where_a_row_is_shorter(server: Server) -> None:
    counts = [1, 6, 3, 4]
    made = arrays(infer(server, "stepper", steps(STEPS), tensor("lengths", "INT64", counts)))["y"]
    assert made.shape == (4, 6, 3)
    for row, count, outputs in zip(STEPS, counts, made, strict=True):
        alone = arrays(infer(server, "stepper", steps(row[np.newaxis, :count])))["y"]
        np.testing.assert_allclose(alone[0], outputs[:count], atol=CLOSE)
        assert not outputs[count:].any()


def test_a_forecast_has_the_numbers_that_v1_gives(server: Server) -> None:
    series = [[0.5, 1.0, -0.25, 2.0], [3.0, 2.0, 1.0, 0.0]]
    made = arrays(infer(server, "forecast", tensor("values", "FP32", series)))
    body = {"horizon": 4, "series": [{"values": values} for values in series]}
    for index, result in enumerate(server.post("/v1/forecast", body).json()["results"]):
        np.testing.assert_allclose(made["mean"][index], result["mean"], atol=CLOSE)
        by_level = np.array([*result["quantiles"].values()]).T
        np.testing.assert_allclose(made["quantiles"][index], by_level, atol=CLOSE)


def test_bytes_behind_the_json_are_the_same_tensors(server: Server) -> None:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [4, 6, 2], "parameters": {"binary_data_size": STEPS.nbytes}},
        {"name": "lengths", "datatype": "INT32", "shape": [4], "parameters": {"binary_data_size": 16}},
    ]
    counts = [1, 6, 3, 4]
    tail = pack("FP32", STEPS) + pack("INT32", counts)
    body = {"inputs": inputs, "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    made = binary(post(server, "stepper", body, tail))["y"]
    in_json = arrays(infer(server, "stepper", steps(STEPS), tensor("lengths", "INT32", counts)))["y"]
    np.testing.assert_allclose(made, in_json, atol=CLOSE)


@pytest.mark.parametrize("wanted", [True, False])
def test_an_output_s_own_form_counts_more_than_the_request_s(server: Server, wanted: bool) -> None:
    body = {
        "inputs": [tensor("text", "BYTES", ["good"])],
        "outputs": [{"name": "scores", "parameters": {"binary_data": wanted}}],
        "parameters": {"binary_data_output": not wanted},
    }
    answer = post(server, "sentiment", body)
    assert ("inference-header-content-length" in answer.headers) == wanted
    made = binary(answer) if wanted else arrays(answer.json())
    np.testing.assert_allclose(made["scores"], scores(server, ["good"]), atol=CLOSE)


def test_texts_travel_as_bytes(server: Server) -> None:
    tail = pack("BYTES", ["good", "naïve film"])
    given = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": len(tail)}}
    made = arrays(post(server, "sentiment", {"inputs": [given]}, tail).json())["scores"]
    np.testing.assert_allclose(made, scores(server, ["good", "naïve film"]), atol=CLOSE)


def test_flat_and_nested_elements_are_the_same_tensor(server: Server) -> None:
    flat = {"name": "ids", "datatype": "INT32", "shape": [2, 2], "data": [3, 5, 4, 5]}
    nested = {**flat, "data": [[3, 5], [4, 5]]}
    assert infer(server, "sentiment", flat)["outputs"] == infer(server, "sentiment", nested)["outputs"]


def test_classes_are_named_with_their_values_the_largest_first(server: Server) -> None:
    wanted = [{"name": "scores", "parameters": {"classification": 5}}]
    (output,) = infer(server, "sentiment", tensor("text", "BYTES", TEXTS), outputs=wanted)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [4, 2])
    for row, values in zip(np.reshape(output["data"], (4, 2)), scores(server, TEXTS), strict=True):
        order = np.argsort(-values)
        assert row.tolist() == [f"{values[i]:f}:{i}:{tiny.LABELS[i]}" for i in order]


def test_a_text_that_is_cut_is_told(server: Server) -> None:
    answer = infer(server, "sentiment", tensor("text", "BYTES", ["good", "good " * 17]))
    assert answer["parameters"] == {"truncated_rows": "1"}
    assert "parameters" not in infer(server, "sentiment", tensor("text", "BYTES", ["good"]))


def test_answers_of_both_kinds_of_requests_never_mix(server: Server) -> None:
    wanted = scores(server, TEXTS)

    def ask(number: int) -> np.ndarray:
        text = TEXTS[number % 4]
        if number % 2:
            return scores(server, [text])
        return arrays(infer(server, "sentiment", tensor("text", "BYTES", [text])))["scores"]

    with ThreadPoolExecutor(32) as clients:
        for number, made in enumerate(clients.map(ask, range(200))):
            np.testing.assert_allclose(made[0], wanted[number % 4], atol=CLOSE)


# States


def test_a_row_goes_on_from_its_token_as_if_it_had_never_stopped(server: Server) -> None:
    whole = arrays(infer(server, "stepper", steps(STEPS[:1])))["y"]
    parameters: dict[str, Any] = {}
    for start, end in pairwise([0, 1, 3, 6]):
        answer = infer(server, "stepper", steps(STEPS[:1, start:end]), parameters=parameters)
        np.testing.assert_allclose(arrays(answer)["y"], whole[:, start:end], atol=CLOSE)
        assert set(answer["parameters"]) == {"state_token"}
        parameters = answer["parameters"]


@pytest.mark.parametrize("in_bytes", [True, False])
def test_a_batch_goes_on_from_its_tokens(server: Server, in_bytes: bool) -> None:
    whole = arrays(infer(server, "stepper", steps(STEPS)))["y"]
    first = arrays(infer(server, "stepper", steps(STEPS[:, :2])))
    tokens = first["state_token"]
    assert tokens.shape == (4,)
    order = [2, 0, 3, 1]
    if in_bytes:
        values, states = pack("FP32", STEPS[order, 2:]), pack("BYTES", tokens[order])
        inputs = [
            {"name": "x", "datatype": "FP32", "shape": [4, 4, 2], "parameters": {"binary_data_size": len(values)}},
            {"name": "state_token", "datatype": "BYTES", "shape": [4], "parameters": {"binary_data_size": len(states)}},
        ]
        body = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        second = binary(post(server, "stepper", body, values + states))
    else:
        second = arrays(
            infer(server, "stepper", steps(STEPS[order, 2:]), tensor("state_token", "BYTES", tokens[order]))
        )
    np.testing.assert_allclose(second["y"], whole[order, 2:], atol=CLOSE)
    assert not {*second["state_token"]} & {*tokens}


def test_tokens_are_those_of_v1(server: Server) -> None:
    (result,) = server.post("/v1/step", {"model": "stepper", "items": [{"inputs": STEPS[0, :2].tolist()}]}).json()[
        "results"
    ]
    given = infer(server, "stepper", steps(STEPS[:1, 2:4]), parameters={"state_token": result["state"]})
    item = {"inputs": STEPS[0, 4:].tolist(), "state": given["parameters"]["state_token"]}
    (last,) = server.post("/v1/step", {"model": "stepper", "items": [item], "return": "all"}).json()["results"]
    whole = arrays(infer(server, "stepper", steps(STEPS[:1])))["y"]
    np.testing.assert_allclose(last["outputs"]["y"], whole[0, 4:], atol=CLOSE)
    assert last["step"] == 6


def test_a_batch_that_names_its_outputs_gets_no_tokens_unasked(server: Server) -> None:
    only = infer(server, "stepper", steps(STEPS), outputs=[{"name": "y"}])
    assert [output["name"] for output in only["outputs"]] == ["y"]
    both = infer(server, "stepper", steps(STEPS), outputs=[{"name": "state_token"}, {"name": "y"}])
    assert [output["name"] for output in both["outputs"]] == ["state_token", "y"]
    one = infer(server, "stepper", steps(STEPS[:1]), outputs=[{"name": "state_token"}])
    assert [output["name"] for output in one["outputs"]] == ["state_token"]


def test_a_text_of_steps_tells_how_many_they_were(server: Server) -> None:
    made = arrays(infer(server, "reader", tensor("text", "BYTES", TEXTS)))
    assert made["lengths"].tolist() == [1, 5, 2, 3]
    assert made["scores"].shape == (4, 5, 2)
    last = infer(
        server, "reader", tensor("text", "BYTES", ["film"]), parameters={"state_token": made["state_token"][0]}
    )
    whole = arrays(infer(server, "reader", tensor("text", "BYTES", ["good film"])))["scores"]
    np.testing.assert_allclose(arrays(last)["scores"][0, 0], whole[0, 1], atol=CLOSE)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A cell without a time axis, graphs with time first, without a batch axis, and with more axes."""
    models = tmp_path_factory.mktemp("models")
    for write in (
        tiny_forms.cell,
        tiny_forms.time_major,
        tiny_forms.unbatched,
        tiny_forms.spectrum,
        tiny_kinds.weather,
    ):
        write(models)
    server = Server(models, tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


def test_tensors_have_the_axes_that_the_manifest_declares(forms: Server) -> None:
    """What /v1/step says of the same steps is the same, transposed."""
    rng = np.random.default_rng(2)
    for line in forms.client.get("/v1/models").json()["models"]:
        if line["task"] != "step":
            continue
        facts = forms.client.get(f"/v1/models/{line['name']}").json()
        (given,) = facts["inputs"]
        sizes = {"batch": 3, "time": 4}
        values = rng.normal(size=[sizes.get(axis, axis) for axis in given["shape"]]).astype(np.float32)
        made = arrays(infer(forms, line["name"], tensor(given["name"], "FP32", values.tolist())))
        named = [given["shape"].index(axis) for axis in ("batch", "time") if axis in given["shape"]]
        rows = np.moveaxis(values, named, range(len(named))).reshape(3, 4 if "time" in given["shape"] else 1, -1)
        body = {"model": line["name"], "items": [{"inputs": row.tolist()} for row in rows], "return": "all"}
        results = forms.post("/v1/step", body).json()["results"]
        for output in facts["outputs"]:
            axes = [output["shape"].index(axis) for axis in ("batch", "time") if axis in output["shape"]]
            by_row = np.moveaxis(made[output["name"]], axes, range(len(axes)))
            for row, result in zip(by_row, results, strict=True):
                wanted = np.array(result["outputs"][output["name"]])
                np.testing.assert_allclose(row, wanted.reshape(row.shape), atol=CLOSE)
