"""Tensors on the wire: as JSON or as bytes, in the protocol's datatypes, and arrays of the same.

It knows numpy and the protocol's binary and classification extensions, not models. Invariant: a tensor is read only if
it holds exactly what its shape and datatype say; nothing is converted.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, islice
from typing import Annotated, Any

import numpy as np
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError

from service.endpoints.v2.schema import InferRequest, InputTensor
from service.errors import BatchTooLarge, EmptyInput, InvalidRequest, NotFinite, RaggedInputs
from service.model.onnx_session import Array, cast

DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
DTYPES = {datatype: np.dtype(object if name == "string" else name) for name, datatype in DATATYPES.items()}
BYTES = "BYTES"
MAX_TEXTS = 2**17  # of a tensor: reading more would hold up others
LENGTH = struct.Struct("<I")


def read_tensors(request: InferRequest, binary: bytes) -> dict[str, Array]:
    """Return the request's tensors by name, each of the shape and datatype that it declares; BYTES hold texts.

    `binary` are the bytes that came behind the JSON.

    Raises: InvalidRequest and its kin, with the tensor's place.
    """
    tensors: dict[str, Array] = {}
    start = 0
    for index, tensor in enumerate(request.inputs):
        field, size = f"inputs[{index}]", tensor.parameters.binary_data_size
        if tensor.name in tensors:
            raise InvalidRequest(f"{tensor.name!r} is given twice", field=f"{field}.name")
        dtype = DTYPES.get(tensor.datatype)
        if dtype is None:
            raise InvalidRequest(f"{tensor.datatype!r} is none of {', '.join(DTYPES)}", field=f"{field}.datatype")
        if tensor.datatype == BYTES and math.prod(tensor.shape) > MAX_TEXTS:
            message = f"{tensor.shape} holds more than {MAX_TEXTS} texts"
            raise BatchTooLarge(message, field=f"{field}.shape", limit=MAX_TEXTS)
        if 0 in tensor.shape:  # and the others may be larger than any array
            raise EmptyInput(f"{tensor.shape} holds nothing; give at least one row and step", field=f"{field}.shape")
        if (size is None) == (tensor.data is None):
            message = "must hold either data or the parameter binary_data_size"
            raise InvalidRequest(f"{tensor.name!r} {message}", field=field)
        if size is None:
            values = _from_json(tensor, dtype, f"{field}.data")
        else:
            values = _from_bytes(tensor, dtype, binary[start : start + size], f"{field}.parameters.binary_data_size")
            start += size
        tensors[tensor.name] = values.reshape(tensor.shape)
        tensor.data = None  # lists take ten times as much memory, and the request may wait
    if start != len(binary):
        message = f"{len(binary)} bytes follow the JSON, where the tensors' binary_data_size add up to {start}"
        raise InvalidRequest(message, field="inputs")
    return tensors


@cache
def _elements(datatype: str) -> TypeAdapter[list[Any]]:
    """Return what checks a list of elements of `datatype`."""
    element: Any
    if datatype.startswith("FP"):
        element = Annotated[StrictFloat, Field(allow_inf_nan=False)]
    elif datatype in (BYTES, "BOOL"):
        element = StrictStr if datatype == BYTES else StrictBool
    else:
        bounds = np.iinfo(datatype.lower())
        element = Annotated[StrictInt, Field(ge=int(bounds.min), le=int(bounds.max))]
    return TypeAdapter(Annotated[list[element], Field(fail_fast=True)])


def _from_json(tensor: InputTensor, dtype: np.dtype[Any], field: str) -> Array:
    assert tensor.data is not None
    flat, shape = tensor.data, tensor.shape
    if len(shape) > 1 and flat and isinstance(flat[0], list):
        flat = _flattened(flat, shape, field)
    if len(flat) != math.prod(shape):
        message = f"{len(flat)} elements, where the shape {shape} holds {math.prod(shape)}"
        raise RaggedInputs(message, field=field)
    try:
        flat = _elements(tensor.datatype).validate_python(flat)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        message = f"is no {tensor.datatype}: {error['msg']}"
        raise InvalidRequest(message, field=f"{field}[{error['loc'][0]}]") from None
    values = cast(flat, dtype)
    if dtype.kind == "f" and dtype.itemsize < 8 and not np.isfinite(values).all():
        raise NotFinite(f"a number is beyond the range of {tensor.datatype}", field=field)
    return values


def _flattened(nested: list[Any], shape: Sequence[int], field: str) -> list[Any]:
    """Return the elements of lists that are nested as `shape` is. Raises: RaggedInputs."""
    flat: list[Any] = [nested]
    for size in shape:
        if not all(isinstance(part, list) and len(part) == size for part in flat):
            raise RaggedInputs(f"its lists are not nested as the shape {list(shape)} is", field=field)
        flat = list(chain.from_iterable(flat))
    return flat


def _from_bytes(tensor: InputTensor, dtype: np.dtype[Any], raw: bytes, field: str) -> Array:
    size, elements = tensor.parameters.binary_data_size, math.prod(tensor.shape)
    if len(raw) != size:
        raise InvalidRequest(f"{size}, but only {len(raw)} bytes are left behind the JSON", field=field)
    if tensor.datatype == BYTES:
        texts = list(islice(_texts(raw, field), elements + 1))
        if len(texts) != elements:
            count = f"{len(texts)}" if len(texts) < elements else "more"
            message = f"holds {count} texts, where the shape {tensor.shape} holds {elements}"
            raise RaggedInputs(message, field=field)
        return np.array(texts, object)
    if size != elements * dtype.itemsize:
        message = f"{size}, where {tensor.datatype} of shape {tensor.shape} takes {elements * dtype.itemsize}"
        raise InvalidRequest(message, field=field)
    if dtype.kind == "b" and raw.translate(None, b"\0\1"):
        raise InvalidRequest("a BOOL is a byte 0 or 1", field=field)
    return np.frombuffer(raw, dtype.newbyteorder("<"))


def _texts(raw: bytes, field: str) -> Iterator[str]:
    start = 0
    while start < len(raw):
        end = start + LENGTH.size
        if end <= len(raw):
            end += LENGTH.unpack_from(raw, start)[0]
        if end > len(raw) or end - start < LENGTH.size:
            raise InvalidRequest("its last text is cut; each is a length of 4 bytes and the text", field=field)
        try:
            yield raw[start + LENGTH.size : end].decode()
        except UnicodeDecodeError:
            raise InvalidRequest("a text is not UTF-8", field=field) from None
        start = end


def show_json(name: str, datatype: str, values: Array) -> dict[str, Any]:
    """Return an output whose elements are JSON.

    Raises: NotFinite for what JSON cannot carry.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        message = "holds values that are not finite, which JSON cannot carry; ask for it with binary_data"
        raise NotFinite(f"the output {message}", field=name)
    return {"name": name, "datatype": datatype, "shape": values.shape, "data": values.ravel().tolist()}


