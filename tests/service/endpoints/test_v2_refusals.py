"""What POST /v2/models/{name}/infer refuses: with what was wrong, where, and what would be right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Server, ServerFactory
from keyring import Keyring
from oip import DTYPES, arrays, infer, pack, post, refusal, tensor

IDS_OF_ONE = tensor("ids", "INT32", [[3, 5]])


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ([], "inputs: List should have at least 1 item after validation, not 0"),
        ([{"name": "ids"}], "inputs[0].datatype is missing"),
        ([tensor("idz", "INT32", [[3]])], "idz: model 'sentiment' has no such input; it takes ids, text, lengths"),
        ([tensor("lengths", "INT32", [1])], "ids: is missing; model 'sentiment' needs it"),
        ([IDS_OF_ONE, IDS_OF_ONE], "inputs[1].name: 'ids' is given twice"),
        (
            [IDS_OF_ONE, tensor("text", "BYTES", ["good"])],
            "ids: leave it out where 'text' is given: the tokenizer makes the ids",
        ),
        ([tensor("ids", "INT64", [[3]])], "ids: is INT64; the model takes INT32"),
        (
            [tensor("ids", "INT", [[3]])],
            f"inputs[0].datatype: 'INT' is none of {', '.join([*DTYPES, 'BYTES'])}",
        ),
        ([tensor("ids", "INT32", [3])], "ids: has the shape [1]; the model takes [-1, -1]"),
        ([{**IDS_OF_ONE, "shape": [1, 3]}], "inputs[0].data: its lists are not nested as the shape [1, 3] is"),
        ([{**IDS_OF_ONE, "data": [3]}], "inputs[0].data: 1 elements, where the shape [1, 2] holds 2"),
        ([{**IDS_OF_ONE, "data": [3, 5.0]}], "inputs[0].data[1]: is no INT32: Input should be a valid integer"),
        ([{**IDS_OF_ONE, "data": [3, True]}], "inputs[0].data[1]: is no INT32: Input should be a valid integer"),
        (
            [{**IDS_OF_ONE, "data": [3, 2**31]}],
            "inputs[0].data[1]: is no INT32: Input should be less than or equal to 2147483647",
        ),
        ([{**IDS_OF_ONE, "shape": [1, -2]}], "inputs[0].shape[1]: Input should be greater than or equal to 0"),
        ([{**IDS_OF_ONE, "data": None}], "inputs[0]: 'ids' must hold either data or the parameter binary_data_size"),
        (
            [{**IDS_OF_ONE, "parameters": {"shared_memory_region": "a"}}],
            "inputs[0].parameters.shared_memory_region is no member of this request",
        ),
        *(
            (
                [{"name": "ids", "datatype": "INT32", "shape": shape, "data": []}],
                f"inputs[0].shape: {shape} holds nothing; give at least one row and step",
            )
            for shape in ([1, 0], [0, 1], [0, 10**18, 10**18])
        ),
        (
            [{"name": "ids", "datatype": "INT32", "shape": [1, 10**18], "data": [1]}],
            f"inputs[0].data: 1 elements, where the shape [1, {10**18}] holds {10**18}",
        ),
        ([IDS_OF_ONE, tensor("lengths", "INT32", [3])], "lengths: a row of 3 steps in tensors of 2"),
        ([IDS_OF_ONE, tensor("lengths", "INT32", [0])], "lengths: a row of 0 steps; at least 1"),
        ([IDS_OF_ONE, tensor("lengths", "INT32", [1, 1])], "lengths: holds 2 lengths for 1 rows"),
        ([tensor("text", "BYTES", [""])], "the text has no words; give at least one"),
        ([tensor("text", "BYTES", ["good", ""])], "row 1: the text has no words; give at least one"),
    ],
)
def test_input_that_cannot_be_used_is_refused_with_its_place(server: Server, inputs: list[Any], error: str) -> None:
    assert refusal(server, "sentiment", {"inputs": inputs}) == (400, error)


@pytest.mark.parametrize(
    ("size", "tail", "error"),
    [
        (
            8,
            pack("INT32", [3, 5]) + b"!",
            "inputs: 9 bytes follow the JSON, where the tensors' binary_data_size add up to 8",
        ),
        (
            12,
            pack("INT32", [3, 5]),
            "inputs[0].parameters.binary_data_size: 12, but only 8 bytes are left behind the JSON",
        ),
        (4, pack("INT32", [3]), "inputs[0].parameters.binary_data_size: 4, where INT32 of shape [1, 2] takes 8"),
    ],
)
def test_bytes_that_are_not_the_tensor_are_refused(server: Server, size: int, tail: bytes, error: str) -> None:
    given = {"name": "ids", "datatype": "INT32", "shape": [1, 2], "parameters": {"binary_data_size": size}}
    assert refusal(server, "sentiment", {"inputs": [given]}, tail) == (400, error)


@pytest.mark.parametrize(
    ("tail", "error"),
    [
        (b"\x05\0\0\0good", "its last text is cut; each is a length of 4 bytes and the text"),
        (b"\x04\0", "its last text is cut; each is a length of 4 bytes and the text"),
        (b"\x01\0\0\0\xff", "a text is not UTF-8"),
        (pack("BYTES", ["a", "b"]), "holds more texts, where the shape [1] holds 1"),
    ],
)
def test_bytes_that_are_no_texts_are_refused(server: Server, tail: bytes, error: str) -> None:
    given = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tail)}}
    wanted = f"inputs[0].parameters.binary_data_size: {error}"
    assert refusal(server, "sentiment", {"inputs": [given]}, tail) == (400, wanted)


def test_numbers_that_a_tensor_cannot_hold_are_refused(server: Server) -> None:
    for value in ("1e39", "NaN", "Infinity"):
        body = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1,2],"data":[0,' + value + "]}]}"
        answer = server.client.post("/v2/models/stepper/infer", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("inputs[0].data")
    raw = np.array([0, np.nan], "<f4").tobytes()
    given = {"name": "x", "datatype": "FP32", "shape": [1, 1, 2], "parameters": {"binary_data_size": 8}}
    status, error = refusal(server, "stepper", {"inputs": [given]}, raw)
    assert (status, error) == (400, "a value is not finite, or beyond the range of float32, 3.4e+38")


@pytest.mark.parametrize("length", ["-1", "x", "10000", "0", "1" * 5000])
def test_a_length_of_json_that_is_none_is_refused(server: Server, length: str) -> None:
    answer = post(server, "sentiment", {"inputs": []}, **{"Inference-Header-Content-Length": length})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Inference-Header-Content-Length: ")


def test_what_is_asked_for_must_be_there(server: Server) -> None:
    body = {"inputs": [IDS_OF_ONE]}
    assert refusal(server, "nobody", body)[0] == 404
    assert refusal(server, "sentiment/versions/9", body) == (
        404,
        "version: model 'sentiment' has no version '9' here; it has 1",
    )
    wanted = (400, "outputs[0].name: there is no output 'score'; there are scores")
    assert refusal(server, "sentiment", {**body, "outputs": [{"name": "score"}]}) == wanted
    assert arrays(infer(server, "sentiment/versions/1", IDS_OF_ONE))["scores"].shape == (1, 2)
    assert server.client.get("/v2/models/sentiment/infer").status_code == 405
    squeezed = post(server, "sentiment", body, **{"Content-Encoding": "gzip"})
    assert (squeezed.status_code, squeezed.json()) == (
        415,
        {"error": "content encoding 'gzip'; send the body as it is"},
    )


def test_what_common_clients_send_besides_is_let_pass(server: Server) -> None:
    given = {**IDS_OF_ONE, "parameters": {"content_type": "np"}}
    outputs = [{"name": "scores", "parameters": {"content_type": "np"}}]
    parameters = {"priority": 1, "content_type": "np", "headers": {}, "timeout": 5_000_000}
    assert infer(server, "sentiment", given, outputs=outputs, parameters=parameters)["model_name"] == "sentiment"
    for timeout in (0, 10**12):  # the default, which is the longest
        assert infer(server, "sentiment", given, parameters={"timeout": timeout})["model_name"] == "sentiment"
    for empty in ({"outputs": []}, {"outputs": None, "parameters": None, "id": None}):
        assert infer(server, "sentiment", {**given, "parameters": None}, **empty)["outputs"][0]["name"] == "scores"


def test_too_many_rows_or_steps_are_refused(server: Server) -> None:
    long = tensor("ids", "INT32", [[3] * 17])
    assert refusal(server, "sentiment", {"inputs": [long]}) == (413, "ids: a row of 17 steps; at most 16")
    rows = {"name": "ids", "datatype": "INT32", "shape": [1025, 1], "data": [3] * 1025}
    assert refusal(server, "sentiment", {"inputs": [rows]}) == (413, "ids: 1025 rows; at most 1024 in one request")


STEP = {"inputs": [tensor("x", "FP32", [[[1.0, 2.0]]])]}
TWO = {"inputs": [tensor("x", "FP32", [[[1.0, 2.0]]] * 2)]}


@pytest.mark.parametrize(
    ("model", "body", "error"),
    [
        (
            "stepper",
            {**STEP, "parameters": {"state_token": "?"}},
            "parameters.state_token: not base64url, so no state token",
        ),
        (
            "stepper",
            {"inputs": [*STEP["inputs"], tensor("state_token", "BYTES", ["?"])]},
            "state_token: not base64url, so no state token",
        ),
        (
            "stepper",
            {**STEP, "parameters": {"state_token": ""}},
            "state_token: the state token is damaged, was not made by this service, or belongs to someone else",
        ),
        (
            "stepper",
            {**STEP, "parameters": {"sequence_id": 0}},
            "parameters.sequence_id: 0 stands for no sequence; leave it out, or give another",
        ),
        (
            "sentiment",
            {"inputs": [tensor("text", "BYTES", ["good"])], "parameters": {"sequence_id": 7}},
            "parameters: model 'sentiment' carries no state; leave out state_token and sequence_id",
        ),
        (
            "sentiment",
            {"inputs": [tensor("text", "BYTES", ["good"])], "parameters": {"state_tokn": "x"}},
            "parameters.state_tokn is no member of this request",
        ),
    ],
)
def test_a_state_that_cannot_be_meant_is_refused(server: Server, model: str, body: dict[str, Any], error: str) -> None:
    assert refusal(server, model, body) == (400, error)


@pytest.mark.parametrize("parameters", [{"state_token": None}, {"sequence_id": None}])
def test_a_state_that_is_null_begins_nothing(server: Server, parameters: dict[str, Any]) -> None:
    (name,) = parameters
    error = f"parameters.{name}: is null; leave it out where a new session is to begin"
    before = server.metric("baton_tokens_rejected_total", "reason", "null")
    assert refusal(server, "stepper", {**STEP, "parameters": parameters}) == (400, error)
    assert server.metric("baton_tokens_rejected_total", "reason", "null") == before + (name == "state_token")


def test_as_many_tokens_as_rows_are_needed(server: Server) -> None:
    token = infer(server, "stepper", *STEP["inputs"])["parameters"]["state_token"]
    wrong = (400, "state_token: 1 states for 2 rows; give one for each")
    assert refusal(server, "stepper", {**TWO, "parameters": {"state_token": token}}) == wrong
    assert refusal(server, "stepper", {"inputs": [*TWO["inputs"], tensor("state_token", "BYTES", [token])]}) == wrong
    twice = {"inputs": [*STEP["inputs"], tensor("state_token", "BYTES", [token])], "parameters": {"state_token": token}}
    assert (
        refusal(server, "stepper", twice)[1] == "state_token: is given as a parameter and as a tensor; give one of them"
    )
    other = (409, "state_token: this state was made by model 'stepper', the request names 'numbers'")
    number = {"inputs": [tensor("x", "FP32", [[1.0]])], "parameters": {"state_token": token}}
    assert refusal(server, "numbers", number) == other
    newer = {**STEP, "parameters": {"state_token": token}}
    assert refusal(server, "stepper/versions/2", newer) == (
        404,
        "version: model 'stepper' has no version '2' here; it has 1",
    )


def test_a_key_is_asked_for_but_for_health(tiny_models: Any, tmp_path: Any, start_server: ServerFactory) -> None:
    keys = Keyring("acme")
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=keys.setting)
    body = {"inputs": [IDS_OF_ONE]}
    without = post(server, "sentiment", body)
    assert without.status_code == 401
    assert list(without.json()) == ["error"]
    assert post(server, "sentiment", body, **keys.header("acme")).status_code == 200
    assert server.client.get("/v2").status_code == 401
    assert server.client.get("/v2/health/live").json() == {"live": True}
    assert server.client.get("/v2/health/ready").json() == {"ready": True}


def test_a_few_texts_cannot_ask_for_a_large_answer(server: Server) -> None:
    texts = ["good " * 4000] + ["bad"] * 1000
    shape = [1001, 4000, 2]
    error = f"scores: the output would have the shape {shape} for 5000 steps; send long and short rows apart"
    assert refusal(server, "reader", {"inputs": [tensor("text", "BYTES", texts)]}) == (413, error)
    assert arrays(infer(server, "reader", tensor("text", "BYTES", texts[:9])))["scores"].shape == (9, 4000, 2)


def test_only_numbers_of_a_row_have_classes(server: Server) -> None:
    wanted = [{"name": "state_token", "parameters": {"classification": 1}}]
    body = {"inputs": [tensor("x", "FP32", [[[1.0, 2.0]]])], "outputs": wanted}
    status, error = refusal(server, "stepper", body)
    message = "'state_token' holds texts or steps; classes are of numbers that each row has once"
    assert (status, error) == (400, f"outputs[0].parameters.classification: {message}")
    wanted[0]["name"] = "y"
    assert refusal(server, "stepper", body)[1] == error.replace("state_token", "y")


def test_what_is_too_much_is_refused_before_it_is_read(server: Server) -> None:
    """None of the elements is what its tensor declares, and the refusal is not about that."""
    empty = pack("BYTES", [""] * 1025)
    tokens = {"name": "state_token", "datatype": "BYTES", "shape": [1025], "parameters": {"binary_data_size": 4100}}
    assert refusal(server, "stepper", {"inputs": [*STEP["inputs"], tokens]}, empty) == (
        413,
        "state_token: 1025 rows; at most 1024 in one request",
    )
    texts = {"name": "text", "datatype": "BYTES", "shape": [10**6], "data": [1] * 10**6}
    assert refusal(server, "sentiment", {"inputs": [texts]})[1].startswith("text: 1000000 rows")
    unknown = {**texts, "name": "x"}
    assert refusal(server, "sentiment", {"inputs": [{**unknown, "shape": [1, 10**6]}]})[0] == 413
    mistakes = {"inputs": [IDS_OF_ONE], "parameters": {f"p{number}": 0 for number in range(20_001)}}
    assert refusal(server, "sentiment", mistakes) == (400, "more than 20000 mistakes in one request")


def test_an_output_is_asked_for_once(server: Server) -> None:
    body = {"inputs": [IDS_OF_ONE], "outputs": [{"name": "scores"}, {"name": "scores"}]}
    assert refusal(server, "sentiment", body) == (400, "outputs[1].name: 'scores' is asked for twice")


def test_a_path_with_a_placeholder_names_no_model(server: Server) -> None:
    answer = server.client.post("/v2/models/%7Bname%7D/infer", json={"inputs": [IDS_OF_ONE]})
    assert (answer.status_code, answer.json()["error"].split(";")[0]) == (404, "model: no model is called '{name}'")
