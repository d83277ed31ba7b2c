"""Sessions in any course that clients may take: each answer is that of an uninterrupted run of the session's inputs.

The oracle runs the model's graph in this process, over all rows since the beginning, and knows nothing of the service.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny
from here import Clock, vouched
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule, run_state_machine_as_test
from starlette.testclient import TestClient
from streams import CLOSE, Floats

from service.app import create_app
from service.settings import Settings

TTL_S = 1000
NUMBERS = st.floats(-4, 4, width=16)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4)
HOLD = st.sampled_from((None, "client", "server"))
Rows = list[tuple[float, float]]


@dataclass(frozen=True)
class Token:
    """A token, and what its session must be: the rows since its beginning. Units: `issued` in seconds."""

    text: str
    rows: tuple[tuple[float, float], ...]
    held: bool
    issued: float


class Service:
    """A service in this process, its clock the test's; and the oracle of its model."""

    def __init__(self, folder: Path) -> None:
        file = tiny.stepper(folder / "models") / "model.onnx"
        self._settings = Settings(models_dir=folder / "models", state_dir=folder / "state", state_ttl_s=TTL_S)
        self._graph, self.clock, self._running = onnxruntime.InferenceSession(file), Clock(), ExitStack()
        self.start()

    def start(self) -> None:
        """Start it (again), over the same key and the same store."""
        self._running.close()
        app = create_app(self._settings, tried=vouched(self._settings.models_dir), clock=self.clock, log_request=None)
        self.client = self._running.enter_context(TestClient(app))

    def close(self) -> None:
        self._running.close()

    def post(self, path: str, items: list[dict[str, Any]], **members: Any) -> list[dict[str, Any]]:
        """Return the results of a call."""
        answer = self.client.post(path, json={"model": "stepper", "items": items, **members})
        results: list[dict[str, Any]] = answer.json()["results"]
        return results

    def run(self, rows: Rows) -> Floats:
        """Return what the graph gives for each of the rows, in one run."""
        state = np.zeros((1, 1, 4), np.float32)
        feeds = {"x": np.array([rows], np.float32), "lengths": np.array([len(rows)], np.int32), "h": state, "c": state}
        (outputs,) = self._graph.run(["y"], feeds)
        made: Floats = outputs[0]
        return made


