"""What a request's head must be for its end, and its place on the connection, to be certain.

It knows RFC 9112 and the limits of heads, not connections or what is served. The parser refuses what has no certain
form at all: two lengths, a length beside chunks, folded lines, bare line feeds. Invariant: whoever stands before the
service, and reads a head that passes here by the same RFC, finds the end of the request where the service finds it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from service.settings import Settings

VERSIONS = ("1.1", "1.0")
# Section 3.2 of RFC 9112 has `uri-host [":" port]`, and the host's characters are in section 3.2.2 of RFC 3986.
HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a head is refused."""

    status: HTTPStatus
    message: str


def find_excess(
    target: bytes, fields: Sequence[tuple[bytes, bytes]], settings: Settings, *, begun: int = 0
) -> Fault | None:
    """Return which limit a head passes as far as it has come, so many bytes of a field that has `begun` included."""
    most, most_fields = settings.max_head_bytes, settings.max_header_fields
    if len(target) > most:
        return Fault(
            HTTPStatus.REQUEST_URI_TOO_LONG, f"a request's target is longer than {most} bytes (max_head_bytes)"
        )
    if len(fields) > most_fields:
        message = f"a request's head has more than {most_fields} fields (max_header_fields)"
        return Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
    if begun + len(target) + sum([len(name) + len(value) for name, value in fields]) > most:
        message = f"a request's head is larger than {most} bytes (max_head_bytes)"
        return Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
    return None


def find_fault(version: str, fields: Sequence[tuple[bytes, bytes]]) -> Fault | None:
    """Return what makes a whole head ambiguous; `fields` have their names in lower case.

    Source: RFC 9112, sections 2.3 (versions), 3.2 (Host), 6.1 (Transfer-Encoding).
    """
    if version not in VERSIONS:
        return Fault(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version} is not spoken here; send HTTP/1.1")
    names = [name for name, _ in fields]
    if b"transfer-encoding" in names:
        codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            return Fault(HTTPStatus.NOT_IMPLEMENTED, "a transfer coding other than 'chunked'; send the body as it is")
        if version == "1.0":
            message = "HTTP/1.0 knows no transfer codings; send HTTP/1.1, or a Content-Length"
            return Fault(HTTPStatus.BAD_REQUEST, message)
    hosts = names.count(b"host")
    if hosts == 0 and version == "1.0":
        return None
    if hosts != 1 or not HOST.fullmatch(fields[names.index(b"host")][1]):
        return Fault(HTTPStatus.BAD_REQUEST, "a request of HTTP/1.1 needs one header field Host, with a host in it")
    return None
