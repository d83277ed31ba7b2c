"""The Python client's calls: typed results and errors, and where streams wait for the service."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Server, ServerFactory
from keyring import Keyring

from baton_client import NEW, ApiError, AsyncClient, Client, StepItem

CLOSE = 1e-5
ROWS = np.random.default_rng(11).normal(size=(12, 2)).astype(np.float32)
SERVER_PARTS = (
    *("service", "training", "torch", "onnxruntime", "fastapi", "starlette", "uvicorn", "pydantic", "tokenizers"),
    "cryptography",
)
KEYS = Keyring("tenant")


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    assert server.url is not None
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def strict(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that asks for a key, and closes streams that say nothing for a second."""
    settings = {"BATON_API_KEYS": KEYS.setting, "BATON_STREAM_IDLE_S": "1"}
    running = Server(tiny_models, tmp_path_factory.mktemp("strict"), **settings)
    yield running
    running.stop()


def test_importing_the_client_loads_no_part_of_the_server() -> None:
    script = f"import sys, baton_client; print([name for name in {SERVER_PARTS} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


# -- results ---------------------------------------------------------------------------------------------------------


def test_sentiment_labels_texts(client: Client) -> None:
    batch = client.sentiment(["a good film", {"id": "b", "text": "not good"}], scores="all")
    assert [result.id for result in batch] == [None, "b"]
    assert set(batch[0].scores or {}) == {"negative", "positive"}
    assert batch[0].score == max((batch[0].scores or {}).values())
    assert (batch.model, batch.version, batch.usage["rows"], batch.errors) == ("sentiment", "1", 2, {})


def test_forecasts_are_arrays_and_nan_is_a_missing_value(client: Client) -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0])
    batch = client.forecast([values, {"id": "f", "values": [1, 2, 3], "start": "2024-01-01", "freq": "D"}], 2)
    with pytest.raises(ApiError) as missing:
        batch[0]
    assert (missing.value.code, missing.value.status) == ("missing_values", 422)
    assert batch[1].mean.shape == (2,)
    assert sorted(batch[1].quantiles) == [0.1, 0.5, 0.9]
    assert (batch[1].id, len(batch[1].timestamps or [])) == ("f", 2)
    assert client.forecast([values], 2, missing="linear")[0].warnings


def test_a_failed_item_raises_where_it_is_read_and_its_neighbours_stay(client: Client) -> None:
    batch = client.step_many("stepper", [StepItem(ROWS[:1], id="a"), StepItem([[1, 2, 3]]), StepItem(ROWS[:1])])
    assert len(batch) == 3
    assert list(batch.errors) == [1]
    assert (batch.errors[1].code, batch.errors[1].field) == ("ragged_inputs", "items[1].inputs[0]")
    np.testing.assert_array_equal(batch[0].outputs["y"], batch[2].outputs["y"])
    with pytest.raises(ApiError, match="ragged_inputs"):
        list(batch)
    with pytest.raises(ApiError, match="ragged_inputs"):
        batch[:2]


def test_where_every_item_failed_they_are_told_one_by_one(client: Client) -> None:
    batch = client.step_many("stepper", [StepItem([[1.0]]), StepItem([[np.nan, 1.0]])])
    assert [error.code for error in batch.errors.values()] == ["ragged_inputs", "not_finite"]


def test_steps_carry_the_state(client: Client) -> None:
    every = client.step("stepper", ROWS, returns="all")
    assert (every.step, every.outputs["y"].shape) == (12, (12, 3))
    assert every.expires_at > datetime.now(UTC)
    state, made = NEW, []
    for row in ROWS:
        result = client.step("stepper", row[None], state=state)
        state = result.state
        made.append(result.outputs["y"])
    np.testing.assert_allclose(made, every.outputs["y"], atol=CLOSE)
    assert client.step("reader", "a good film").tokens == ["a", "good", "film"]
    assert client.step("numbers", [1.0, 2.0]).step == 2


def test_a_lost_token_begins_no_session(client: Client) -> None:
    with pytest.raises(ValueError, match="NEW"):
        client.step("stepper", ROWS, state=None)
    with pytest.raises(ApiError, match="state_invalid"):
        client.step("stepper", ROWS, state="")


@pytest.mark.parametrize("inputs", [1.0, np.zeros((2, 2, 2))])
def test_inputs_of_an_impossible_shape_are_refused_here(client: Client, inputs: object) -> None:
    with pytest.raises(ValueError, match="give k rows"):
        client.step("stepper", inputs)


def test_models_and_limits_can_be_read(client: Client) -> None:
    assert "stepper" in [model["name"] for model in client.models()]
    assert client.info()["limits"]["max_items"] == 1024


@pytest.mark.anyio
async def test_the_blocking_client_works_where_a_loop_runs(client: Client, server: Server) -> None:
    assert server.url is not None
    async with AsyncClient(server.url) as other:
        one, two = client.step("stepper", ROWS), await other.step("stepper", ROWS)
    np.testing.assert_array_equal(one.outputs["y"], two.outputs["y"])


# -- errors ----------------------------------------------------------------------------------------------------------


def test_a_refusal_carries_what_the_service_says(client: Client) -> None:
    with pytest.raises(ApiError) as refused:
        client.sentiment(["a"] * 1025)
    error = refused.value
    assert (error.code, error.status, error.field, error.limit) == ("batch_too_large", 413, "inputs", 1024)
    assert error.request_id
    assert error.retry_after is None
    with pytest.raises(ApiError, match="skores"):
        client.sentiment(["a"], skores="all")


def test_an_api_key_goes_with_calls_and_streams(strict: Server) -> None:
    assert strict.url is not None
    with Client(strict.url) as client:
        with pytest.raises(ApiError, match="unauthorized"):
            client.models()
        with pytest.raises(ApiError, match="unauthorized"), client.stream("stepper"):
            pass
    with Client(strict.url, api_key=KEYS["tenant"]) as client, client.stream("stepper") as stream:
        assert stream.step(ROWS).step == client.step("stepper", ROWS).step


@pytest.mark.parametrize("urls", [[], "localhost:8000", ["http://a", "b"]])
def test_an_impossible_url_is_refused(urls: list[str] | str) -> None:
    with pytest.raises(ValueError, match="http://"):
        Client(urls)


def test_a_stream_waits_for_its_turn_where_too_many_are_open(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_MAX_STREAMS="1")
    assert server.url is not None
    with Client(server.url) as client:
        first = client.stream("stepper").__enter__()
        closing = threading.Thread(target=lambda: (server.lines_since(0, until="429"), first.close()))
        closing.start()
        with client.stream("stepper") as second:
            assert second.step(ROWS).step == 12
        closing.join()


def test_a_stream_that_was_closed_for_idleness_goes_on(strict: Server) -> None:
    assert strict.url is not None
    with Client(strict.url, api_key=KEYS["tenant"]) as client, client.stream("stepper") as stream:
        start = len(strict.lines)
        stream.step(ROWS[:5])
        strict.lines_since(start, until="close=1001")
        made = stream.step(ROWS[5:])
        assert made.step == 12
        assert made.outputs["y"] == pytest.approx(client.step("stepper", ROWS).outputs["y"], abs=CLOSE)