def show_binary(name: str, datatype: str, values: Array) -> tuple[dict[str, Any], bytes]:
    """Return an output without its elements, and these as bytes."""
    if datatype == BYTES:
        texts = [text.encode() for text in values.ravel().tolist()]
        raw = b"".join(part for text in texts for part in (LENGTH.pack(len(text)), text))
    else:
        raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    parameters = {"binary_data_size": len(raw)}
    return {"name": name, "datatype": datatype, "shape": values.shape, "parameters": parameters}, raw


def classify(values: Array, count: int, labels: Sequence[str] | None) -> Array:
    """Return the largest `count` values of each row, the largest first, as texts `value:index[:label]`.

    Shapes: values [rows, ...]; returned [rows, count], fewer where a row has fewer values.
    """
    rows = values.reshape(len(values), -1)
    size = rows.shape[1]
    named = labels if labels is not None and len(labels) == size else None
    ranked = np.where(np.isnan(rows), -np.inf, rows) if rows.dtype.kind == "f" else rows
    best = size - 1 - np.argsort(ranked[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count]  # of equals the first
    form = "{:f}" if rows.dtype.kind == "f" else "{:d}"
    shown = [
        [f"{form.format(row[i])}:{i}" + (f":{named[i]}" if named else "") for i in order]
        for row, order in zip(rows.tolist(), best.tolist(), strict=True)
    ]
    return np.array(shown, object).reshape(best.shape)
