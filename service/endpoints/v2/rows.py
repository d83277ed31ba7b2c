"""From a request's tensors to the rows that a model runs, and from the rows' answers to tensors again.

It knows engines, rows and arrays, not JSON and not sessions. Invariant: row n of every tensor of an answer is the
answer to row n of the request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.contract.tensors import Tensor
from service.endpoints.v2.schema import InputTensor
from service.endpoints.v2.signature import COUNTS, TEXT, Signature
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import BatchTooLarge, EmptyInput, HistoryTooShort, InvalidRequest, ItemTooLarge, RaggedInputs
from service.model.onnx_session import Array
from service.settings import Settings

PADDED_ELEMENTS, PADDED_SHARE = 2**20, 8  # an output of more elements has at most so many steps for each real one


def check_tensors(
    inputs: Sequence[InputTensor], tensors: Mapping[str, Array], engine: Engine, signature: Signature
) -> None:
    """Check the names, datatypes and shapes of a request's tensors against what the model takes.

    Raises: InvalidRequest with the name of the tensor as its field.
    """
    for tensor in inputs:
        name, shape = tensor.name, tensors[tensor.name].shape
        declared = signature.inputs.get(name)
        if declared is None:
            takes = ", ".join(signature.inputs)
            raise InvalidRequest(f"model {engine.manifest.name!r} has no such input; it takes {takes}", field=name)
        if tensor.datatype != declared.datatype and not (name == engine.manifest.lengths and tensor.datatype in COUNTS):
            raise InvalidRequest(f"is {tensor.datatype}; the model takes {declared.datatype}", field=name)
        if not declared.fits(shape):
            message = f"has the shape {list(shape)}; the model takes {list(declared.shape)}"
            raise InvalidRequest(message, field=name)


def check_rows(inputs: Sequence[InputTensor], signature: Signature, most: int) -> None:
    """Check that no tensor holds more than `most` rows, before any is read.

    Raises: BatchTooLarge with the name of the tensor as its field.
    """
    for tensor in inputs:
        axis = signature.rows_at.get(tensor.name, 0)
        if axis < len(tensor.shape) and tensor.shape[axis] > most:
            message = f"{tensor.shape[axis]} rows; at most {most} in one request"
            raise BatchTooLarge(message, field=tensor.name, limit=most)


def read_rows(tensors: Mapping[str, Array], engine: Engine, signature: Signature, settings: Settings) -> list[Row]:
    """Return the rows that `tensors`, read by name, hold for the model; what carries states is not looked at.

    Raises: InvalidRequest and its kin, with the name of the tensor as their field.
    """
    if TEXT in tensors and signature.inputs[TEXT].column:
        return _read_texts(tensors, engine, settings)
    return _read_arrays(tensors, engine, settings)


def _read_texts(tensors: Mapping[str, Array], engine: Engine, settings: Settings) -> list[Row]:
    manifest, max_chars = engine.manifest, settings.max_text_chars
    assert manifest.text is not None
    for name in (manifest.sequence.name, manifest.lengths):
        if name in tensors:
            raise InvalidRequest(f"leave it out where {TEXT!r} is given: the tokenizer makes the ids", field=name)
    texts: list[str] = tensors[TEXT].ravel().tolist()
    for text in texts:
        if len(text) > max_chars:
            message = f"a text has {len(text)} characters; at most {max_chars}"
            raise ItemTooLarge(message, field=TEXT, limit=max_chars)
    whole = manifest.streamable
    most = settings.max_steps if whole else manifest.text.max_length
    return [Row(text=text, max_tokens=most, cut=not whole) for text in texts]


def _read_arrays(tensors: Mapping[str, Array], engine: Engine, settings: Settings) -> list[Row]:
    manifest = engine.manifest
    for tensor in manifest.inputs:
        if tensor.name not in tensors:
            raise InvalidRequest(f"is missing; model {manifest.name!r} needs it", field=tensor.name)
    sequence = tensors[manifest.sequence.name].transpose(manifest.sequence.row_order)
    count, steps = len(sequence), sequence.shape[1] if manifest.sequence.has_time else 1
    features = () if manifest.features is None else (manifest.features,)
    sequence = sequence.reshape(count, steps, *features)
    lengths = _read_lengths(tensors, engine, settings, count, steps)
    if not manifest.others:
        return [Row(row[:length]) for row, length in zip(sequence, lengths, strict=True)]
    others = [_read_other(tensors[tensor.name], tensor, count, steps, lengths) for tensor in manifest.others]
    return [
        Row(row[:length], others=beside)
        for row, length, beside in zip(sequence, lengths, zip(*others, strict=True), strict=True)
    ]


def _read_other(values: Array, tensor: Tensor, count: int, steps: int, lengths: Sequence[int]) -> list[Array]:
    """Return what each row gives to an input beside the sequence."""
    by_row = values.transpose(tensor.row_order)
    if len(by_row) != count:
        raise RaggedInputs(f"holds {len(by_row)} rows, where others hold {count}", field=tensor.name)
    if not tensor.has_time:
        return list(by_row)
    if by_row.shape[1] != steps:
        raise RaggedInputs(f"holds rows of {by_row.shape[1]} steps, where others hold {steps}", field=tensor.name)
    return [row[:length] for row, length in zip(by_row, lengths, strict=True)]


def _read_lengths(
    tensors: Mapping[str, Array], engine: Engine, settings: Settings, count: int, steps: int
) -> Sequence[int]:
    """Return the steps of each row: as the request says, else all that there are.

    Raises: RaggedInputs where there are not as many; ItemTooLarge, HistoryTooShort or EmptyInput.
    """
    manifest, name = engine.manifest, engine.manifest.sequence.name
    lengths: list[int] = [steps] * count
    if manifest.lengths is not None and manifest.lengths in tensors:
        name = manifest.lengths
        lengths = tensors[name].ravel().tolist()
        if len(lengths) != count:
            raise RaggedInputs(f"holds {len(lengths)} lengths for {count} rows", field=name)
    fewest, most = manifest.row_steps
    longest = min(steps, settings.max_steps if most is None else most)
    for length in {*lengths}:
        if length > steps:
            raise RaggedInputs(f"a row of {length} steps in tensors of {steps}", field=name)
        if length > longest:
            raise ItemTooLarge(f"a row of {length} steps; at most {longest}", field=name, limit=longest)
        if length < fewest:
            message = f"a row of {length} steps; at least {fewest}"
            raise (EmptyInput if fewest == 1 else HistoryTooShort)(message, field=name, limit=fewest)
    return lengths


def join_rows(name: str, answers: Sequence[Answer], signature: Signature) -> Array:
    """Return an output of the graph for all rows; shorter rows end in zeros.

    Shapes: [batch, *sizes], or [batch, time, *sizes].
    """
    tensor, rows = signature.made[name], [answer.outputs[name] for answer in answers]
    if rows[0].ndim == len(tensor.shape) and not tensor.has_time:
        rows = [row[-1] for row in rows]  # by step, of a graph without a time axis: what the last step gave
    if tensor.has_memory:
        rows = _memory_padded(rows, axis=1 if tensor.has_time else 0)
    if len(rows) == 1:
        return rows[0][np.newaxis]
    if not tensor.has_time or len({len(row) for row in rows}) == 1:
        return np.stack(rows)
    joined = _padding(rows, tensor)
    for place, row in zip(joined, rows, strict=True):
        place[: len(row)] = row
    return joined


def _memory_padded(rows: Sequence[Array], axis: int) -> list[Array]:
    """Return rows whose conditions differ in length as if all had the longest."""
    longest = max(row.shape[axis] for row in rows)
    lacking = [np.eye(1, row.ndim, axis, dtype=int)[0] * (longest - row.shape[axis]) for row in rows]
    return [np.pad(row, [(0, size) for size in sizes]) for row, sizes in zip(rows, lacking, strict=True)]


def _padding(rows: Sequence[Array], tensor: Tensor) -> Array:
    """Return room for rows of different lengths, filled with zeros, or texts without characters.

    Raises: BatchTooLarge where next to nothing else would be in it: a short request would fill the memory.
    """
    longest, real = max(map(len, rows)), sum(map(len, rows))
    shape = (len(rows), longest, *rows[0].shape[1:])
    if math.prod(shape) > PADDED_ELEMENTS and len(rows) * longest > PADDED_SHARE * real:
        message = f"the output would have the shape {[*shape]} for {real} steps; send long and short rows apart"
        raise BatchTooLarge(message, field=tensor.name, limit=PADDED_ELEMENTS)
    filler: Any = "" if tensor.dtype == "string" else 0
    return np.full(shape, filler, rows[0].dtype)
