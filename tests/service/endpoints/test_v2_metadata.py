"""What GET /v2 and below says of server and models, and that requests as it describes them are answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Server
from oip import DTYPES, arrays, infer


def get(server: Server, path: str) -> tuple[int, Any]:
    answer = server.client.get(f"/v2{path}")
    return answer.status_code, answer.json()


def test_server_and_models_say_that_they_are_ready(server: Server) -> None:
    assert get(server, "/health/live") == (200, {"live": True})
    assert get(server, "/health/ready") == (200, {"ready": True})
    for path in ("/models/stepper/ready", "/models/stepper/versions/1/ready"):
        assert get(server, path) == (200, {"name": "stepper", "ready": True})
    assert get(server, "/models/nobody/ready")[0] == 404
    status, error = get(server, "/models/stepper/versions/2/ready")
    assert (status, error) == (404, {"error": "version: model 'stepper' has no version '2' here; it has 1"})


def test_the_server_names_its_extensions(server: Server) -> None:
    status, facts = get(server, "")
    assert (status, facts["name"], facts["version"]) == (200, "baton", server.client.get("/v1/info").json()["version"])
    assert {"binary_tensor_data", "classification", "sequence", "model_repository", "statistics"} < {
        *facts["extensions"]
    }
    assert get(server, "/") == (200, facts)


def test_a_model_shows_the_tensors_of_its_manifest(server: Server) -> None:
    status, facts = get(server, "/models/reader")
    assert (status, facts) == get(server, "/models/reader/versions/1")
    assert facts == {
        "name": "reader",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, -1, 2]},
        ],
        "properties": {
            "optional_inputs": "ids INT32 [-1, -1], lengths INT32 [-1], state_token BYTES [-1]",
            "optional_outputs": "lengths INT32 [-1], state_token BYTES [-1]",
        },
    }
    assert get(server, "/models/reader/nothing")[0] == 404


@pytest.mark.parametrize("model", ["sentiment", "forecast", "stepper", "numbers", "reader"])
def test_a_request_as_the_configuration_describes_it_is_answered_as_it_says(server: Server, model: str) -> None:
    """The inputs that it lists are enough, with any sizes for the axes that are -1; the outputs it lists all come."""
    _, facts = get(server, f"/models/{model}")
    _, configuration = get(server, f"/models/{model}/config")
    assert configuration["max_batch_size"] == 1024
    assert ("sequence_batching" in configuration) == (model in ("stepper", "numbers", "reader"))
    shapes = {tensor["name"]: tensor for tensor in facts["inputs"]}
    for tensor in configuration["input"]:
        assert [-1, *tensor["dims"]] == shapes[tensor["name"]]["shape"]
    inputs = []
    for name in shapes:
        shape = [2, *(4 if size == -1 else size for size in shapes[name]["shape"][1:])]
        datatype = shapes[name]["datatype"]
        values = (
            ["good"] * int(np.prod(shape)) if datatype == "BYTES" else np.ones(shape, DTYPES[datatype]).ravel().tolist()
        )
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "data": values})
    answer = infer(server, model, *inputs)
    described = {tensor["name"]: tensor for tensor in facts["outputs"]}
    given = {output["name"]: output for output in answer["outputs"]}
    assert described.keys() <= arrays(answer).keys()
    for name, wanted in described.items():
        output = given[name]
        assert (output["datatype"], len(output["shape"])) == (wanted["datatype"], len(wanted["shape"]))
        assert all(size in (-1, made) for made, size in zip(output["shape"], wanted["shape"], strict=True))
