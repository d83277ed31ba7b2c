"""When the client asks for events again: until the first one has come, and never after it."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from answering import EVENTS, LAST, Answer, answering, refused, told
from handlers import QuietHandler, handled_by

from baton_client import ApiError, AsyncClient, Client, ProtocolError, Unreachable


@pytest.mark.parametrize(
    "trouble",
    [refused(429, "overloaded"), refused(503, "draining"), (502, "text/html", b"Bad Gateway"), told()],
    ids=["429", "503", "502 of a proxy", "no event"],
)
def test_what_passes_is_asked_again_until_the_first_event(trouble: Answer) -> None:
    with answering(trouble, trouble, told(*EVENTS, LAST)) as (url, asked), Client(url) as client:
        assert "".join(event.text or "" for event in client.generate_stream("x", seed=1)) == "abc"
    assert len(asked) == 3
    assert json.loads(asked[-1]) == {"items": [{"prompt": "x"}], "seed": 1, "stream": True}


def test_after_the_first_event_nothing_is_asked_again() -> None:
    with answering(told(*EVENTS), told(*EVENTS, LAST)) as (url, asked), Client(url) as client:
        events = client.generate_stream("x")
        assert [next(events).text for _ in EVENTS] == [*"abc"]
        with pytest.raises(Unreachable, match="the answer ended before its last event"):
            next(events)
    assert len(asked) == 1


def test_an_item_s_error_comes_behind_what_came_before_it() -> None:
    error = {"index": 0, "id": None, "error": {"code": "deadline", "message": "too late"}}
    with answering(told(EVENTS[0], error, LAST)) as (url, _), Client(url) as client:
        events = client.generate_stream("x")
        assert next(events).text == "a"
        with pytest.raises(ApiError, match="deadline"):
            next(events)
        assert list(events) == []


NONE_OF_THE_SERVICE = {
    "no events": (200, "application/json", b"{}"),
    "no JSON": (200, "text/event-stream", b"data: {\n\n"),
    "no UTF-8": (200, "text/event-stream", b'data: {"choice": 0, "text": "\xff"}\n\n'),
    "a number": told(5),
    "pairs": told([["choice", 0]]),
    "no choice": told({"index": 0}),
    "no time": told({"index": 0, "choice": 0, "expires_at": "soon"}),
    "an error without a code": told({"index": 0, "error": {}}),
}


@pytest.mark.parametrize("answer", NONE_OF_THE_SERVICE.values(), ids=NONE_OF_THE_SERVICE.keys())
def test_what_is_no_answer_of_the_service_is_said_to_be_none(answer: Answer) -> None:
    with (
        answering(answer) as (url, _),
        Client(url) as client,
        pytest.raises(ProtocolError, match=r"no event|event that is none of this"),
    ):
        next(client.generate_stream("x"))


FACTS = {"model": "m", "version": "1", "usage": {}, "timing_ms": {}}
CUT = {
    **{"choice": 0, "text": "abc", "seed": 1, "steps": 3, "finish": "error", "version": "1"},
    **{"state": "token", "step": 3, "expires_at": "2100-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("status", [503, 200], ids=["alone", "beside another"])
def test_what_was_written_before_it_was_cut_short_comes_with_the_error_and_is_not_asked_again(status: int) -> None:
    error = {"code": "draining", "message": "shutting down", "retry_after_ms": 1}
    cut = {"index": 0, "id": None, "error": error, "choices": [CUT]}
    answer = json.dumps({**FACTS, "results": [cut], **({"error": error} if status == 503 else {})}).encode()
    with (
        answering((status, "application/json", answer)) as (url, asked),
        Client(url) as client,
        pytest.raises(ApiError, match="draining") as raised,
    ):
        client.generate("x")
    (choice,) = raised.value.choices
    assert (choice.text, choice.finish, choice.state, choice.step) == ("abc", "error", "token", 3)
    assert len(asked) == 1


BREAKS = "a\u2028b\u2029c\x85d\r\x0b\x0c\x1c\x1d\x1ee"


@pytest.mark.parametrize("lead", [b"data: ", b"data:"], ids=["a space", "no space"])
def test_an_event_is_a_line_whatever_its_text_holds(lead: bytes) -> None:
    status, kind, content = told({"index": 0, "choice": 0, "text": BREAKS}, LAST)
    with answering((status, kind, content.replace(b"data: ", lead))) as (url, _), Client(url) as client:
        assert [event.text for event in client.generate_stream("x")] == [BREAKS]


@pytest.mark.parametrize("answer", [{}, {**FACTS, "results": [{"id": None, "choices": [{"choice": 0}]}]}, [1]])
def test_a_whole_answer_without_what_it_must_have_is_none_of_the_service(answer: object) -> None:
    whole = 200, "application/json", json.dumps(answer).encode()
    says = r"answer or event that is none of this version|no JSON object"
    with answering(whole) as (url, _), Client(url) as client, pytest.raises(ProtocolError, match=says):
        client.generate()


def test_events_are_asked_for_by_a_call_of_their_own() -> None:
    with answering() as (url, asked), Client(url) as client:
        for call in (client.generate, client.generate_stream):
            with pytest.raises(ValueError, match="stream is no option: generate and generate_many answer whole"):
                call("x", stream=True)
    assert asked == []


@pytest.mark.anyio
@pytest.mark.parametrize("waits", [False, True], ids=["between two events", "in the wait for one"])
async def test_events_of_a_client_that_is_closed_say_so(waits: bool) -> None:
    left = asyncio.Event()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        writer.write(head + told(EVENTS[0])[2])
        while await reader.read(65_536):
            pass
        writer.close()
        left.set()

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        client = AsyncClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        events = client.generate_stream("x")
        assert (await anext(events)).text == "a"
        following = asyncio.create_task(anext(events)) if waits else None
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await (following or anext(events))
        await left.wait()


def test_what_breaks_without_a_word_is_named() -> None:
    """As the silence behind an event, of which httpx says nothing."""
    go_on = threading.Event()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(told(EVENTS[0])[2])
            go_on.wait()

    with handled_by(Handler) as url, Client(url, timeout=1.0) as client:
        events = client.generate_stream("x")
        assert next(events).text == "a"
        with pytest.raises(Unreachable, match=r": ReadTimeout$"):
            next(events)
        go_on.set()
