"""Numbers in requests: values, rows of features, and the samples of a signal, into the steps that a model takes.

It knows manifests and arrays, not what the steps are for. Invariant: what is refused is named by its place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import numpy as np
from pydantic import Field

from service.contract.manifest import Manifest
from service.contract.tensors import LARGEST_FLOAT
from service.errors import EmptyInput, InvalidRequest, ItemTooLarge, RaggedInputs
from service.model.onnx_session import Array, cast
from service.web.schema import Strict

EXACT = 2**53 - 1  # JSON numbers are read as floats of 64 bits; beyond this they may not be what the client wrote


class NumbersInput(Strict):
    """Steps of numbers, in the one member that suits the model."""

    inputs: Annotated[list[Annotated[list[float], Field(fail_fast=True)]], Field(fail_fast=True)] | None = Field(
        None, description="k rows of features"
    )
    values: Annotated[list[float], Field(fail_fast=True)] | None = Field(
        None, description="k numbers, for a model without features or with one, or k samples of a signal"
    )


def find_given(item: Strict, members: Collection[str], allowed: Collection[str], manifest: Manifest) -> str:
    """Return the only one of `members` that the item has, which is among the `allowed`.

    Raises: InvalidRequest, whose field is a member that was sent and does not fit, else the first that would be right.
    """
    fields = type(item).model_fields
    given = [fields[name].alias or name for name in members if getattr(item, name) is not None]
    if len(given) != 1 or given[0] not in allowed:
        have = f"{' and '.join(given)} given" if given else "nothing given"
        message = f"{have}; this call takes {' or '.join(sorted(allowed))} for model {manifest.name!r}"
        wrong = (name for name in given if name not in allowed)
        raise InvalidRequest(message, field=next(wrong, next(iter(allowed))))
    return given[0]


def takes_numbers(manifest: Manifest) -> tuple[str, ...]:
    """Return the members that suit a model of numbers, that which suits best first."""
    if manifest.features is None:
        return ("values", "inputs")
    return ("inputs", "values") if manifest.features == 1 else ("inputs",)


def read_numbers(item: NumbersInput, manifest: Manifest, most: int) -> Array:
    """Return the steps that an item holds in `inputs` or `values`, at most so many.

    Shapes: [time], or [time, features] for a model that has them.

    Raises: InvalidRequest, EmptyInput, RaggedInputs or ItemTooLarge, with the member as their field.
    """
    member = "values" if item.inputs is None else "inputs"
    if item.inputs is not None:
        _check_rows(item.inputs, manifest.features or 1)
    steps = _array(getattr(item, member), manifest.sequence.dtype, member)
    steps = steps.reshape(-1, *([] if manifest.features is None else [manifest.features]))
    if not len(steps):
        raise EmptyInput("no steps; give at least one", field=member)
    if len(steps) > most:
        raise ItemTooLarge(f"{len(steps)} steps; at most {most} in one item", field=member, limit=most)
    return steps


def read_samples(values: list[float], manifest: Manifest, most: int) -> Array:
    """Return the steps that `values`, the samples of a signal, are to a model, at most so many.

    Raises: EmptyInput or ItemTooLarge, with the member as their field.
    """
    limit = most * (manifest.features or 1)
    if not values:
        raise EmptyInput("no samples; give at least one", field="values")
    if len(values) > limit:
        raise ItemTooLarge(f"{len(values)} samples; at most {limit} in one item", field="values", limit=limit)
    return frame(cast(values, manifest.sequence.dtype), manifest)


def frame(samples: Array, manifest: Manifest) -> Array:
    """Return the steps that samples are to a model; zeros fill the last frame. Shapes: [time] or [time, features]."""
    if manifest.features is None:
        return samples
    missing = -len(samples) % manifest.features
    return np.pad(samples, (0, missing)).reshape(-1, manifest.features)


def _check_rows(rows: list[list[float]], features: int) -> None:
    for index, row in enumerate(rows):
        if len(row) != features:
            message = f"{len(row)} values, {features} needed in every row"
            raise RaggedInputs(message, field=f"inputs[{index}]")


def _array(numbers: object, dtype: str, field: str) -> Array:
    """Return `numbers`, in lists of equal length, as an array of `dtype`.

    Raises: InvalidRequest for the first that is not whole, or too large, where the model takes whole numbers.
    """
    if dtype in LARGEST_FLOAT:
        return cast(numbers, dtype)
    array, bounds = np.asarray(numbers, np.float64), np.iinfo(dtype)
    least, most = max(bounds.min, -EXACT), min(bounds.max, EXACT)
    bad = np.argwhere((array != np.floor(array)) | (array < least) | (array > most))
    if len(bad):
        place = tuple(bad[0])
        message = f"{array[place]:.17g} is no whole number from {least} to {most}, which this model takes"
        raise InvalidRequest(message, field=field + "".join(f"[{index}]" for index in place))
    return array.astype(dtype)
