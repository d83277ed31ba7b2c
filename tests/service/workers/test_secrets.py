"""What a service must not tell: no text, no state token and no key that it was given is in anything that it writes.

Names are told: an error says which member of a request is none, and which model is not there.

A service is asked for everything, in the right way and in wrong ones, with marked texts, tokens and keys; then all
that it wrote is searched: its log down to the least severe line, its metrics, its traces, its errors and its files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import tiny
import tiny_conditions
import tiny_kinds
import tiny_sequences
from conftest import Server
from keyring import Keyring
from streams import Stream, connect
from websockets.exceptions import WebSocketException

from loadtests.collector import Collector, collecting

TEXT = "zanzibarquux"  # a word that nobody else writes
GUESS = f"baton_0123456789ab_{TEXT}key"
KEYS = Keyring("acme", admin=True)


@dataclass
class Wrote:
    """All that a service wrote, by the name of where it did, and the tokens that it gave out."""

    parts: dict[str, str]
    tokens: list[str]


@pytest.fixture(scope="module")
def wrote(tmp_path_factory: pytest.TempPathFactory) -> Wrote:
    models, state_dir = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("state")
    tiny.all_models(models)
    tiny_kinds.spam(models)
    tiny_kinds.writer(models)
    tiny_sequences.tagger(models)
    tiny_conditions.translator(models)
    with collecting() as collector:
        server = Server(
            models,
            state_dir,
            BATON_API_KEYS=KEYS.setting,
            BATON_LOG_LEVEL="debug",
            BATON_TRACING="true",
            BATON_RATE_LIMIT="1000000/day",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )
        answers = list(ask_everything(server.client))
        frames = list(stream_everything(server, tokens_of(answers)))
        metrics = server.client.get("/metrics").text
        server.stop()
        errors = [answer.text for answer in answers if answer.status_code >= 400 or '"error"' in answer.text]
        frames_of_errors = [frame for frame in frames if '"error"' in frame]
        assert len(errors) > 100
        assert len(frames_of_errors) > 10
        parts = {
            "log": "\n".join(server.lines),
            "metrics": metrics,
            "traces": seen(collector),
            "errors": "\n".join([*errors, *frames_of_errors]),
            "files": "\n".join(file.read_bytes().decode("latin-1") for file in state_dir.rglob("*") if file.is_file()),
        }
        return Wrote(parts, tokens_of(answers))


def seen(collector: Collector) -> str:
    return b"".join(collector.bodies).decode("latin-1")


def tokens_of(answers: list[httpx.Response]) -> list[str]:
    found = []
    for answer in answers:
        with suppress(ValueError):
            content = answer.json()
            results = content.get("results", []) if isinstance(content, dict) else []
            found += [result["state"] for result in results if isinstance(result.get("state"), str)]
    return found


def ask_everything(client: httpx.Client) -> Iterator[httpx.Response]:
    """Yield the answers to all kinds of calls that hold the marked text, a token or a key somewhere."""

    def post(path: str, body: object, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **KEYS.header("acme"), **options.pop("headers", {})}
        return client.post(path, content=content, headers=headers, **options)

    step = post("/v1/step", {"model": "reader", "items": [{"text": f"good {TEXT}"}]})
    yield step
    token = step.json()["results"][0]["state"]
    held = post("/v1/step", {"model": "stepper", "hold": "server", "items": [{"inputs": [[1, 2]]}]})
    yield held
    for state in (token, token[:-8], token[:-4] + "AAAA", held.json()["results"][0]["state"], TEXT, None, 7):
        yield post("/v1/step", {"model": "reader", "items": [{"text": TEXT, "state": state}]})
        yield post("/v1/step", {"model": "stepper", "items": [{"inputs": [[1, 2]], "state": state}]})
        yield post("/v1/state", {"items": [{"state": state}]})
        yield post("/v1/generate", {"model": "writer", "items": [{"state": state, "prompt": TEXT}]})
    for path, body in bodies().items():
        for changed in changes(body):
            yield post(path, changed)
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
    for data in ([TEXT], [[TEXT]], [TEXT, TEXT], TEXT, [1]):
        for name in ("sentiment", "reader", "stepper"):
            yield post(f"/v2/models/{name}/infer", {"inputs": [{**tensor, "data": data}]})
    for parameters in ({"sequence_id": 5, "state_token": token}, {"state_token": TEXT}, {"state_token": token}):
        numbers = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1, 2]}
        yield post("/v2/models/stepper/infer", {"inputs": [numbers], "parameters": parameters})
    for key in (GUESS, KEYS["acme"], KEYS.admin, token):
        for header in (f"Bearer {key}", f"Basic {key}", key, f"Bearer {key}x"):
            yield post("/v1/sentiment", {"inputs": [TEXT]}, headers={"authorization": header})
            yield post("/v2/repository/models/stepper/load", {}, headers={"authorization": header})


def bodies() -> dict[str, dict[str, Any]]:
    return {
        "/v1/sentiment": {"inputs": [f"good {TEXT}", {"text": TEXT}], "scores": "all"},
        "/v1/classify": {"model": "spam", "items": [{"text": TEXT}]},
        "/v1/tag": {"model": "tagger", "items": [{"text": f"good {TEXT}"}]},
        "/v1/generate": {"model": "writer", "items": [{"prompt": TEXT}], "max_steps": 4, "seed": 1},
        "/v1/completions": {"model": "writer", "prompt": TEXT, "max_tokens": 4, "seed": 1},
        "/v1/translate": {"model": "translate", "items": [{"text": TEXT}]},
        "/v1/step": {"model": "reader", "items": [{"text": TEXT}]},
    }


def changes(body: dict[str, Any]) -> Iterator[object]:
    """Yield the body, and bodies that are wrong in many ways, all of which hold the text."""
    yield body
    whole = json.dumps(body).encode()
    yield from (whole[:-1], whole + b"]", whole.replace(TEXT.encode(), TEXT.encode() + b"\xff"), f'"{TEXT}'.encode())
    yield from (TEXT, [TEXT], {"txt": TEXT}, {**body, "extra": TEXT}, {**body, "model": "stepper"})
    for member in body.keys() - {"model"}:  # an error names the model that is not there
        yield from ({**body, member: wrong} for wrong in (TEXT, [[TEXT]], [{"text": [TEXT]}], [{"txt": TEXT}], [None]))
        yield {**body, member: [{"text": TEXT * 10_000}]}
        yield {**body, member: [{"text": TEXT, "inputs": [[TEXT]], "prompt": TEXT, "values": [TEXT]}]}


def stream_everything(server: Server, tokens: list[str]) -> Iterator[str]:
    """Yield the text frames that come for streams with the marked text, tokens and keys somewhere."""
    openings: list[dict[str, Any]] = [
        *({"model": "reader", "key": key} for key in (GUESS, KEYS.admin, KEYS["acme"], TEXT, 7)),
        *({"model": "reader", "key": KEYS["acme"], "state": state} for state in (tokens[0], tokens[0][:-4], TEXT, 7)),
        {"model": "reader", "key": KEYS["acme"], "hold": TEXT},
    ]
    frames = (
        {"text": TEXT},
        {"values": [TEXT]},
        {"inputs": TEXT},
        {"text": TEXT * 9000},
        {"txt": TEXT},
        TEXT,
        {"text": 1},
    )
    for opening in openings:
        with suppress(WebSocketException), connect(server) as connection:
            connection.send(json.dumps(opening))
            yield str(connection.recv())
            for frame in frames:
                connection.send(json.dumps(frame))
                yield str(connection.recv())
            connection.send(f'{{"text": "{TEXT}')
            yield str(connection.recv())
    for protocol in (f"baton.key.{GUESS}", f"baton.key.{KEYS['acme']}"):
        with suppress(WebSocketException), connect(server, subprotocols=["baton", protocol]) as connection:
            connection.send(TEXT)
            yield str(connection.recv())
    with Stream(server, api_key=KEYS["acme"], model="reader", checkpoint_every=1) as stream:
        stream.send(text=TEXT)
        yield from (json.dumps(stream.frame()) for _ in range(1))


@pytest.mark.parametrize("part", ["log", "metrics", "traces", "errors", "files"])
def test_nothing_that_a_service_writes_holds_a_text_a_token_or_a_key(wrote: Wrote, part: str) -> None:
    written = wrote.parts[part]
    assert written, "there is something to be searched"
    assert wrote.tokens
    secrets = {
        "text": TEXT,
        **{f"token {place}": token[30:60] for place, token in enumerate(wrote.tokens)},
        "key": KEYS["acme"].split("_", 2)[2],
        "admin key": KEYS.admin.split("_", 2)[2],
    }
    for name, secret in secrets.items():
        place = written.find(secret)
        assert place < 0, f"{name}: {written[max(0, place - 300) : place + 100]}"
