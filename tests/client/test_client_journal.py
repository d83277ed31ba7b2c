"""The journal of a client's stream against a server in a few lines, in every order of events that hypothesis finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sums import REFUSED, Sum

from baton_client.errors import ApiError, ProtocolError, Unreachable
from baton_client.journal import Entry, Journal
from baton_client.results import StepOutput

EVENTS = st.lists(st.sampled_from(["input", "refused", "checkpoint", "serve", "serve", "hear", "hear", "cut", "drain"]))

OPENING = '{"type": "open", "version": "1", "step": %d, "features": null, "dtype": "float32", "outputs": []}'


def journal(checkpoint_every: int = 3) -> Journal:
    return Journal({"model": "sum", "return": "last", "checkpoint_every": checkpoint_every}, binary=False)


class Client:
    """A journal and the connection it is on."""

    def __init__(self, checkpoint_every: int) -> None:
        self.journal = journal(checkpoint_every)
        self.news: list[StepOutput | ApiError] = []
        self.reconnect()

    def reconnect(self) -> None:
        self.server = Sum(self.journal.opening())
        self.news += self.journal.opened(self.server.said.popleft())

    def send(self) -> None:
        while (frame := self.journal.next_frame()) is not None:
            assert isinstance(frame, str)
            self.server.heard.append(frame)

    def hear(self) -> None:
        self.news += self.journal.receive(self.server.said.popleft())


@settings(max_examples=500, deadline=None)
@given(EVENTS, st.integers(1, 5))
def test_each_input_is_answered_once_in_order_whatever_is_lost(events: list[str], every: int) -> None:
    client = Client(every)
    inputs: list[float] = []
    asked: list[Entry] = []
    for event in [*events, "finish"]:
        if event in ("input", "refused"):
            inputs.append(float(len(inputs) + 1) if event == "input" else REFUSED)
            client.journal.add([inputs[-1]])
        elif event == "checkpoint":
            asked.append(client.journal.ask_checkpoint())
        elif event == "cut":
            client.reconnect()
        elif event == "drain":
            client.server.checkpoint()
            while client.server.said:
                client.hear()
            client.reconnect()
        client.send()
        while client.server.heard and event in ("serve", "finish"):
            client.server.serve()
            if event == "serve":
                break
        while client.server.said and event in ("hear", "finish"):
            client.hear()
            if event == "hear":
                break
    for entry in asked:
        assert isinstance(entry.answer, str) or (entry.answer is not None and entry.answer.code == "precision_too_low")
    assert len(client.news) == len(inputs)
    assert len(client.journal.unacknowledged) < every + 1
    total, steps = 0.0, 0
    for given_input, got in zip(inputs, client.news, strict=True):
        if given_input == REFUSED:
            assert isinstance(got, ApiError)
            assert got.code == "not_finite"
        else:
            assert isinstance(got, StepOutput)
            total, steps = total + given_input, steps + 1
            assert (got.step, got.outputs["sum"]) == (steps, total)


def test_a_frame_that_is_too_large_is_refused_in_its_place() -> None:
    client = Client(3)
    for values in ([1.0], [2.0] * 50, [3.0]):
        client.journal.add(values)
    client.send()
    client.server.serve()
    client.hear()
    assert client.journal.refuse_largest()[0].code == "item_too_large"
    client.reconnect()
    client.send()
    while client.server.heard:
        client.server.serve()
    while client.server.said:
        client.hear()
    assert [getattr(one, "step", None) for one in client.news] == [1, 2]


def test_a_state_that_expired_is_refused_for_good() -> None:
    message = '{"type": "error", "final": true, "step": 0, "error": {"code": "state_expired", "message": "too old"}}'
    with pytest.raises(ApiError) as refused:
        journal().opened(message)
    assert (refused.value.status, refused.value.transient) == (410, False)


def test_inputs_are_copied() -> None:
    kept, reused = Client(3).journal, np.ones(2)
    kept.add(reused)
    reused[:] = 5
    assert kept.unacknowledged[0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("{}", ProtocolError),
        ("[]", ProtocolError),
        ("nonsense", ProtocolError),
        ('{"type": "step"}', ProtocolError),
        ('{"type": "stop"}', ProtocolError),
        (b"\0\0\0\0", ProtocolError),
        (OPENING % 0, ProtocolError),
        ('{"type": "step", "step": 7, "outputs": {"sum": 1}}', ProtocolError),
        ('{"type": "checkpoint", "asked": false, "step": 1, "state": "x"}', ProtocolError),
        ('{"type": "error", "final": true, "step": 0, "error": {"code": "draining", "message": ""}}', ApiError),
        ('{"type": "error", "final": true, "step": 0, "error": {"code": "internal", "message": ""}}', Unreachable),
    ],
)
def test_what_does_not_fit_ends_the_connection(message: str | bytes, error: type[Exception]) -> None:
    """A replay is under way: the first input was answered before."""
    client = Client(3)
    client.journal.add([1.0])
    client.send()
    client.server.serve()
    client.hear()
    client.reconnect()
    client.send()
    with pytest.raises(error):
        client.journal.receive(message)


@pytest.mark.parametrize(
    "message",
    [
        OPENING % 3,
        '{"type": "step", "step": 0, "outputs": []}',
    ],
)
def test_an_opening_at_another_step_is_refused(message: str) -> None:
    with pytest.raises(ProtocolError, match="opening at step 0"):
        journal().opened(message)


def test_what_was_answered_before_may_not_be_refused_in_a_replay() -> None:
    client = Client(3)
    client.journal.add([1.0])
    client.send()
    client.server.serve()
    client.hear()
    client.reconnect()
    client.send()
    with pytest.raises(ProtocolError, match="refused in the replay"):
        client.journal.receive(
            '{"type": "error", "final": false, "step": 0, "error": {"code": "not_finite", "message": ""}}'
        )


@pytest.mark.parametrize(
    ("sent", "message", "says"),
    [
        (0, '{"type": "step", "step": 1, "outputs": {"sum": 1}}', "nothing that was sent"),
        (1, '{"type": "checkpoint", "asked": true, "step": 0, "state": "x"}', "not asked for"),
        (1, b"\0\0\0\0", "a binary answer to a text frame"),
    ],
)
def test_an_answer_to_something_else_is_no_answer(sent: int, message: str | bytes, says: str) -> None:
    client = Client(3)
    for _ in range(sent):
        client.journal.add([1.0])
    client.send()
    with pytest.raises(ProtocolError, match=says):
        client.journal.receive(message)


def test_no_frame_is_too_large_where_none_was_sent() -> None:
    with pytest.raises(ProtocolError, match="none was sent"):
        journal().refuse_largest()
