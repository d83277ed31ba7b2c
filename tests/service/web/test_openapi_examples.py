"""The examples of the OpenAPI document: calls are answered as they say, and the service refuses in their words."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import examples
import httpx
import jsonschema_rs
import pytest
from conftest import ROOT, Server
from examples import UNLOAD, Example
from here import Clock, serve_here
from keyring import Keyring

from service.errors import leaves
from service.page.openapi import ANSWERS
from service.settings import Settings

RECORDED = json.loads(ANSWERS.read_text())
ANEW = "answers have changed: look at them, and record them by tests/support/examples.py"
OF_NO_OPERATION = {"method_not_allowed", "upgrade_required", "quota_exceeded"}  # of no operation, and of the WebSocket
EACH_TIME = {"state", "state_token", "expires_at"}  # members of results that are never the same
MODEL = "/v2/models/forecast-live/infer"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed models, in a directory that others can be added to."""
    folder = tmp_path_factory.mktemp("models")
    for model in (ROOT / "models").iterdir():
        (folder / model.name).symlink_to(model)
    return folder


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = examples.serve(tmp_path_factory.mktemp("state"), models, BATON_MAX_SESSION_STEPS="4")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def document(served: Server) -> dict[str, Any]:
    return served.client.get("/openapi.json").raise_for_status().json()


@pytest.fixture(scope="module")
def answered(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Example, httpx.Response]]]:
    """Every example with the answer to it, asked in their order, where sessions are as long as by default."""
    server = examples.serve(tmp_path_factory.mktemp("state"), models)
    yield list(examples.make_all(server.client))
    server.stop()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def valid(document: dict[str, Any], schema: dict[str, Any], value: object) -> None:
    """Raises: ValueError for a value that is not of the schema."""
    jsonschema_rs.validator_for({**schema, "components": document["components"]}).validate(value)


def parts(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every number, text, truth and null in `value`, with its place."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from parts(part, f"{place}.{name}")
    else:
        yield place, value


def form(value: Any) -> dict[str, str]:
    return {place: "number" if type(part) in (int, float) else type(part).__name__ for place, part in parts(value)}


def lasting(answer: Any) -> dict[str, Any]:
    """Return what a model gave: the same each time."""
    given = {name: answer[name] for name in ("results", "outputs") if isinstance(answer, dict) and name in answer}
    return {place: part for place, part in parts(given) if place.rpartition(".")[2] not in EACH_TIME}


def about(part: Any) -> Any:
    """Return what equals `part`, and of a number what another processor makes of it."""
    return pytest.approx(part, rel=1e-3, abs=1e-4) if isinstance(part, float) else part


def test_every_example_is_answered_in_the_form_that_the_document_says(
    document: dict[str, Any], answered: list[tuple[Example, httpx.Response]]
) -> None:
    for example, answer in answered:
        assert answer.status_code == 200, f"{example}: {answer.text}"
        content = operations(document)[example.operation]["responses"]["200"].get("content", {})
        assert bool(answer.content) == bool(content)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if kind == "application/json":
            valid(document, content[kind]["schema"], answer.json())
        elif kind.startswith("text/"):
            titles = [line for line in content[kind]["example"].splitlines() if line.startswith("#")]
            assert titles
            assert {*titles} <= {*answer.text.splitlines()}


def test_recorded_answers_are_those_that_the_models_give(answered: list[tuple[Example, httpx.Response]]) -> None:
    made: dict[str, list[str]] = {}
    for example, answer in answered:
        if answer.headers.get("content-type") == "application/json":
            made.setdefault(example.operation, []).append(example.name)
            recorded = RECORDED[example.operation][example.name]
            assert form(recorded) == form(answer.json()), ANEW
            given, kept = lasting(answer.json()), lasting(recorded)
            assert given == {name: about(part) for name, part in kept.items()}, ANEW
    assert made == {operation: [*answers] for operation, answers in RECORDED.items()}, ANEW


def test_no_example_is_of_a_model_or_version_that_is_not_served(tmp_path: Path) -> None:
    version = tmp_path / "models" / "sentiment" / "6"
    shutil.copytree(ROOT / "models" / "sentiment" / "5", version)
    manifest = json.loads((version / "manifest.json").read_text())
    (version / "manifest.json").write_text(json.dumps({**manifest, "version": "6"}))
    server = examples.serve(tmp_path / "state", tmp_path / "models")
    made = list(examples.make_all(server.client))
    server.stop()
    assert {example.operation for example, answer in made if answer.status_code != 200} == set()
    texts = {"POST /v1/sentiment": ["texts", "scores"], "POST /v2/models/{name}/infer": ["texts", "classes"]}
    for operation, names in texts.items():
        assert [example.name for example, _ in made if example.operation == operation] == names
    assert not [example for example, _ in made if "{version}" in example.operation]


def test_an_example_that_wants_a_state_says_so_and_is_refused_without(served: Server, document: dict[str, Any]) -> None:
    wanting = [example for example in examples.examples(document) if example.wants_state]
    assert {example.operation for example in wanting} == {
        "POST /v1/step",
        "POST /v1/state",
        "POST /v1/generate",
        "POST /v1/completions",
    }
    for example in wanting:
        body = operations(document)[example.operation]["requestBody"]["content"]["application/json"]
        assert "in the place of" in body["examples"][example.name]["description"]
        answer = example.make(served.client)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "state_invalid")


