"""Request bodies: their bytes, within the limits, and what reads them by their media type.

It knows calls and the shared JSON forms, not what a request means. Invariant: a body that is too large or too late is
refused before it is parsed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from typing import Protocol, TypeVar

from starlette.requests import ClientDisconnect

from service.errors import BodyTimeout, BodyTooLarge, MalformedJson, UnsupportedMediaType
from service.settings import Settings
from service.web.context import Call
from service.web.schema import BatchRequest, parse, read_whole

LATE = "the body is late"  # why a task is cancelled
JSON = "application/json"
WHOLE = "baton.body"  # in the scope: the whole body, where it came with its head, and the model that it names has room
MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')  # a text cannot hold this: its quotes are escaped

B = TypeVar("B", bound=BatchRequest)


class Reader(Protocol):
    """Makes a request of a body's bytes, and leaves the items that are refused in `call.rejected`.

    Raises: RequestError when the body is wrong as a whole.
    """

    def __call__(self, call: Call, kind: type[B], body: bytes) -> B: ...


def read_json(call: Call, kind: type[B], body: bytes) -> B:
    """Read a body that is JSON."""
    _admit(call, kind, body)
    request, call.rejected = parse(kind, body, max_items=call.service.settings.max_items)
    return request


def read_json_whole(call: Call, kind: type[B], body: bytes) -> B:
    """Read a body that is JSON, whose items stand or fall together."""
    _admit(call, kind, body)
    return read_whole(kind, body)


def _admit(call: Call, kind: type[BatchRequest], body: bytes) -> None:
    """Raises: MalformedJson for a body that was lost; what `Registry.admit` raises."""
    if not body and (upgrade := call.field(b"upgrade")):
        raise MalformedJson(f"the header 'Upgrade: {upgrade}' made the server lose the body; send plain HTTP/1.1")
    if WHOLE not in call.scope:
        call.service.engines.admit(kind.task, call.tenant, name=guess_model(body, kind.task))


def guess_model(body: bytes, default: str) -> str | None:
    """Return the model that a body seems to name, far cheaper than by reading it; None when a search cannot tell."""
    named: list[bytes] = MODEL.findall(body)
    if named:
        return named[-1].decode(errors="replace")
    return default if b"\\u" not in body else None  # the member's name may be written in escapes


def find_media_type(call: Call, readable: Collection[str]) -> str:
    """Return the body's media type, which is among `readable`.

    Raises: UnsupportedMediaType.
    """
    refuse_encodings(call)
    media_type = call.field(b"content-type").partition(";")[0].strip().lower()
    if media_type not in readable:
        raise UnsupportedMediaType(f"content type {media_type or '(none)'!r}; send {' or '.join(readable)}")
    return media_type


def refuse_encodings(call: Call) -> None:
    """Raises: UnsupportedMediaType for a body that is compressed."""
    encoding = call.field(b"content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"content encoding {encoding!r}; send the body as it is")


async def read_bytes(call: Call) -> bytes:
    """Return the whole body.

    Raises: BodyTooLarge; BodyTimeout; ClientDisconnect when the client leaves before the end.
    """
    settings = call.service.settings
    whole: bytes | None = call.scope.get(WHOLE)
    if whole is not None and len(whole) <= settings.max_body_bytes:
        return whole
    announced = call.field(b"content-length")
    if announced.isdecimal() and int(announced) > settings.max_body_bytes:
        raise _too_large(settings)
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(settings.timeout_ms / 1000, task.cancel, LATE)
    chunks, size, more = [], 0, True
    try:
        while more:
            came = await call.receive()
            if came["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = came.get("body", b""), came.get("more_body", False)
            chunks.append(chunk)
            size += len(chunk)
            if size > settings.max_body_bytes:
                raise _too_large(settings)
    except asyncio.CancelledError as stop:  # asyncio.timeout does the same for five times the cost
        if stop.args != (LATE,):
            raise
        task.uncancel()
        message = f"the body did not arrive within {settings.timeout_ms} ms"
        raise BodyTimeout(message, limit=settings.timeout_ms) from None
    finally:
        timer.cancel()
    return b"".join(chunks)


def _too_large(settings: Settings) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {settings.max_body_bytes} bytes", limit=settings.max_body_bytes)
