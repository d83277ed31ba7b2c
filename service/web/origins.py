"""Which pages a browser lets call the service.

By the same-origin policy, its own alone, and those of `BATON_CORS_ORIGINS`, which Starlette's middleware tells the
browser. No policy holds for WebSockets, nor for a POST of a media type that forms have: a browser opens and sends them
for any page, and says only of which origin it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from service.errors import OriginRefused
from service.web.context import Caller

ANY = "*"
JSON = "application/json"
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
V2_HEAD = "inference-header-content-length"
SENT = ("authorization", "content-type", V2_HEAD, "traceparent", "tracestate", "x-request-id")
SHOWN = (V2_HEAD, "retry-after", "server-timing", "x-request-id")


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return `app` as pages of the origins may call it."""
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=("GET", "POST"), allow_headers=SENT, expose_headers=SHOWN
    )


def check_origin(caller: Caller) -> None:
    """Raises: OriginRefused for what a browser did not ask about, and a page of another origin sends."""
    origin, allowed = caller.field(b"origin"), caller.service.settings.cors_origins
    if not origin or origin in allowed or ANY in allowed or not _is_unasked(caller):
        return
    scheme, _, place = origin.lower().partition("://")
    host = caller.field(b"host").lower()
    if place not in (host, host.removesuffix(DEFAULT_PORTS.get(scheme, ""))):
        message = f"pages of {origin:.100} may not call here; BATON_CORS_ORIGINS names those that may"
        raise OriginRefused(message)


def _is_unasked(caller: Caller) -> bool:
    """Return whether a browser sends it for any page, without asking the service first."""
    return caller.verb == "WS" or (caller.verb == "POST" and not caller.field(b"content-type").startswith(JSON))
