"""Right answers of a service without models, for the load test's own tests to spoil."""

from __future__ import annotations

from itertools import count
from typing import Any

LEVELS = ("0.1", "0.5", "0.9")
_tokens = count()


def right(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to `body` that breaks no rule; a token is the session's step count and a number."""
    make = {"/v1/sentiment": _sentiment, "/v1/forecast": _forecast, "/v1/step": _step}[path]
    items = next(value for value in body.values() if isinstance(value, list))
    return {"results": [{"index": i, "id": item["id"], **make(body, item)} for i, item in enumerate(items)]}


def _sentiment(body: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"label": "positive", "score": 0.75, "polarity": 0.5}
    if body["scores"] == "all":
        result["scores"] = {"negative": 0.25, "positive": 0.75}
    return result


def _forecast(body: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    horizon = body["horizon"]
    return {"mean": [0.0] * horizon, "quantiles": {level: [float(level)] * horizon for level in LEVELS}}


def _step(body: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    reached = int(item.get("state", "0-").partition("-")[0])
    words = item["text"].split() if "text" in item else None
    taken = len(words or item["values"])
    row = [0.25, 0.75] if words else [reached - 1.0, float(reached), reached + 1.0]
    outputs = {"scores" if words else "quantiles": [row] * taken if body["return"] == "all" else row}
    result: dict[str, Any] = {"outputs": outputs, "state": f"{reached + taken}-{next(_tokens)}"}
    return {**result, "step": reached + taken, **({"tokens": words} if words else {})}
