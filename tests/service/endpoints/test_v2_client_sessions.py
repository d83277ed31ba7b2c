"""Sessions over the Open Inference Protocol through tritonclient: sequences, whose states the server keeps, and tokens.

What it is given is compared with what ONNX Runtime gives in process for the same graph and steps, uninterrupted.
"""

from __future__ import annotations

from pathlib import Path

import in_process
import numpy as np
import pytest
from conftest import Server, ServerFactory
from triton_clients import Way, binary, connect, every_way, given, infer, outputs, parameters
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

CLOSE = 1e-5  # batching changes float32 sums only in their order
STEPS = np.random.default_rng(0).normal(size=(2, 6, 2)).astype(np.float32)


@pytest.fixture
def url(oip_server: Server) -> str:
    return oip_server.url


@every_way
@binary
def test_sequences_go_on_from_their_own_states(url: str, oip_models: Path, binary: bool, ask: Way) -> None:
    """The numbers 1 and up, and the same as strings, are sequences of their own."""
    right = in_process.steps_of(oip_models, STEPS)
    chunks = ([0], [1, 2, 3], [4, 5])
    for number, places in enumerate(chunks):
        for session, sequence_id in enumerate((7, "7")):
            flags = {"sequence_start": number == 0, "sequence_end": number == len(chunks) - 1}
            sent = given("x", STEPS[session : session + 1, places], binary=binary)
            wanted = [InferRequestedOutput("y", binary_data=binary)]
            result = ask(url, "stepper", [sent], outputs=wanted, sequence_id=sequence_id, **flags)
            taken = places[-1] + 1
            assert parameters(result) == {"sequence_id": sequence_id, **flags, "sequence_step": taken}
            np.testing.assert_allclose(result.as_numpy("y")[0], right[session, places], atol=CLOSE)
    for sequence_id in (7, "7"):
        with pytest.raises(InferenceServerException, match=r"sequence_start") as unknown:
            ask(url, "stepper", [given("x", STEPS[:1, :1])], sequence_id=sequence_id)
        assert unknown.value.status() == "400"


def test_a_sequence_that_is_started_again_begins_anew_and_says_so(url: str, oip_models: Path) -> None:
    right = in_process.steps_of(oip_models, STEPS[:1])[0, 0]
    first, again = (
        infer(url, "stepper", [given("x", STEPS[:1, :1])], sequence_id=8, sequence_start=True, sequence_end=end)
        for end in (False, True)
    )
    assert "sequence_restarted" not in parameters(first)
    assert parameters(again)["sequence_restarted"] is True
    for result in (first, again):
        np.testing.assert_allclose(result.as_numpy("y")[0, 0], right, atol=CLOSE)


def test_every_sequence_goes_on_after_a_crash(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(tiny_models, tmp_path)
    right = in_process.steps_of(tiny_models, STEPS)
    for places in ([0, 1, 2], [3, 4, 5]):
        if 0 not in places:
            server.kill()
            server.start()
        for session, steps in enumerate(STEPS[:, None, places]):
            flags = {"sequence_id": session + 1, "sequence_start": 0 in places}
            result = infer(server.url, "stepper", [given("x", steps)], **flags)
            np.testing.assert_allclose(result.as_numpy("y")[0], right[session, places], atol=CLOSE)


def test_steps_of_one_sequence_that_are_sent_at_once_are_taken_one_after_another(url: str) -> None:
    """Each step doubles what the state holds and adds one, so the totals tell whether any was taken beside another."""

    def sent(value: int) -> list[InferInput]:
        return [given("x", np.array([[value]], np.float32))]

    with connect(url, concurrency=6) as client:
        client.infer("numbers", sent(0), sequence_id=9, sequence_start=True)
        waiting = [client.async_infer("numbers", sent(1), sequence_id=9) for _ in range(6)]
        totals = sorted(each.get_result().as_numpy("total").item() for each in waiting)
    assert totals == [1, 3, 7, 15, 31, 63]


@every_way
@binary
def test_a_state_travels_as_a_token_and_forks(url: str, oip_models: Path, binary: bool, ask: Way) -> None:
    right = in_process.steps_of(oip_models, STEPS)
    first = ask(url, "stepper", [given("x", STEPS[:1, :2], binary=binary)])
    token = parameters(first)["state_token"]
    for _ in range(2):
        more = ask(url, "stepper", [given("x", STEPS[:1, 2:], binary=binary)], parameters={"state_token": token})
        np.testing.assert_allclose(more.as_numpy("y")[0], right[0, 2:], atol=CLOSE)
        assert parameters(more)["state_token"] != token


@binary
def test_a_batch_carries_a_token_for_each_row(url: str, oip_models: Path, binary: bool) -> None:
    right = in_process.steps_of(oip_models, STEPS)
    wanted = [InferRequestedOutput(name, binary_data=binary) for name in ("y", "state_token")]
    begun = infer(url, "stepper", [given("x", STEPS[:, :2], binary=binary)], outputs=wanted)
    tokens = outputs(begun)["state_token"]
    assert tokens.shape == (2,)
    inputs = [given("x", STEPS[::-1, 2:].copy(), binary=binary), given("state_token", tokens[::-1], binary=binary)]
    more = outputs(infer(url, "stepper", inputs))
    np.testing.assert_allclose(more["y"], right[::-1, 2:], atol=CLOSE)
    assert set(more) == {"y", "state_token"}
