"""The Open Inference Protocol through tritonclient, in each of its ways: datatypes, texts, classes, models, errors.

What it is given is compared with what ONNX Runtime gives in process for the same graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import tiny
from conftest import ADMIN, Server
from datatypes import DATATYPES, values
from triton_clients import Array, Way, binary, connect, every_way, given, infer, outputs, texts
from tritonclient.http import InferenceServerClient, InferRequestedOutput
from tritonclient.utils import InferenceServerException

ADMIN_HEADER = ADMIN.header()
CLOSE = 1e-5  # batching changes float32 sums only in their order
TEXTS = ["a good film", "not good !", "bad"]
STEPS = np.zeros((2, 1, 2), np.float32)
BEGIN = {"sequence_id": 5, "sequence_start": True}


@pytest.fixture
def url(oip_server: Server) -> str:
    return oip_server.url


@pytest.fixture
def triton(url: str) -> Iterator[InferenceServerClient]:
    with connect(url) as client:
        yield client


@every_way
@binary
@pytest.mark.parametrize("dtype", DATATYPES)
def test_every_datatype_passes_unchanged(url: str, oip_models: Path, dtype: str, binary: bool, ask: Way) -> None:
    sent = values(dtype)
    wanted = [InferRequestedOutput("y", binary_data=binary)]
    result = ask(url, f"echo-{dtype}", [given("x", sent, binary=binary)], outputs=wanted, request_id="r7")
    described = result.get_response()
    assert (described["model_name"], described["model_version"], described["id"]) == (f"echo-{dtype}", "1", "r7")
    assert result.get_output("y")["datatype"] == DATATYPES[dtype]
    assert ("data" in result.get_output("y")) == (not binary)
    got, right = outputs(result)["y"], in_process.run(oip_models / f"echo-{dtype}" / "1", x=sent)["y"]
    assert got.dtype == right.dtype
    np.testing.assert_array_equal(got, right)


def test_bytes_may_come_in_and_json_go_out_and_the_other_way_round(url: str, oip_models: Path) -> None:
    sent = values("int16")
    right = in_process.run(oip_models / "echo-int16" / "1", x=sent)["y"]
    for bytes_in in (False, True):
        wanted = [InferRequestedOutput("y", binary_data=not bytes_in)]
        result = infer(url, "echo-int16", [given("x", sent, binary=bytes_in)], outputs=wanted)
        np.testing.assert_array_equal(result.as_numpy("y"), right)


@every_way
@binary
@pytest.mark.parametrize("column", [False, True], ids=["flat", "column"])
def test_texts_go_through_the_model_s_tokenizer(
    url: str, oip_models: Path, column: bool, binary: bool, ask: Way
) -> None:
    sent = texts(*TEXTS).reshape(-1, 1) if column else texts(*TEXTS)
    result = ask(url, "sentiment", [given("text", sent, binary=binary)])
    np.testing.assert_allclose(result.as_numpy("scores"), in_process.scores_of(oip_models, TEXTS), atol=CLOSE)


@binary
def test_ids_of_unequal_rows_are_told_by_their_lengths(
    triton: InferenceServerClient, oip_models: Path, binary: bool
) -> None:
    ids, lengths = in_process.ids_of(TEXTS)
    inputs = [given("ids", ids, binary=binary), given("lengths", lengths, binary=binary)]
    result = triton.infer("sentiment", inputs, model_version="1")
    np.testing.assert_allclose(result.as_numpy("scores"), in_process.scores_of(oip_models, TEXTS), atol=CLOSE)


@binary
@pytest.mark.parametrize("count", [1, 2])
def test_classification_gives_the_largest_values_with_their_labels(
    triton: InferenceServerClient, oip_models: Path, count: int, binary: bool
) -> None:
    wanted = [InferRequestedOutput("scores", binary_data=binary, class_count=count)]
    result = triton.infer("sentiment", [given("text", texts(*TEXTS))], outputs=wanted)
    rows = outputs(result)["scores"]
    assert rows.shape == (len(TEXTS), count)
    for row, scores in zip(rows.tolist(), in_process.scores_of(oip_models, TEXTS), strict=True):
        order = np.argsort(-scores)[:count]
        for text, place in zip(row, order, strict=True):
            value, index, label = text.split(":")
            assert (int(index), label) == (place, tiny.LABELS[place])
            assert float(value) == pytest.approx(scores[place], abs=CLOSE)


def test_the_server_and_its_models_are_described(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("stepper")
    assert triton.is_model_ready("stepper", "1")
    assert not triton.is_model_ready("stepper", "2")
    about = triton.get_server_metadata()
    assert about["name"] == "baton"
    assert {"binary_tensor_data", "classification", "sequence", "model_repository", "statistics"} <= {
        *about["extensions"]
    }
    described = triton.get_model_metadata("stepper", "1")
    assert (described["name"], described["versions"]) == ("stepper", ["1"])
    assert {"name": "x", "datatype": "FP32", "shape": [-1, -1, 2]} in described["inputs"]
    assert {"name": "y", "datatype": "FP32", "shape": [-1, -1, 3]} in described["outputs"]
    settings = triton.get_model_config("stepper")
    assert settings["name"] == "stepper"
    assert settings["max_batch_size"] > 0
    assert "sequence_batching" in settings
    assert "sequence_batching" not in triton.get_model_config("sentiment")


def test_models_are_listed_unloaded_and_loaded(triton: InferenceServerClient) -> None:
    def states() -> dict[str, str]:
        return {each["name"]: each["state"] for each in triton.get_model_repository_index()}

    assert set(states().values()) == {"READY"}
    with pytest.raises(InferenceServerException) as no_key:
        triton.unload_model("echo-bool")
    assert no_key.value.status() == "401"
    triton.unload_model("echo-bool", headers=ADMIN_HEADER)
    try:
        assert states()["echo-bool"] == "UNAVAILABLE"
        assert not triton.is_model_ready("echo-bool")
        with pytest.raises(InferenceServerException) as gone:
            triton.infer("echo-bool", [given("x", values("bool"))])
        assert gone.value.status() == "404"
    finally:
        triton.load_model("echo-bool", headers=ADMIN_HEADER)
    assert states()["echo-bool"] == "READY"
    assert triton.infer("echo-bool", [given("x", values("bool"))]).as_numpy("y").shape == (2, 4)
    with pytest.raises(InferenceServerException, match="nonesuch"):
        triton.load_model("nonesuch", headers=ADMIN_HEADER)


def test_statistics_count_what_was_inferred(triton: InferenceServerClient) -> None:
    def counted() -> tuple[int, int]:
        (found,) = triton.get_inference_statistics("forecast", "1")["model_stats"]
        return found["inference_count"], found["inference_stats"]["success"]["count"]

    rows, requests = counted()
    triton.infer("forecast", [given("values", np.ones((3, 4), np.float32))])
    assert counted() == (rows + 3, requests + 1)
    names = [each["name"] for each in triton.get_inference_statistics()["model_stats"]]
    assert {"forecast", "stepper", "echo-string"} <= {*names}


@pytest.mark.parametrize(
    ("model", "inputs", "options", "status", "says"),
    [
        ("nonesuch", {"x": STEPS}, {}, "404", "model: no model is called 'nonesuch'"),
        ("stepper", {"x": STEPS}, {"model_version": "9"}, "404", "version: model 'stepper' has no version '9' here"),
        ("stepper", {"x": STEPS[0]}, {}, "400", "x: has the shape [1, 2]"),
        ("stepper", {"x": STEPS.astype(np.float64)}, {}, "400", "x: is FP64; the model takes FP32"),
        ("stepper", {"z": STEPS}, {}, "400", "z: model 'stepper' has no such input"),
        ("stepper", {"x": STEPS}, {"parameters": {"colour": "red"}}, "400", "parameters.colour is no member"),
        (
            "stepper",
            {"x": STEPS},
            {"outputs": [InferRequestedOutput("z")]},
            "400",
            "outputs[0].name: there is no",
        ),
        (
            "stepper",
            {"x": STEPS[:1]},
            {"parameters": {"state_token": "no token"}},
            "400",
            "parameters.state_token: not",
        ),
        ("stepper", {"x": STEPS}, BEGIN, "400", "parameters.sequence_id: 2 rows"),
        (
            "sentiment",
            {"text": texts("good")},
            BEGIN,
            "400",
            "parameters: model 'sentiment' carries no state",
        ),
        ("sentiment", {"text": texts("")}, {}, "400", "the text has no words"),
        ("stepper", {"x": STEPS}, {"request_compression_algorithm": "gzip"}, "415", "content encoding 'gzip'"),
    ],
)
@every_way
def test_an_error_says_what_is_wrong(
    url: str,
    model: str,
    inputs: Mapping[str, Array],
    options: dict[str, Any],
    status: str,
    says: str,
    ask: Way,
) -> None:
    sent = [given(name, values) for name, values in inputs.items()]
    with pytest.raises(InferenceServerException) as refused:
        ask(url, model, sent, **options)
    assert refused.value.status() == status
    assert refused.value.message().startswith(says)
