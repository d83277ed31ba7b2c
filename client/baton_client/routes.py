"""The way to a service: its URL, the proxy before it, and the certificates to trust there.

It knows the environment's variables and both libraries that connect. Invariant: calls and streams go the same way,
which is found once; the variables that only other URLs need are not read.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from websockets.exceptions import InvalidProxy
from websockets.proxy import parse_proxy

from baton_client.inputs import listed

PORTS = {"http": 80, "https": 443}
SECURE = "https://"


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach one URL; `tls` is None where neither the service nor its proxy speaks TLS."""

    url: str
    proxy: str | None
    tls: ssl.SSLContext | None

    @classmethod
    def to(cls, url: str) -> Self:
        """Find the route by the environment. Raises: ValueError with the reason where there is none."""
        if not isinstance(url, str) or not url.startswith(("http://", SECURE)):
            raise ValueError(f"{url!r}: give a URL or several that begin with http:// or https://")
        proxy = _proxy(url)
        secure = url.startswith(SECURE) or (proxy or "").startswith(SECURE)
        return cls(url.rstrip("/"), proxy, _trust(url) if secure else None)

    def transport(self) -> httpx.AsyncHTTPTransport:
        """Return the transport of calls. Raises: ImportError where the proxy needs a package that is not installed."""
        proxy = None if self.proxy is None else httpx.Proxy(self.proxy, ssl_context=self._proxy_tls)
        return httpx.AsyncHTTPTransport(verify=self.tls or distrust(), proxy=proxy)

    def stream_options(self) -> dict[str, Any]:
        """Return the arguments with which a WebSocket takes this route."""
        options: dict[str, Any] = {"proxy": self.proxy}
        if self.url.startswith(SECURE):
            options["ssl"] = self.tls
        if self._proxy_tls is not None:
            options["proxy_ssl"] = self._proxy_tls
        return options

    @property
    def _proxy_tls(self) -> ssl.SSLContext | None:
        return self.tls if (self.proxy or "").startswith(SECURE) else None


def find_routes(urls: str | Iterable[str]) -> list[Route]:
    """Return the routes to one URL or several. Raises: ValueError."""
    routes = [Route.to(url) for url in ([urls] if isinstance(urls, str) else listed(urls, "urls", "URLs"))]
    if not routes:
        raise ValueError("no URL: give at least one that begins with http:// or https://")
    return routes


def distrust() -> ssl.SSLContext:
    """Return TLS settings that trust nobody, for connections without TLS."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _proxy(url: str) -> str | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY give for the URL.

    Raises: ValueError where they name something that is no proxy.
    """
    parts, proxies = urlsplit(url), getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all")
    if not named or proxy_bypass(f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}"):
        return None
    proxy = named if "://" in named else f"http://{named}"
    try:
        parse_proxy(proxy)
        httpx.Proxy(proxy)
    except (InvalidProxy, ValueError) as failure:
        reason = failure.msg if isinstance(failure, InvalidProxy) else failure
        raise ValueError(
            f"the proxy for {url} in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: {reason}; "
            "name one as http://host:port, or the service's host in NO_PROXY"
        ) from failure
    return proxy


def _trust(url: str) -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as failure:
        named = os.environ.get("SSL_CERT_FILE")
        raise ValueError(f"certificates to trust for {url}: SSL_CERT_FILE={named!r}: {failure}") from failure