class Sessions(RuleBasedStateMachine):
    """Clients who keep every token that they ever got, and use any of them at any time."""

    tokens = Bundle("tokens")

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    @rule(target=tokens, rows=ROWS, hold=HOLD)
    def begin(self, rows: Rows, hold: str | None) -> Token:
        (result,) = self._service.post("/v1/step", [{"inputs": rows}], hold=hold, **{"return": "all"})
        return self._after((), rows, result, held=hold == "server")

    @rule(target=tokens, token=tokens, rows=ROWS, hold=HOLD)
    def step(self, token: Token, rows: Rows, hold: str | None) -> Any:
        """From the newest token, or an older one (a rewind), or one that has been used (a fork)."""
        return self._step([token], [rows], hold)

    @rule(target=tokens, token=tokens, rows=ROWS, hold=HOLD)
    def step_and_retry(self, token: Token, rows: Rows, hold: str | None) -> Any:
        """Whether the first answer came, or not, the second is the same."""
        self._step([token], [rows], hold)
        return self._step([token], [rows], hold)

    @rule(target=tokens, parents=st.lists(st.tuples(tokens, ROWS), min_size=2, max_size=5), hold=HOLD)
    def step_together(self, parents: list[tuple[Token, Rows]], hold: str | None) -> Any:
        return self._step([token for token, _ in parents], [rows for _, rows in parents], hold)

    @rule(target=tokens, token=tokens, rows=ROWS)
    def step_as_tensors(self, token: Token, rows: Rows) -> Any:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(rows), 2], "data": [rows]}
        body = {"inputs": [tensor], "parameters": {"state_token": token.text}}
        answer = self._service.client.post("/v2/models/stepper/infer", json=body)
        if self._has_expired(token):
            assert (answer.status_code, list(answer.json())) == (410, ["error"])
            return multiple()
        outputs = {output["name"]: output for output in answer.json()["outputs"]}
        made = {"y": np.array(outputs["y"]["data"]).reshape(len(rows), 3)}
        state = answer.json()["parameters"]["state_token"]
        result = {"outputs": made, "state": state, "step": len(token.rows) + len(rows)}
        return self._after(token.rows, rows, result, held=token.held)

    @rule(target=tokens, token=tokens, hold=st.sampled_from(("client", "server")))
    def move(self, token: Token, hold: str) -> Any:
        (result,) = self._service.post("/v1/state", [{"state": token.text}], hold=hold)
        if self._is_refused(token, result):
            return multiple()
        return self._after(token.rows, [], result, held=hold == "server")

    @rule(target=tokens, token=tokens, frames=st.lists(ROWS, max_size=4), hold=HOLD, leaves=st.booleans())
    def stream(self, token: Token, frames: list[Rows], hold: str | None, leaves: bool) -> Any:
        """Send frames, as text and as bytes in turns, and ask for a checkpoint, or leave without one."""
        opening = {"model": "stepper", "state": token.text, "hold": hold, "return": "all"}
        with self._service.client.websocket_connect("/v1/stream") as stream:
            stream.send_json(opening)
            opened = stream.receive_json()
            if self._is_refused(token, opened):
                return multiple()
            assert opened["step"] == len(token.rows)
            rows = list(token.rows)
            for number, frame in enumerate(frames):
                expected = self._service.run([*rows, *frame])[len(rows) :]
                if number % 2:
                    stream.send_bytes(np.array(frame, "<f4").tobytes())
                    given = np.frombuffer(stream.receive_bytes(), "<f4").reshape(-1, 3)
                else:
                    stream.send_json({"inputs": frame})
                    given = np.array(stream.receive_json()["outputs"]["y"])
                np.testing.assert_allclose(given, expected, atol=CLOSE)
                rows += frame
            if leaves:
                return multiple()
            stream.send_json({"checkpoint": True})
            held = token.held if hold is None else hold == "server"
            return self._after(tuple(rows), [], stream.receive_json(), held=held)

    @rule(token=tokens, place=st.integers(0, 10**6), other=st.integers(1, 63))
    def forge(self, token: Token, place: int, other: int) -> None:
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        place %= len(token.text)
        letter = letters[(letters.index(token.text[place]) + other) % 64]
        forged = token.text[:place] + letter + token.text[place + 1 :]
        (result,) = self._service.post("/v1/step", [{"state": forged, "inputs": [[1, 2]]}])
        assert result["error"]["code"] == "state_invalid"

    @rule(seconds=st.sampled_from((1, TTL_S // 2, TTL_S)))
    def wait(self, seconds: int) -> None:
        self._service.clock.now += seconds

    @rule()
    def restart(self) -> None:
        self._service.start()

    def _step(self, tokens: list[Token], rows: list[Rows], hold: str | None) -> Any:
        items = [{"state": token.text, "inputs": inputs} for token, inputs in zip(tokens, rows, strict=True)]
        results = self._service.post("/v1/step", items, hold=hold, **{"return": "all"})
        made = []
        for token, inputs, result in zip(tokens, rows, results, strict=True):
            if not self._is_refused(token, result):
                held = token.held if hold is None else hold == "server"
                made.append(self._after(token.rows, inputs, result, held=held))
        return multiple(*made)

    def _after(self, before: tuple[Any, ...], rows: Rows, result: dict[str, Any], *, held: bool) -> Token:
        """Check where a session stands; return the token of it."""
        whole = (*before, *rows)
        assert (result["step"], result.get("held", held)) == (len(whole), held)
        if rows:
            expected = self._service.run(list(whole))[len(before) :]
            np.testing.assert_allclose(np.array(result["outputs"]["y"]), expected, atol=CLOSE)
        return Token(result["state"], whole, held, self._service.clock.now)

    def _has_expired(self, token: Token) -> bool:
        return self._service.clock.now >= token.issued + TTL_S

    def _is_refused(self, token: Token, result: dict[str, Any]) -> bool:
        """Check that a token is refused, with the right code, if and only if its time is over."""
        assert ("error" in result) is self._has_expired(token), result
        assert "error" not in result or result["error"]["code"] == "state_expired"
        return "error" in result


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    yield running
    running.close()


def test_in_any_course_of_a_session_no_answer_differs_from_the_uninterrupted_run(service: Service) -> None:
    limits = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: Sessions(service), settings=limits)
