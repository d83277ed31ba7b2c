"""The calls of /v1, of a running service or of the same application in this process.

It knows paths, bodies and refusals, not what an answer means. Invariant: both ways give the same answers; what is
refused becomes one error that names the code, the field and the page that explains it.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from pydantic_core import to_json

from service.errors import BatonError, CommandError
from service.settings import KEY_VARIABLE, load_settings

if TYPE_CHECKING:
    import httpx
    from anyio.from_thread import BlockingPortal
    from fastapi import FastAPI

    from service.engine.versions import Tried
    from service.settings import Settings

AT_ONCE = 4  # requests under way: while one is read or shown, others run
ANSWER_S = 120.0  # a service gives up before
LONGEST_WAIT_S = 60.0  # for one request, while the service has no room, or restarts
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0  # between two tries to reach a service that restarts
GATEWAYS = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
PATIENT_MS = 3_600_000  # nobody else waits for the application in this process
IN_PROCESS = "http://in-process"
EVENT = b"data:"
T = TypeVar("T")


class Refusal(CommandError):
    """What the service refused, with its `code`."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(explain(error))
        self.code, self.error = error["code"], error


def explain(error: dict[str, Any]) -> str:
    """Return an error of the service as one line."""
    field = f"{error['field']}: " if error.get("field") else ""
    hint = f"; give the key with --api-key, or as {KEY_VARIABLE}" if error["code"] == "unauthorized" else ""
    return f"{field}{error['message']}{hint} (see docs/errors.md#{error['code']})"


@contextmanager
def open_api(url: str | None, api_key: str | None) -> Iterator[Api]:
    """Open the service at `url`, or the models directory in this process.

    Raises: StartupError when the models directory or a setting will not do; CommandError for what is no URL.
    """
    from anyio.from_thread import start_blocking_portal

    _check(url, api_key)
    # A thread of its own for the event loop: signals stay with the command.
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_client(url, api_key)) as client,
    ):
        yield Api(portal, client, url)


def _check(url: str | None, api_key: str | None) -> None:
    """Raises: CommandError for what is no URL, and for a key that no header can carry."""
    import httpx

    try:
        right = url is None or (url.startswith(("http://", "https://")) and httpx.URL(url).host != "")
    except httpx.InvalidURL:
        right = False
    if not right:
        raise CommandError(f"{url} is no URL; give it as http://host:8000")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise CommandError("the API key holds what no header can carry; keys are of printable ASCII")


class _Answer(dict[str, Any]):
    """An answer, or an object in it, which Baton gives with all the members that are asked for."""

    def __missing__(self, name: str) -> Any:
        raise CommandError(f"what answers is no Baton service of this version: its answer has no {name!r}")


