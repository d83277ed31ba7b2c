"""Files as answers, with the conditional headers that spare a client what it has.

It knows HTTP and paths, not which files may be answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

OF_ANY_FOLDER = StaticFiles()  # for its conditional answers alone
COMMON_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


def answer_file(file: Path, scope: Scope, headers: Mapping[str, str]) -> Response:
    """Return a file with `headers`, or that it has not changed for the client that the request tells of."""
    response = OF_ANY_FOLDER.file_response(file, file.stat(), scope)
    response.headers.update({**COMMON_HEADERS, **headers})
    return response
