"""The line that a request or a connection leaves in the log, as text or as JSON.

It knows callers, not how lines are written. Invariants: neither form holds a body, a token or a key; the JSON is ASCII,
and holds no message, some of which quote their client, and no path, in which a client may write anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_json

from service.settings import LogFormat
from service.web.context import Caller


def text_line(caller: Caller, status: int, seconds: float) -> str:
    parts = [f"{caller.verb} {caller.printable_path} {status} {1e3 * seconds:.1f}ms id={caller.request_id}"]
    if caller.trace_id:
        parts.append(f"trace={caller.trace_id}")
    for name, value in caller.facts.items():
        if name == "codes":
            parts += [f"{code}*{count}" for code, count in value.items()]
        else:
            parts.append(value if name == "note" else f"{name}={value!r}" if name == "message" else f"{name}={value}")
    return " ".join(parts)


def json_line(caller: Caller, status: int, seconds: float) -> str:
    members: dict[str, Any] = {
        "id": caller.request_id,
        "tenant": caller.tenant or None,
        "method": caller.verb,
        "endpoint": caller.endpoint,
        "status": status,
        "ms": round(1e3 * seconds, 1),
        **caller.facts,
    }
    members.pop("message", None)
    if code := code_of(caller.facts, status):
        members["code"] = code
    if caller.work.runs:
        members["rows"] = sum(timing.rows for _, timing in caller.work.runs)
    if caller.trace_id:
        members["trace_id"] = caller.trace_id
    return to_json(members, ensure_ascii=True).decode()


def code_of(facts: Mapping[str, Any], status: int) -> str | None:
    """Return the code of the error that refused a request as a whole, or of the first of those that refused all items.

    Why a token was refused, which the log tells behind the code, is left out.
    """
    code: str | None = facts.get("code")
    if code is None and status >= 400:
        code = next(iter(facts.get("codes", ())), None)
    return code and code.partition(":")[0]


LINES: Mapping[LogFormat, Callable[[Caller, int, float], str]] = {"text": text_line, "json": json_line}
