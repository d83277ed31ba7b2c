"""Sequences over /v2: sessions under a client's own ids, whichever process takes their next step."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
from conftest import RedisServer, Server, ServerFactory
from keyring import Keyring
from oip import arrays, infer, refusal, tensor

CLOSE = 1e-5
STEPS = np.random.default_rng(5).normal(size=(8, 6, 2)).astype(np.float32)


def parameters(id: int | str, *, start: bool = False, end: bool = False) -> dict[str, Any]:
    return {"sequence_id": id, "sequence_start": start, "sequence_end": end}


def steps(values: np.ndarray) -> dict[str, Any]:
    return tensor("x", "FP32", values.tolist())


def add(url: str, id: int | str, value: float, **flags: bool) -> float:
    """Take a step on a connection of its own; the model doubles what it holds and adds `value`."""
    body = {"inputs": [tensor("x", "FP32", [[value]])], "parameters": parameters(id, **flags)}
    answer = httpx.post(f"{url}/v2/models/numbers/infer", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return float(arrays(answer.json())["total"].item())


def served_by(url: str) -> set[str]:
    """Return which processes answer, by the beginning of the request ids that each makes."""
    return {httpx.get(f"{url}/healthz").headers["x-request-id"].split("-")[0] for _ in range(40)}


def test_workers_take_turns_with_the_steps_of_one_sequence(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_WORKERS="2")
    while len(served_by(server.url)) < 2:
        pass
    add(server.url, "shared", 0, start=True)
    with ThreadPoolExecutor(8) as clients:
        totals = list(clients.map(lambda _: add(server.url, "shared", 1), range(16)))
    assert sorted(totals) == [2.0**n - 1 for n in range(1, 17)]


def test_replicas_that_share_a_redis_take_turns_with_a_sequence(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, shared_redis: RedisServer
) -> None:
    replicas = [start_server(tiny_models, tmp_path / name, BATON_STORE=shared_redis.url) for name in ("one", "other")]
    add(replicas[0].url, 77, 0, start=True)
    with ThreadPoolExecutor(8) as clients:
        totals = list(clients.map(lambda n: add(replicas[n % 2].url, 77, 1), range(16)))
    assert sorted(totals) == [2.0**n - 1 for n in range(1, 17)]
    replicas[0].kill()
    assert add(replicas[1].url, 77, 1, end=True) == 2.0**17 - 1
    body = {"inputs": [tensor("x", "FP32", [[1.0]])], "parameters": parameters(77)}
    assert refusal(replicas[1], "numbers", body)[0] == 400


def test_sequences_share_runs_and_none_gets_another_s_state(server: Server) -> None:
    whole = arrays(infer(server, "stepper", steps(STEPS)))["y"]

    def follow(number: int) -> list[np.ndarray]:
        flags = [{"start": place == 0, "end": place == 5} for place in range(6)]
        return [
            arrays(
                infer(
                    server,
                    "stepper",
                    steps(STEPS[number : number + 1, place : place + 1]),
                    parameters=parameters(f"row {number}", **flags[place]),
                )
            )["y"][0, 0]
            for place in range(6)
        ]

    with ThreadPoolExecutor(8) as clients:
        made = np.array(list(clients.map(follow, range(8))))
    np.testing.assert_allclose(made, whole, atol=CLOSE)


ONE, TWO = steps(STEPS[:1, :1]), steps(STEPS[:2, :1])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"inputs": [TWO]}, "parameters.sequence_id: 2 rows; a request of a sequence has one"),
        ({"inputs": [tensor("x", "FP32", [[[1.0]]])]}, "x: has the shape [1, 1, 1]; the model takes [-1, -1, 2]"),
        ({"outputs": [{"name": "z"}]}, "outputs[0].name: there is no output 'z'; there are y, state_token"),
        ({"outputs": [{"name": "state_token"}]}, "outputs[0].name: the server keeps the state of a sequence"),
        (
            {"inputs": [ONE, tensor("state_token", "BYTES", ["a"])]},
            "state_token: the server keeps the state of a sequence; leave it out",
        ),
    ],
)
def test_a_step_that_is_refused_has_not_been_taken(server: Server, change: dict[str, Any], error: str) -> None:
    infer(server, "stepper", ONE, parameters=parameters("kept", start=True))
    assert refusal(server, "stepper", {"inputs": [ONE], "parameters": parameters("kept"), **change}) == (400, error)
    last = infer(server, "stepper", steps(STEPS[:1, 1:]), parameters=parameters("kept", end=True))
    whole = arrays(infer(server, "stepper", steps(STEPS[:1])))["y"]
    np.testing.assert_allclose(arrays(last)["y"], whole[:, 1:], atol=CLOSE)


@pytest.mark.parametrize("id", [True, 1.5, None, -1, 2**64, "a" * 129, [1]])
def test_an_id_is_a_number_or_a_text(server: Server, id: Any) -> None:
    """Null is as if it were left out, and then the flags belong to nothing."""
    status, error = refusal(server, "stepper", {"inputs": [ONE], "parameters": parameters(id, start=True)})
    assert status == 400
    assert error.startswith("parameters.sequence")


def test_a_sequence_belongs_to_its_tenant_and_its_model(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    keys = Keyring("acme", "umbrella")
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=keys.setting)

    def ask(tenant: str, model: str, values: Any, **flags: bool) -> int:
        body = {"inputs": [tensor("x", "FP32", values)], "parameters": parameters(5, **flags)}
        headers = keys.header(tenant)
        return httpx.post(f"{server.url}/v2/models/{model}/infer", json=body, headers=headers).status_code

    assert ask("acme", "numbers", [[1.0]], start=True) == 200
    assert ask("umbrella", "numbers", [[1.0]]) == 400
    assert ask("acme", "stepper", [[[1.0, 1.0]]]) == 400
    assert ask("acme", "numbers", [[1.0]]) == 200


def test_a_sequence_goes_on_with_its_version_and_its_outputs(tmp_path: Path, start_server: ServerFactory) -> None:
    """The newer version has an output of another name, and answers what begins now. Steps count as those of tokens."""
    models = tmp_path / "models"
    tiny.stepper(models)
    server = start_server(models, tmp_path / "state")
    first = infer(server, "stepper", ONE, parameters=parameters(1, start=True))
    token = infer(server, "stepper", ONE)["parameters"]["state_token"]
    tiny.stepper(models, version="2", seed=9, output="z")
    marked = server.mark()
    server.process.send_signal(signal.SIGHUP)
    server.lines_since(marked, until="models reloaded")
    for state in (parameters(1), {"state_token": token}):
        body = {"inputs": [ONE], "parameters": state, "outputs": [{"name": "z"}]}
        error = "outputs[0].name: there is no output 'z'; there are y, state_token"
        assert refusal(server, "stepper", body) == (400, error)
        answer = infer(server, "stepper", ONE, parameters=state, outputs=[{"name": "y"}])
        assert (answer["model_version"], answer["outputs"][0]["name"]) == ("1", "y")
    assert infer(server, "stepper", ONE, parameters=parameters(1))["parameters"]["sequence_step"] == 3
    assert first["parameters"]["sequence_step"] == 1
    assert infer(server, "stepper", ONE, parameters=parameters(2, start=True))["model_version"] == "2"
    older = infer(server, "stepper/versions/1", ONE, parameters=parameters(3, start=True))
    assert older["model_version"] == "1"
    wrong = {"inputs": [ONE], "parameters": parameters(3)}
    message = "state_token: the state is of version 1, the request names 2"
    opened = server.metric("baton_tokens_opened_total", "model", "stepper")
    assert refusal(server, "stepper/versions/2", wrong) == (409, message)
    assert server.metric("baton_tokens_opened_total", "model", "stepper") == opened + 1
    assert server.metric("baton_tokens_rejected_total", "reason", "wrong_version") == 1
