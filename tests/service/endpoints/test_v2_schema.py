"""Answers under /v2 have the form that the protocol's own OpenAPI file says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Server
from datatypes import DATATYPES, values
from jsonschema_rs import Draft4Validator

Valid = Callable[[str, Any], Any]
TENSORS: dict[str, list[dict[str, Any]]] = {
    "sentiment": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good", "a bad film"]}],
    "forecast": [{"name": "values", "shape": [1, 4], "datatype": "FP32", "data": [1, 2.5, 3, 4]}],
    "stepper": [{"name": "x", "shape": [2, 1, 2], "datatype": "FP32", "data": [[[1, 2]], [[3, 4]]]}],
    "reader": [{"name": "ids", "shape": [1, 3], "datatype": "INT32", "data": [1, 2, 3]}],
    **{
        f"echo-{dtype}": [{"name": "x", "shape": [2, 2], "datatype": datatype, "data": values(dtype).tolist()}]
        for dtype, datatype in DATATYPES.items()
    },
}


@pytest.fixture(scope="module")
def valid(schemas_dir: Path) -> Valid:
    """Return a check that raises for a value that is not of the form called so; it returns the value."""
    document = yaml.safe_load((schemas_dir / "open_inference_rest.yaml").read_text())

    def check(name: str, value: Any) -> Any:
        assert name in document["components"]["schemas"]
        Draft4Validator({**document, "$ref": f"#/components/schemas/{name}"}).validate(value)
        return value

    return check


def test_the_check_tells_what_is_not_of_the_form(valid: Valid) -> None:
    with pytest.raises(ValueError, match='"outputs" is a required property'):
        valid("inference_response", {"model_name": "m"})


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_s_metadata_is_valid(oip_server: Server, valid: Valid, path: str) -> None:
    answer = oip_server.client.get(path)
    assert answer.status_code == 200
    valid("metadata_server_response", answer.json())


@pytest.mark.parametrize("model", TENSORS)
def test_a_model_s_metadata_and_answers_are_valid(oip_server: Server, valid: Valid, model: str) -> None:
    for path in (f"/v2/models/{model}", f"/v2/models/{model}/versions/1"):
        described = oip_server.client.get(path)
        assert described.status_code == 200
        valid("metadata_model_response", described.json())
        request = valid("inference_request", {"id": "42", "inputs": TENSORS[model]})
        answer = oip_server.post(f"{path}/infer", request)
        assert answer.status_code == 200
        assert valid("inference_response", answer.json())["id"] == "42"


def test_classes_are_valid(oip_server: Server, valid: Valid) -> None:
    outputs = [{"name": "scores", "parameters": {"classification": 2}}]
    request = valid("inference_request", {"inputs": TENSORS["sentiment"], "outputs": outputs})
    answer = valid("inference_response", oip_server.post("/v2/models/sentiment/infer", request).json())
    assert answer["outputs"][0]["datatype"] == "BYTES"


def test_sequences_are_valid(oip_server: Server, valid: Valid) -> None:
    flags = {"sequence_id": 1, "sequence_start": True, "sequence_end": True}
    (tensor,) = TENSORS["stepper"]
    step = {**tensor, "shape": [1, 1, 2], "data": [1, 2]}
    request = valid("inference_request", {"inputs": [step], "parameters": flags})
    valid("inference_response", oip_server.post("/v2/models/stepper/infer", request).json())


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nonesuch/infer", {"inputs": TENSORS["stepper"]}, 404),
        ("stepper/versions/9/infer", {"inputs": TENSORS["stepper"]}, 404),
        ("stepper/infer", {"inputs": TENSORS["forecast"]}, 400),
        ("stepper/infer", {"inputs": []}, 400),
        ("stepper/infer", [], 400),
        ("stepper/infer", {"inputs": TENSORS["stepper"], "parameters": {"sequence_id": 2}}, 400),
    ],
)
def test_errors_are_valid(oip_server: Server, valid: Valid, path: str, body: Any, status: int) -> None:
    answer = oip_server.post(f"/v2/models/{path}", body)
    assert answer.status_code == status
    assert set(valid("inference_error_response", answer.json())) == {"error"}
