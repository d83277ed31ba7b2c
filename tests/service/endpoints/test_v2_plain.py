"""Models without a task over the Open Inference Protocol: every datatype, several inputs, values as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datatypes
import numpy as np
import pytest
import tiny_plain
from conftest import Server
from oip import arrays, binary, infer, pack, post, refusal, tensor

CLOSE = 1e-5
READINGS = np.random.default_rng(3).normal(size=(3, 4, 3)).astype(np.float32)
PROFILES, WARDS, COUNTS = [[0.5, 1.0], [0.0, -1.0], [2.0, 0.25]], [1, 0, 1], [4, 2, 3]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    datatypes.all_echoes(models)
    for write in (tiny_plain.classifier, tiny_plain.visits, tiny_plain.columns, tiny_plain.words):
        write(models)
    server = Server(models, tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


@pytest.mark.parametrize("dtype", datatypes.DATATYPES)
def test_every_datatype_comes_back_as_it_was_sent(plain: Server, dtype: str) -> None:
    datatype, values = datatypes.DATATYPES[dtype], datatypes.values(dtype)
    wanted = np.concatenate([values, values], axis=1).tolist()
    answer = infer(plain, f"echo-{dtype}", {**tensor("x", datatype, values), "data": values.ravel().tolist()})
    assert answer["outputs"] == [
        {"name": "y", "datatype": datatype, "shape": [2, 4], "data": [value for row in wanted for value in row]}
    ]
    raw = pack(datatype, values)
    given = {"name": "x", "datatype": datatype, "shape": [2, 2], "parameters": {"binary_data_size": len(raw)}}
    body = {"inputs": [given], "parameters": {"binary_data_output": True}}
    assert binary(post(plain, f"echo-{dtype}", body, raw))["y"].tolist() == wanted


@pytest.mark.parametrize(
    ("dtype", "row", "classes"),
    [
        ("int64", [2**60, 2**60 + 1], [f"{2**60 + 1}:1", f"{2**60 + 1}:3", f"{2**60}:0"]),
        ("bool", [False, True], ["1:1", "1:3", "0:0"]),
        ("float32", [-0.5, 2], ["2.000000:1", "2.000000:3", "-0.500000:0"]),
    ],
)
def test_classes_are_of_the_values_as_they_are(plain: Server, dtype: str, row: list[Any], classes: list[str]) -> None:
    wanted = [{"name": "y", "parameters": {"classification": 3}}]
    given = tensor("x", datatypes.DATATYPES[dtype], [row])
    (output,) = infer(plain, f"echo-{dtype}", given, outputs=wanted)["outputs"]
    assert (output["datatype"], output["shape"], output["data"]) == ("BYTES", [1, 3], classes)


def test_a_byte_that_is_no_truth_value_is_refused(plain: Server) -> None:
    given = {"name": "x", "datatype": "BOOL", "shape": [1, 2], "parameters": {"binary_data_size": 2}}
    error = "inputs[0].parameters.binary_data_size: a BOOL is a byte 0 or 1"
    assert refusal(plain, "echo-bool", {"inputs": [given]}, b"\0\2") == (400, error)


def test_values_that_are_not_finite_pass_in_bytes_and_not_in_json(plain: Server) -> None:
    raw = np.array([np.nan, -np.inf], "<f4").tobytes()
    given = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    made = binary(post(plain, "echo-float32", {"inputs": [given], "parameters": {"binary_data_output": True}}, raw))[
        "y"
    ]
    np.testing.assert_array_equal(made, [[np.nan, -np.inf, np.nan, -np.inf]])
    status, error = refusal(plain, "echo-float32", {"inputs": [given]}, raw)
    message = "the output holds values that are not finite, which JSON cannot carry; ask for it with binary_data"
    assert (status, error) == (400, f"y: {message}")


def test_a_classifier_of_ids_needs_no_tokenizer(plain: Server) -> None:
    made = arrays(
        infer(plain, "classifier", tensor("ids", "INT32", [[3, 5, 0], [2, 7, 3]]), tensor("lengths", "INT32", [2, 3]))
    )
    for row, scores in zip([[3, 5], [2, 7, 3]], made["scores"], strict=True):
        alone = arrays(infer(plain, "classifier", tensor("ids", "INT32", [row])))["scores"]
        np.testing.assert_allclose(alone[0], scores, atol=CLOSE)
        assert scores.sum() == pytest.approx(1, abs=CLOSE)


def visits(rows: slice, steps: int) -> list[dict[str, Any]]:
    return [
        tensor("readings", "FP32", READINGS[rows, :steps].tolist()),
        tensor("ward", "INT64", WARDS[rows]),
        tensor("profile", "FP32", PROFILES[rows]),
    ]


def test_rows_of_several_inputs_stay_together(plain: Server) -> None:
    made = arrays(infer(plain, "visits", *visits(slice(None), 4), tensor("lengths", "INT32", COUNTS)))
    for index, count in enumerate(COUNTS):
        alone = arrays(infer(plain, "visits", *visits(slice(index, index + 1), count)))
        np.testing.assert_allclose(made["by_step"][index, :count], alone["by_step"][0], atol=CLOSE)
        assert not made["by_step"][index, count:].any()
        for name in ("scores", "total"):
            np.testing.assert_allclose(made[name][index], alone[name][0], atol=CLOSE)


def test_axes_are_in_the_order_of_each_tensor(plain: Server) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2, 1)
    mask = np.array([[True, False], [True, True], [False, True]])
    made = arrays(infer(plain, "columns", tensor("x", "FP32", values.tolist()), tensor("mask", "BOOL", mask.tolist())))
    np.testing.assert_array_equal(made["y"], np.where(mask[:, :, np.newaxis], values, 0))


def test_texts_are_tensors_too_where_no_tokenizer_reads_them(plain: Server) -> None:
    words, marks = tensor("words", "BYTES", [["a", "b"], ["c", "d"]]), tensor("marks", "BYTES", [[".", ","], [";", ""]])
    suffix, lengths = tensor("suffix", "BYTES", ["!", "?"]), tensor("lengths", "INT32", [2, 1])
    made = arrays(infer(plain, "words", words, marks, suffix, lengths))
    assert made["joined"].tolist() == [["a.!", "b,!"], ["c;?", ""]]
    assert made["count"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ward": tensor("ward", "INT64", [1])}, "ward: holds 1 rows, where others hold 3"),
        ({"readings": None}, "readings: is missing; model 'visits' needs it"),
        ({"profile": tensor("profile", "FP32", [[1.0]] * 3)}, "profile: has the shape [3, 1]; the model takes [-1, 2]"),
        ({"ward": tensor("ward", "INT64", [[1], [0], [1]])}, "ward: has the shape [3, 1]; the model takes [-1]"),
        ({"ward": tensor("ward", "INT64", [9, 0, 1])}, "row 0: the model fails on this input; the log has the cause"),
    ],
)
def test_inputs_that_do_not_agree_are_refused(plain: Server, change: dict[str, Any], error: str) -> None:
    inputs = {given["name"]: given for given in visits(slice(None), 4)} | change
    assert refusal(plain, "visits", {"inputs": [given for given in inputs.values() if given]}) == (400, error)


def test_masks_must_be_as_long_as_what_they_mask(plain: Server) -> None:
    mask = tensor("mask", "BOOL", [[True], [True]])
    error = (400, "mask: holds rows of 2 steps, where others hold 3")
    assert refusal(plain, "columns", {"inputs": [tensor("x", "FP32", [[[1.0]]] * 3), mask]}) == error


def test_a_model_without_a_task_is_for_no_call_of_v1(plain: Server) -> None:
    lines = plain.client.get("/v1/models").json()["models"]
    assert {line["task"] for line in lines} == {"tensor"}
    answer = plain.post("/v1/sentiment", {"model": "classifier", "inputs": ["good"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "wrong_task")
