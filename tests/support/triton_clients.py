"""tritonclient's three ways to ask, each as a function, and its tensors from arrays and back.

They are called as tritonclient's `infer` is, with the server's URL before its arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferResult
from tritonclient.http import aio as triton_aio
from tritonclient.utils import np_to_triton_dtype

Array = np.ndarray[Any, Any]
Way = Callable[..., InferResult]
LIMIT_S = 120


def connect(url: str, **options: Any) -> InferenceServerClient:
    return InferenceServerClient(_address(url), connection_timeout=LIMIT_S, network_timeout=LIMIT_S, **options)


def _address(url: str) -> str:
    return url.removeprefix("http://")


def infer(url: str, *arguments: Any, **options: Any) -> InferResult:
    with connect(url) as client:
        return client.infer(*arguments, **options)


def _async_infer(url: str, *arguments: Any, **options: Any) -> InferResult:
    with connect(url) as client:
        return client.async_infer(*arguments, **options).get_result()


def _aio_infer(url: str, *arguments: Any, **options: Any) -> InferResult:
    async def ask() -> InferResult:
        async with triton_aio.InferenceServerClient(_address(url)) as client:
            return await client.infer(*arguments, **options)

    return asyncio.run(ask())


every_way = pytest.mark.parametrize("ask", [infer, _async_infer, _aio_infer], ids=["infer", "async_infer", "aio"])
binary = pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])


def given(name: str, values: Array, *, binary: bool = True) -> InferInput:
    """Return an input tensor, as bytes or as JSON."""
    tensor = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return tensor.set_data_from_numpy(values, binary_data=binary)


def texts(*each: str) -> Array:
    return np.array(each, object)


def outputs(result: InferResult) -> dict[str, Array]:
    """Return the tensors by name; texts as str, which tritonclient leaves as bytes where they came as such."""
    found = {each["name"]: result.as_numpy(each["name"]) for each in result.get_response()["outputs"]}
    return {name: _decoded(values) if values.dtype == object else values for name, values in found.items()}


def _decoded(values: Array) -> Array:
    flat = [text.decode() if isinstance(text, bytes) else text for text in values.ravel().tolist()]
    return np.array(flat, object).reshape(values.shape)


def parameters(result: InferResult) -> dict[str, Any]:
    found: dict[str, Any] = result.get_response()["parameters"]
    return found
