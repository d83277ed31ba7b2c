"""What the tests of generation share: a service over the tiny writers, requests, and the same done by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import in_process
import numpy as np
import tiny_writers
from conftest import Server

Choice = dict[str, Any]


def ask(server: Server, *items: dict[str, Any], model: str = "generator", **options: Any) -> list[dict[str, Any]]:
    """Return the results of a request that is answered."""
    answer = server.post("/v1/generate", {"model": model, "items": items, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def one(server: Server, item: dict[str, Any], **options: Any) -> Choice:
    """Return the only choice of the only item."""
    ((choice,),) = [result["choices"] for result in ask(server, item, **options)]
    return choice


def read_events(lines: Sequence[str]) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def stream(server: Server, *items: dict[str, Any], model: str = "generator", **options: Any) -> list[dict[str, Any]]:
    """Return the events of a request that streams."""
    body = {"model": model, "items": items, "stream": True, **options}
    with server.client.stream("POST", "/v1/generate", json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8", answer.read()
        return read_events([*answer.iter_lines()])


def joined(events: Sequence[dict[str, Any]], index: int = 0, choice: int = 0) -> Choice:
    """Return one choice as a whole answer would have it, from the events of a stream."""
    own = [event for event in events if (event["index"], event.get("choice")) == (index, choice)] if events else []
    text = "".join(event["text"] for event in own)
    shares = [share for event in own for share in event.get("probabilities", [])]
    last = {name: value for name, value in own[-1].items() if name not in ("index", "probabilities")}
    return {**last, "text": text, **({"probabilities": shares} if shares else {})}


def same(one: Choice, other: Choice) -> bool:
    """Return whether two choices are the same, but for their state, which is sealed anew each time."""
    each_time = {"state", "expires_at", "probabilities", "choice"}
    return {k: v for k, v in one.items() if k not in each_time} == {
        k: v for k, v in other.items() if k not in each_time
    }


def greedy_by_hand(directory: Path, prompt: str, steps: int) -> str:
    """Return what a loop of onnxruntime writes that feeds the likeliest letter back, from the whole text each time."""
    ids = tiny_writers.letters().encode(prompt).ids
    for _ in range(steps):
        fed = np.array([ids], np.int64)
        made = in_process.run(directory, ids=fed, lengths=np.array([len(ids)], np.int32))["probabilities"]
        ids.append(int(made[0, -1].argmax()))
    return "".join(tiny_writers.LETTERS[one] for one in ids[len(prompt) :])


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error.get("field")