def test_every_part_of_every_operation_has_an_example(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert operation["summary"], name
        for parameter in operation.get("parameters", []):
            assert parameter["description"] if name == UNLOAD else parameter["examples"], name
            assert parameter["in"] == "path", name
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert all(example["summary"] for example in content["examples"].values()), name
            assert content["examples"], name
        for response in operation["responses"].values():
            for kind, content in response.get("content", {}).items():
                if kind.startswith("image/"):
                    continue
                shown = [example["value"] for example in content.get("examples", {}).values()]
                shown += [content["example"]] if "example" in content else []
                assert shown, name
                for value in shown:
                    valid(document, content["schema"], value)


def errors(document: dict[str, Any], operation: str) -> dict[str, dict[str, Any]]:
    """Return the examples of an operation's errors by code, with the status that each stands under as `status`."""
    return {
        code: {**example, "status": int(status)}
        for status, response in operations(document)[operation]["responses"].items()
        if status != "200"
        for code, example in response["content"]["application/json"]["examples"].items()
    }


def test_every_error_is_shown_and_says_where_to_read_on(document: dict[str, Any]) -> None:
    statuses = {leaf.code: leaf.status for leaf in leaves()}
    seen = set()
    for operation in operations(document):
        for code, example in errors(document, operation).items():
            seen.add(code)
            assert example["description"].endswith(f"docs/errors.md#{code}")
            status = 400 if "/v2" in operation and statuses[code] == 422 else statuses[code]
            assert example["status"] == status, (operation, code)
    assert seen == set(statuses) - OF_NO_OPERATION


def rows(count: int) -> dict[str, Any]:
    return {"name": "values", "datatype": "FP64", "shape": [1, count], "data": [1.5] * count}


HISTORY = [1, 2, 3, 4, 5, 6, 7, 8]
REFUSALS: list[tuple[str, str, Any]] = [
    ("sentiment", "malformed_json", b"{"),
    ("sentiment", "unknown_model", {"model": "nonesuch", "inputs": ["a"]}),
    ("sentiment", "batch_too_large", {"inputs": ["a"] * 1025}),
    ("sentiment", "body_too_large", {"inputs": ["a" * 4_194_304]}),
    ("sentiment", "item_too_large", {"inputs": ["a" * 100_001]}),
    ("sentiment", "empty_input", {"inputs": []}),
    ("sentiment", "invalid_request", {}),
    ("sentiment", "wrong_task", {"model": "forecast", "inputs": ["a"]}),
    ("forecast", "horizon_too_long", {"series": [{"values": HISTORY}], "horizon": 1000}),
    ("forecast", "quantile_unavailable", {"series": [{"values": HISTORY}], "horizon": 1, "levels": [99]}),
    ("forecast", "history_too_short", {"series": [{"values": [1]}], "horizon": 1}),
    ("forecast", "missing_values", {"series": [{"values": [1, None, *HISTORY]}], "horizon": 1}),
    ("forecast", "ragged_inputs", {"model": "segrnn", "series": [{"values": [[1, 2]]}], "horizon": 1}),
    ("forecast", "not_finite", b'{"series": [{"values": [1, 1e999]}], "horizon": 1}'),
    ("forecast", "wrong_task", {"model": "sentiment", "series": [{"values": HISTORY}], "horizon": 1}),
    ("step", "wrong_task", {"model": "sentiment", "items": [{"text": "a"}]}),
    ("step", "state_invalid", {"model": "forecast-live", "items": [{"state": "A" * 400, "values": [1]}]}),
    ("step", "ragged_inputs", {"model": "forecast-live", "items": [{"inputs": [[1, 2]]}]}),
    ("step", "item_too_large", {"model": "forecast-live", "items": [{"values": [1] * 4097}]}),
    ("step", "session_too_long", {"model": "forecast-live", "items": [{"values": [1] * 5}]}),
    ("tag", "wrong_task", {"model": "forecast", "inputs": ["a"]}),
    ("transform", "wrong_task", {"model": "forecast", "items": [{"values": [1]}]}),
    ("classify", "wrong_task", {"model": "forecast", "items": [{"values": [1]}]}),
    ("generate", "wrong_task", {"model": "forecast-live", "items": [{}]}),
    ("generate", "empty_input", {"items": []}),
    ("generate", "invalid_request", {"model": "charlm", "items": [{}], "max_steps": 5000}),
    ("generate", "item_too_large", {"model": "charlm", "items": [{"prompt": "a" * 100_001}]}),
    ("generate", "session_too_long", {"model": "charlm", "items": [{"prompt": "ROMEO"}]}),
    ("completions", "unknown_model", {"model": "nonesuch", "prompt": "a"}),
    ("completions", "invalid_request", {"prompt": "a", "best_of": 2}),
    ("completions", "item_too_large", {"model": "charlm", "prompt": "a" * 100_001}),
    ("completions", "session_too_long", {"model": "charlm", "prompt": "ROMEO"}),
    ("step", "not_finite", b'{"model": "forecast-live", "items": [{"values": [1, 1e999]}]}'),
]
REFUSALS_OF_INFER: list[tuple[str, dict[str, Any]]] = [
    ("invalid_request", {"inputs": [{**rows(1), "name": "value"}]}),
    ("empty_input", {"inputs": [rows(0)]}),
    ("ragged_inputs", {"inputs": [{**rows(1), "shape": [1, 2]}]}),
    ("not_finite", {"inputs": [{**rows(1), "datatype": "FP32", "data": [1e300]}]}),
    ("session_too_long", {"inputs": [rows(5)]}),
    ("item_too_large", {"inputs": [rows(4097)]}),
    ("batch_too_large", {"inputs": [{**rows(1025), "shape": [1025, 1]}]}),
    ("sequence_unknown", {"inputs": [rows(1)], "parameters": {"sequence_id": "sensor-8"}}),
]


def is_example(document: dict[str, Any], operation: str, code: str, answer: httpx.Response) -> None:
    """Check that an answer is the example of the error, but for the request's id."""
    example, given = errors(document, operation)[code], answer.json()["error"]
    shown = example["value"]["error"]
    if isinstance(shown, dict):
        given, shown = ({**error, "request_id": ""} for error in (given, shown))
    assert (answer.status_code, given) == (example["status"], shown)


@pytest.mark.parametrize(
    ("endpoint", "code", "body"), REFUSALS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_refusal_is_as_its_example(
    served: Server, document: dict[str, Any], endpoint: str, code: str, body: Any
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = served.client.post(f"/v1/{endpoint}", content=content, headers={"content-type": "application/json"})
    is_example(document, f"POST /v1/{endpoint}", code, answer)


@pytest.mark.parametrize(("code", "body"), REFUSALS_OF_INFER, ids=lambda value: value if isinstance(value, str) else "")
def test_a_refusal_of_tensors_is_as_its_example(
    served: Server, document: dict[str, Any], code: str, body: dict[str, Any]
) -> None:
    is_example(document, "POST /v2/models/{name}/infer", code, served.post(MODEL, body))


def test_a_body_of_another_kind_is_refused_as_its_example(served: Server, document: dict[str, Any]) -> None:
    plain = served.client.post("/v1/sentiment", content="a", headers={"content-type": "text/plain"})
    is_example(document, "POST /v1/sentiment", "unsupported_media_type", plain)
    packed = served.client.post(MODEL, content=b"", headers={"content-encoding": "gzip"})
    is_example(document, "POST /v2/models/{name}/infer", "unsupported_media_type", packed)


def test_a_state_of_another_model_or_version_is_refused_as_its_example(
    served: Server, document: dict[str, Any]
) -> None:
    began = served.post("/v1/step", {"model": "sentiment-live", "items": [{"text": "a"}]}).json()
    item = {"state": began["results"][0]["state"], "values": [1]}
    answer = served.post("/v1/step", {"model": "forecast-live", "items": [item]})
    is_example(document, "POST /v1/step", "state_wrong_model", answer)


def test_a_picture_that_is_not_there_is_refused_as_its_example(served: Server, document: dict[str, Any]) -> None:
    answer = served.client.get("/v1/models/spam/pictures/weekly.svg")
    is_example(document, "GET /v1/models/{name}/pictures/{file}", "not_found", answer)


def test_orders_are_refused_as_their_examples(served: Server, document: dict[str, Any], models: Path) -> None:
    load = "POST /v2/repository/models/{name}/load"
    broken = models / "broken" / "1" / "manifest.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{}")
    path = "/v2/repository/models/{}/load"
    is_example(document, load, "load_failed", served.post(path.format("broken"), {}, headers=examples.KEY))
    is_example(document, load, "unauthorized", served.post(path.format("broken"), {}))
    config = {"parameters": {"config": "{}"}}
    answer = served.post(path.format("sentiment"), config, headers=examples.KEY)
    is_example(document, load, "invalid_request", answer)
    index = served.post("/v2/repository/index", {"redy": True})
    is_example(document, "POST /v2/repository/index", "invalid_request", index)


@pytest.fixture
async def stepped(tiny_models: Path, tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Clock, dict[str, Any]]]:
    """A service in this process with a clock of the test's, and a request that goes on with a session."""
    clock = Clock()
    async with serve_here(Settings(models_dir=tiny_models, state_dir=tmp_path, store="memory"), clock) as (client, _):
        body = {"model": "stepper", "items": [{"inputs": [[1, 2]]}], "hold": "server"}
        held = (await client.post("/v1/step", json=body)).json()["results"][0]["state"]
        body["items"] = [{"inputs": [[1, 2]], "state": held}]
        yield client, clock, body


@pytest.mark.anyio
async def test_a_state_of_another_time_is_refused_as_its_example(
    document: dict[str, Any], stepped: tuple[httpx.AsyncClient, Clock, dict[str, Any]]
) -> None:
    client, clock, body = stepped
    clock.now -= 90
    is_example(document, "POST /v1/step", "state_from_future", await client.post("/v1/step", json=body))
    clock.now += 90 + Settings().state_ttl_s
    is_example(document, "POST /v1/step", "state_expired", await client.post("/v1/step", json=body))


@pytest.mark.anyio
async def test_a_state_that_is_not_in_the_store_and_a_caller_without_a_key_are_refused_as_their_examples(
    document: dict[str, Any],
    stepped: tuple[httpx.AsyncClient, Clock, dict[str, Any]],
    tiny_models: Path,
    tmp_path: Path,
) -> None:
    _, clock, body = stepped
    settings = Settings(models_dir=tiny_models, state_dir=tmp_path, store="memory")  # the same key, another store
    async with serve_here(settings, clock) as (client, _):
        is_example(document, "POST /v1/step", "state_gone", await client.post("/v1/step", json=body))
    keyed = settings.model_copy(update={"api_keys": Keyring("acme").entries})
    async with serve_here(keyed, clock) as (client, _):
        is_example(document, "POST /v1/step", "unauthorized", await client.post("/v1/step", json=body))


@pytest.mark.anyio
async def test_who_calls_too_often_or_from_elsewhere_is_refused_as_the_examples_say(
    document: dict[str, Any], tiny_models: Path, tmp_path: Path
) -> None:
    settings = Settings(models_dir=tiny_models, state_dir=tmp_path, store="memory", rate_limit="100/minute")
    async with serve_here(settings, Clock()) as (client, _):
        path = "/v2/models/stepper/infer"
        foreign = {"origin": "https://app.example.com", "content-type": "text/plain"}
        operation = "POST /v2/models/{name}/infer"
        is_example(document, operation, "origin_refused", await client.post(path, content=b"{}", headers=foreign))
        answers = [await client.get("/v1/models") for _ in range(101)]
    (shown, *_) = [answer.json()["error"] for answer in answers if answer.status_code == 429]
    example = errors(document, "GET /v1/models")["rate_limited"]["value"]["error"]
    assert shown["message"] == example["message"]


HARD_TO_CAUSE = (
    *("body_timeout", "deadline", "draining", "internal", "model_failed", "not_ready", "overloaded"),
    *("precision_too_low", "state_model_gone", "store_unavailable"),
)


@pytest.mark.parametrize("code", HARD_TO_CAUSE)
def test_the_words_of_other_examples_stand_where_the_error_is_raised(document: dict[str, Any], code: str) -> None:
    """What lies between the numbers and names of a message is the service's own."""
    files = [file for file in (ROOT / "service").rglob("*.py") if not file.name.endswith("examples.py")]
    literals = [node.value for file in files for node in ast.walk(ast.parse(file.read_text())) if is_text(node)]
    message = errors(document, "POST /v1/step")[code]["value"]["error"]["message"]
    words = [part for part in re.split(r"\d+|'[^']*'", message) if part.strip()]
    assert words
    assert not [part for part in words if not any(part in literal for literal in literals)]


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_error_s_example_is_compared_with_the_service() -> None:
    caused = {code for _, code, _ in REFUSALS} | {code for code, _ in REFUSALS_OF_INFER}
    elsewhere = {"state_wrong_model", "state_expired", "state_gone", "state_from_future"}
    elsewhere |= {"not_found", "unauthorized", "load_failed", "unsupported_media_type"}
    elsewhere |= {"rate_limited", "origin_refused"}
    assert {leaf.code for leaf in leaves()} == caused | elsewhere | {*HARD_TO_CAUSE} | OF_NO_OPERATION
