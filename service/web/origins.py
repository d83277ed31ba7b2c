"""Which pages a browser lets call the service.

By the same-origin policy, its own alone, and those of `BATON_CORS_ORIGINS`, which Starlette's middleware tells the
browser. No policy holds for WebSockets: a browser opens them for any page, and says only of which origin it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from service.errors import OriginRefused
from service.web.context import Caller

ANY = "*"
V2_HEAD = "inference-header-content-length"
SENT = ("authorization", "content-type", V2_HEAD, "traceparent", "tracestate", "x-request-id")
SHOWN = (V2_HEAD, "retry-after", "server-timing", "x-request-id")


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return `app` as pages of the origins may call it."""
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=("GET", "POST"), allow_headers=SENT, expose_headers=SHOWN
    )


def check_origin(caller: Caller) -> None:
    """Raises: OriginRefused for a WebSocket that a page of another origin opens."""
    origin, allowed = caller.field(b"origin"), caller.service.settings.cors_origins
    if not origin or origin in allowed or ANY in allowed:
        return
    scheme, place, *_ = urlsplit(origin)
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    if place.lower() not in {host := caller.field(b"host").lower(), host.removesuffix(port)}:
        message = f"pages of {origin:.100} may open no stream here; BATON_CORS_ORIGINS names those that may"
        raise OriginRefused(message)