class Api:
    """The calls, through a client that lives on the event loop of `portal`."""

    def __init__(self, portal: BlockingPortal, client: httpx.AsyncClient, url: str | None) -> None:
        self._portal, self._client, self._url = portal, client, url
        self.patience_s = 0.0  # how long a service that was there may be away

    @cached_property
    def limits(self) -> dict[str, int]:
        """The limits of the service, by the names of their settings."""
        return _Answer(self.get("/v1/info")["limits"])

    def get(self, path: str) -> dict[str, Any]:
        """Raises: Refusal; CommandError when no Baton service answers."""
        return self._portal.call(self._send, "GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer, of which all items may have failed.

        Raises: Refusal; CommandError when no Baton service answers.
        """
        return self._portal.call(self._send, "POST", path, to_json(body))

    def post_each(self, path: str, bodies: Iterable[bytes]) -> Iterator[dict[str, Any] | Refusal]:
        """Yield the answers to `bodies` in their order, several being under way.

        Raises: CommandError when no Baton service answers.
        """
        waiting: deque[Future[dict[str, Any] | Refusal]] = deque()
        for body in bodies:
            if len(waiting) == AT_ONCE:
                yield waiting.popleft().result()
            waiting.append(self._portal.start_task_soon(self._attempt, path, body))
        while waiting:
            yield waiting.popleft().result()

    async def _attempt(self, path: str, body: bytes) -> dict[str, Any] | Refusal:
        try:
            return await self._send("POST", path, body)
        except Refusal as refusal:
            return refusal

    def post_events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of an answer as they come, but for the last, which sums up.

        Raises: Refusal, of an item too; CommandError when no Baton service answers, or the answer breaks off.
        """
        response = self._portal.call(self._patiently, partial(self._open, path, to_json(body)))
        try:
            lines = _lines(response)
            while "summary" not in (event := self._portal.call(self._next_event, lines)):
                if "error" in event:
                    raise Refusal(event["error"])
                yield event
        finally:
            self._portal.call(response.aclose)

    async def _next_event(self, lines: AsyncIterator[bytes]) -> dict[str, Any]:
        import httpx

        try:
            async for line in lines:
                if line.startswith(EVENT):
                    return _Answer(json.loads(line.removeprefix(EVENT)))
        except (httpx.HTTPError, ValueError) as failure:
            raise self._no_answer(failure) from failure
        raise CommandError(f"{self._where} did not answer to the end")

    async def _open(self, path: str, body: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        request = self._client.build_request("POST", path, content=body, headers=headers)
        answer = await self._client.send(request, stream=True)
        if answer.status_code != HTTPStatus.OK:
            await answer.aread()
            raise Refusal(self._read(answer)["error"])  # of all items, where each failed
        return answer

    async def _send(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            headers = {"Content-Type": "application/json"}
            return self._read(await self._client.request(method, path, content=body, headers=headers))

        return await self._patiently(ask)

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        """Return the content of a whole answer. Raises: Refusal; httpx.HTTPError, ValueError, KeyError, TypeError."""
        import httpx

        if answer.status_code in GATEWAYS and "json" not in answer.headers.get("Content-Type", ""):
            raise httpx.RemoteProtocolError(f"status {answer.status_code}")  # of a proxy before it
        content = answer.json()
        if answer.status_code == HTTPStatus.OK or "results" in content:
            return _Answer(content)
        raise Refusal(content["error"])

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer: again where there is no room, or for `patience_s` no service."""
        import anyio
        import httpx

        began_s, pause_s = anyio.current_time(), FIRST_PAUSE_S
        while True:
            try:
                return await ask()
            except Refusal as refusal:
                retry_after_ms = refusal.error.get("retry_after_ms")
                left_s = began_s + LONGEST_WAIT_S - anyio.current_time()
                if retry_after_ms is None or left_s <= 0:
                    raise
                await anyio.sleep(min(max(retry_after_ms / 1000, 0.01), left_s))
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as failure:
                waited_s = anyio.current_time() - began_s
                if not isinstance(failure, httpx.TransportError) or waited_s >= self.patience_s:
                    raise self._no_answer(failure) from failure
                if pause_s == FIRST_PAUSE_S:
                    again = f"tried again for {self.patience_s:g} s"
                    typer.echo(f"{self._where} does not answer ({_reason(failure)}); {again}", err=True)
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    @property
    def _where(self) -> str:
        return self._url or "the service in this process"

    def _no_answer(self, failure: Exception) -> CommandError:
        return CommandError(f"{self._where} does not answer as a Baton service: {_reason(failure)}")


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield what ends with a line feed; httpx would end lines at what a text may hold, such as U+2028, too."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _reason(failure: Exception) -> str:
    return str(failure) or type(failure).__name__


class _Causes(logging.Formatter):
    """Shows the log of a service in this process to its user: what Baton raised is a line, and no traceback."""

    def format(self, record: logging.LogRecord) -> str:
        failure = record.exc_info and record.exc_info[1]
        return f"baton: {failure if isinstance(failure, BatonError) else super().format(record)}"


@asynccontextmanager
async def _client(url: str | None, api_key: str | None) -> AsyncIterator[httpx.AsyncClient]:
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    if url is not None:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_S) as client:
            yield client
        return
    from service.cli.in_process import InProcess

    app = _application()
    transport, lifespan = InProcess(app), app.router.lifespan_context(app)
    async with httpx.AsyncClient(transport=transport, base_url=IN_PROCESS, headers=headers, timeout=ANSWER_S) as client:
        await lifespan.__aenter__()
        try:
            yield client
        finally:  # the service drains as ever, whatever the command failed of
            await lifespan.__aexit__(None, None, None)
            for engine in app.state.service.engines.all:
                engine.model.close()  # of those that nothing asked for, the files are still held


def _application() -> FastAPI:
    """Return the service over the models directory. Raises: StartupError."""
    from service.app import create_app

    settings, versions = read_models()
    return create_app(settings, tried=versions, log_request=None)


def read_models() -> tuple[Settings, list[Tried]]:
    """Return settings for models in this process, and their versions, each of which is loaded when first asked for.

    What is logged goes to stderr, for the user of the command. Raises: StartupError.
    """
    from service.engine.versions import spare_trial
    from service.model.repository import find_versions

    handler = logging.StreamHandler()
    handler.setFormatter(_Causes())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("baton.app").setLevel(logging.ERROR)  # that a key was made is news to who runs replicas
    settings = load_settings(load="lazy", workers=1, timeout_ms=PATIENT_MS, max_wait_ms=PATIENT_MS)
    return settings, [spare_trial(directory) for directory in find_versions(settings.models_dir)]
