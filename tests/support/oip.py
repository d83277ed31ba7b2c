"""Requests and answers of the Open Inference Protocol, written out byte by byte as its documents say."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
from conftest import Server

DTYPES = {
    "BOOL": "?",
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}


def tensor(name: str, datatype: str, values: Any, **more: Any) -> dict[str, Any]:
    """Return an input whose elements are JSON, nested as its shape is."""
    array = np.array(values, object if datatype == "BYTES" else None)
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.tolist(), **more}


def pack(datatype: str, values: Any) -> bytes:
    """Return the elements as the binary extension has them."""
    if datatype == "BYTES":
        texts = [text.encode() for text in np.array(values, object).ravel().tolist()]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(values, DTYPES[datatype]).tobytes()


def unpack(datatype: str, raw: bytes) -> np.ndarray:
    if datatype != "BYTES":
        return np.frombuffer(raw, DTYPES[datatype])
    texts, start = [], 0
    while start < len(raw):
        (size,) = struct.unpack_from("<I", raw, start)
        texts.append(raw[start + 4 : start + 4 + size].decode())
        start += 4 + size
    return np.array(texts, object)


def post(server: Server, model: str, body: dict[str, Any], tail: bytes = b"", **headers: str) -> httpx.Response:
    """Ask `model`, a name or name/versions/version; `tail` are the bytes behind the JSON."""
    head = json.dumps(body).encode()
    if tail:
        headers["Inference-Header-Content-Length"] = str(len(head))
    return server.client.post(f"/v2/models/{model}/infer", content=head + tail, headers=headers)


def infer(server: Server, model: str, *inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the answer to a request in JSON."""
    answer = post(server, model, {"inputs": list(inputs), **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def refusal(server: Server, model: str, body: dict[str, Any], tail: bytes = b"") -> tuple[int, str]:
    """Return the status and the text of an error."""
    answer = post(server, model, body, tail)
    (error,) = answer.json().values()
    assert answer.json() == {"error": error}
    return answer.status_code, error


def arrays(answer: dict[str, Any], tail: bytes = b"") -> dict[str, np.ndarray]:
    """Return the outputs by name, from JSON or from `tail`, in their shapes."""
    found, start = {}, 0
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(output["data"], object if output["datatype"] == "BYTES" else DTYPES[output["datatype"]])
        else:
            values = unpack(output["datatype"], tail[start : start + size])
            start += size
        found[output["name"]] = values.reshape(output["shape"])
    assert start == len(tail)
    return found


def binary(answer: httpx.Response) -> dict[str, np.ndarray]:
    """Return the outputs of an answer whose tensors follow the JSON."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    end = int(answer.headers["inference-header-content-length"])
    return arrays(json.loads(answer.content[:end]), answer.content[end:])
