"""The chain that every request and every WebSocket passes, the dispatcher behind it, and what may be added to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from here import Clock, serve_here
from keyring import Keyring
from pydantic import Field
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.errors import NotFound, RequestError
from service.settings import Settings
from service.web.access_log import ACCESS
from service.web.context import Call, Caller, Service, caller_of
from service.web.dispatch import Dispatcher
from service.web.error_shapes import ErrorAnswers, error_object
from service.web.middleware import RequestScope
from service.web.routes import BodyRoute
from service.web.schema import BatchRequest

pytestmark = pytest.mark.anyio

STEP = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}


def settings_of(folder: Path, **settings: Any) -> Settings:
    return Settings(models_dir=folder / "models", state_dir=folder / "state", **settings)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[FastAPI]:
    tiny.stepper(tmp_path / "models")
    async with serve_here(settings_of(tmp_path), Clock()) as (_, running):
        yield running


class Exchange:
    """One HTTP request to an ASGI application, and what came back; `begun` once a part of the answer is there."""

    def __init__(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: Scope = {"type": "http", "method": method, "path": path, "headers": fields, "query_string": b""}
        self.sent: list[Message] = []
        self._body: bytes | None = body
        self._left, self.begun = asyncio.Event(), asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.begun.set()

    async def run(self, app: ASGIApp) -> Exchange:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


def access_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == ACCESS]


def test_middleware_that_is_added_sees_every_request_and_websocket(tmp_path: Path) -> None:
    tiny.stepper(tmp_path / "models")
    seen: list[tuple[str, str]] = []

    class Witness:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                seen.append((caller_of(scope).verb, scope["path"]))
            await self._app(scope, receive, send)

    app = create_app(settings_of(tmp_path))
    app.add_middleware(Witness)
    with TestClient(app) as client:
        assert client.post("/v1/step", json=STEP).status_code == 200
        assert client.get("/v1/models").status_code == 200
        with client.websocket_connect("/v1/stream") as stream:
            stream.send_json({"model": "stepper"})
            assert stream.receive_json()["type"] == "open"
    assert seen == [("POST", "/v1/step"), ("GET", "/v1/models"), ("WS", "/v1/stream")]


async def test_a_streamed_answer_is_logged_and_counted_when_it_ends(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, ACCESS)
    go_on = asyncio.Event()

    @app.get("/v1/slow")
    async def slow() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one "
            await go_on.wait()
            yield b"two"

        return StreamingResponse(parts())

    exchange = Exchange("GET", "/v1/slow")
    running = asyncio.create_task(exchange.run(app))
    await exchange.begun.wait()
    assert access_lines(caplog) == []
    go_on.set()
    await running
    assert exchange.body == b"one two"
    (line,) = access_lines(caplog)
    assert line.startswith("GET /v1/slow 200 ")
    assert (
        'baton_requests_total{endpoint="/v1/slow",status="200"} 1.0'
        in (await app.state.service.metrics.render()).decode()
    )


async def test_a_client_that_leaves_in_the_middle_of_an_answer_ends_it(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, ACCESS)
    ended = asyncio.Event()

    @app.get("/v1/endless")
    async def endless() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"more "
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(parts())

    exchange = Exchange("GET", "/v1/endless")
    running = asyncio.create_task(exchange.run(app))
    await exchange.begun.wait()
    exchange.leave()
    await running
    assert ended.is_set()
    (line,) = access_lines(caplog)
    assert line.startswith("GET /v1/endless 499 ")


async def test_an_error_has_the_shape_of_the_part_of_the_api_that_was_asked(app: FastAPI) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotFound("nothing here")

    def text(caller: Caller, error: RequestError) -> tuple[int, dict[str, Any]]:
        return 400, {"error": str(error)}

    chain = RequestScope(refuse, app.state.service, ErrorAnswers({"": error_object, "/v2/": text}), ())
    second = await Exchange("GET", "/v2/models").run(chain)
    assert (second.sent[0]["status"], second.body) == (400, b'{"error":"nothing here"}')
    first = await Exchange("GET", "/v1/models", x_request_id="mine").run(chain)
    assert first.body == b'{"error":{"code":"not_found","message":"nothing here","request_id":"mine"}}'


class Lines(BatchRequest):
    task = "step"
    items_field = "items"

    items: list[str] = Field(max_length=10)


def read_lines(call: Call, kind: type[Any], body: bytes) -> Any:
    return kind(items=body.decode().splitlines())


class LinesRoute(BodyRoute):
    readers = {**BodyRoute.readers, "text/plain": read_lines}  # noqa: RUF012 - as a developer would write it


router = APIRouter(route_class=LinesRoute)


@router.post("/v1/lines")
async def lines(call: Call, body: Lines) -> Response:
    return Response("+".join(body.items))


async def test_a_route_reads_bodies_by_their_media_type_and_answers_anything(app: FastAPI) -> None:
    service: Service = app.state.service
    (route,) = [route for route in router.routes if isinstance(route, BodyRoute)]
    chain = RequestScope(
        Dispatcher({("POST", "/v1/lines"): route.serve}, app.router), service, ErrorAnswers({"": error_object}), ()
    )

    async def post(body: bytes, media_type: str) -> Exchange:
        return await Exchange("POST", "/v1/lines", body, content_type=media_type).run(chain)

    assert (await post(b"a\nb", "text/plain; charset=utf-8")).body == b"a+b"
    assert (await post(b'{"items": ["a", "b"]}', "application/json")).body == b"a+b"
    refused = await post(b"", "image/png")
    assert refused.sent[0]["status"] == 415
    assert b"send application/json or text/plain" in refused.body


async def test_a_handler_reaches_the_loader(tmp_path: Path) -> None:
    """What an admin call needs: have the models directory looked at again."""
    tiny.stepper(tmp_path / "models")
    async with serve_here(settings_of(tmp_path), Clock()) as (client, app):

        @app.post("/admin/reload")
        async def reload(request: Request) -> dict[str, str]:
            loader = caller_of(request.scope).service.loader
            loader.ask()
            await loader.engines.settled.wait()
            return {"status": "done"}

        tiny.stepper(tmp_path / "models", version="2")
        assert (await client.post("/admin/reload")).json() == {"status": "done"}
        listed = (await client.get("/v1/models")).json()["models"]
    assert [line["version"] for line in listed] == ["2"]


async def test_every_path_asks_for_a_key_but_those_for_everybody(tmp_path: Path) -> None:
    tiny.stepper(tmp_path / "models")
    keys = Keyring("a")
    async with serve_here(settings_of(tmp_path, api_keys=keys.entries), Clock()) as (client, _):
        for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        for path in ("/v1/models", "/v1/info", "/v1/stream", "/nowhere", "/healthz/", "/docs/x"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await client.post("/v1/step", json=STEP)).status_code == 401
        key = keys.header("a")
        assert (await client.post("/v1/step", json=STEP, headers=key)).status_code == 200
        assert (await client.get("/nowhere", headers=key)).status_code == 404


async def test_a_request_without_a_path_is_refused_like_any_other(app: FastAPI) -> None:
    exchange = await Exchange("OPTIONS", "*").run(app)
    assert exchange.sent[0]["status"] == 404
    assert b'"code":"not_found"' in exchange.body
