"""A tenant's states are of no use to another, on whatever way they come in, and whoever holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from keyring import Keyring
from streams import Stream

KEYS = Keyring("acme", "bolt")
Ask = Callable[[Server, str, str], str]  # with a state and a tenant; returns the code of the refusal, or "ok"


@pytest.fixture(scope="module")
def shared(writer_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(writer_models, tmp_path_factory.mktemp("shared"), BATON_API_KEYS=KEYS.setting)
    yield running
    running.stop()


def post(server: Server, path: str, body: dict[str, Any], tenant: str) -> Any:
    return server.post(path, body, headers=KEYS.header(tenant)).json()


def of_first(answer: Any) -> str:
    """Return the code of the error in an answer, of all of it or of its first item."""
    content = answer if "error" in answer else answer.get("results", answer.get("choices", [answer]))[0]
    if "choices" in content and "error" not in content:
        content = content["choices"][0]
    error = content.get("error")
    return "ok" if error is None else error["code"]


def step(server: Server, state: str, tenant: str) -> str:
    body = {"model": "generator", "items": [{"text": "a", "state": state}]}
    return of_first(post(server, "/v1/step", body, tenant))


def carry(server: Server, state: str, tenant: str) -> str:
    body = {"model": "generator", "hold": "client", "items": [{"state": state}]}
    return of_first(post(server, "/v1/state", body, tenant))


def generate(server: Server, state: str, tenant: str) -> str:
    body = {"model": "generator", "items": [{"state": state, "prompt": "a"}], "max_steps": 2}
    return of_first(post(server, "/v1/generate", body, tenant))


def complete(server: Server, state: str, tenant: str) -> str:
    return of_first(post(server, "/v1/completions", {"model": "generator", "prompt": "a", "state": state}, tenant))


def stream(server: Server, state: str, tenant: str) -> str:
    with Stream(server, "generator", api_key=KEYS[tenant], state=state) as opened:
        return "ok" if opened.opened["type"] == "open" else str(opened.opened["error"]["code"])


def infer(server: Server, state: str, tenant: str) -> str:
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    body = {"inputs": [text], "parameters": {"state_token": state}}
    answer = post(server, "/v2/models/generator/infer", body, tenant)
    if "outputs" in answer:
        return "ok"
    error: str = answer["error"]
    return "state_invalid" if error.startswith("state_token: ") and "belongs to someone else" in error else error


@pytest.mark.parametrize("hold", ["client", "server"])
@pytest.mark.parametrize("ask", [step, carry, generate, complete, stream, infer])
def test_a_state_is_of_use_to_its_tenant_alone(shared: Server, ask: Ask, hold: str) -> None:
    body = {"model": "generator", "hold": hold, "items": [{"text": "a"}]}
    (result,) = post(shared, "/v1/step", body, "acme")["results"]
    assert ask(shared, result["state"], "acme") == "ok"
    assert ask(shared, result["state"], "bolt") == "state_invalid"
    assert ask(shared, result["state"], "acme") == "ok"
