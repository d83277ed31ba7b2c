"""Steps of sessions that the server holds, and of sequences, at whichever process a client reaches."""

from __future__ import annotations

from typing import Any

import httpx
from oip import arrays, tensor

KEPT = (200, "")


def go_on(client: httpx.Client, state: str | None, row: tuple[float, float] = (1, 2), **options: Any) -> httpx.Response:
    """Take a step from a state, or the first one."""
    item = {"inputs": [row], **({"state": state} if state else {})}
    return client.post("/v1/step", json={"model": "stepper", "items": [item], **options})


def hold(client: httpx.Client, number: int = 0) -> str:
    """Begin a session whose state the server holds; return what names that."""
    answer = go_on(client, None, (number, 1), hold="server").raise_for_status()
    state: str = answer.json()["results"][0]["state"]
    return state


def sequence_step(client: httpx.Client, id: str, value: float = 1, *, start: bool = False) -> httpx.Response:
    """Take a step of a sequence; the model doubles what it holds and adds `value`."""
    parameters = {"sequence_id": id, "sequence_start": start, "sequence_end": False}
    body = {"inputs": [tensor("x", "FP32", [[value]])], "parameters": parameters}
    return client.post("/v2/models/numbers/infer", json=body)


def sequence_total(client: httpx.Client, id: str, value: float = 1, *, start: bool = False) -> float:
    """Take such a step and return what the sequence holds then."""
    answer = sequence_step(client, id, value, start=start).raise_for_status()
    return float(arrays(answer.json())["total"].item())


def outcome(answer: httpx.Response) -> tuple[int, str]:
    """Return an answer's status, and the code of its error where it has one."""
    error = answer.json().get("error")
    return answer.status_code, error["code"] if error else ""
