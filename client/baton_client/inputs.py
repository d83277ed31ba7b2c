"""From what callers give to what requests carry: lists, numbers, texts and times, of any library.

It knows the API's members, not how they travel. Invariant: a single thing is never taken for a list of its parts (a
text for its characters, a mapping for its keys, a table for its headings); what has no exact form in a request is
refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Inputs = npt.ArrayLike | str  # k rows of features, k numbers for a one-number model, or a text
Condition = Mapping[str, Any] | Inputs  # what a session begins from, alone or as the member of a request
T = TypeVar("T")

BYTES = (bytes, bytearray, memoryview)
NO_LISTS = (str, *BYTES, Mapping, set, frozenset)  # what Python goes through, though it is one thing or has no order
REAL = "iuf"  # numpy's kinds of numbers
PARTS = ("values", "inputs")  # the members of an item that are numbers
STEPS = "give k rows of features, k numbers or a text"
SERIES = "give numbers, or rows of channels, for each series"
ROWS = "give numbers, or rows of them, for each series"
CONDITION = "give a text, a vector, rows, or a mapping of one of them by its name"
ITEM = "give a text, numbers, rows of them, or the bytes of a WAV file for each item"


class New(Enum):
    """The type of NEW."""

    NEW = "new"

    def __repr__(self) -> str:
        return "NEW"


NEW = New.NEW
"""In place of a state: begin a new session. None is refused, so that a lost token is noticed."""


@dataclass(frozen=True, slots=True)
class StepItem:
    """The next steps of a session, in a request for several. `id` comes back with its result.

    `condition` is what a new session begins from, of a model that needs one. To generate, and behind a condition,
    `inputs` may be None: nothing is read before what is written.
    """

    inputs: Inputs | None
    state: str | New = NEW
    id: str | None = None
    condition: Condition | None = None


def listed(given: Iterable[T], name: str, wanted: str) -> Iterable[T]:
    """Return `given` unchanged, where it holds one thing after another: a list, an array, a column, a generator.

    Raises: ValueError for a single thing, even if Python can go through its parts, and for what has no order.
    """
    if not _is_list(given):
        raise ValueError(
            f"{name} is of type {type(given).__name__}; give a list of {wanted}, even for a single element"
        )
    return given


def _is_list(given: Any) -> bool:
    if isinstance(given, NO_LISTS) or hasattr(given, "columns"):  # of a table Python goes through the headings
        return False
    try:
        iter(given)
    except TypeError:  # an array without an axis has the method, too
        return False
    return True


def numbers(given: npt.ArrayLike, name: str, wanted: str) -> Array:
    """Return numbers (1-D) or rows of them (2-D); None and what is masked are NaN.

    Raises: ValueError for other shapes, and for what only looks like numbers: texts, truth values, times.
    """
    if isinstance(given, NO_LISTS):
        raise ValueError(f"{name} is of type {type(given).__name__}; {wanted}")
    try:
        array = _array(given)
    except (TypeError, ValueError) as failure:
        raise ValueError(f"{name} cannot be read as numbers ({failure}); {wanted}") from failure
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} {f'has shape {array.shape}' if array.ndim else f'is {given!r}'}; {wanted}")
    if array.dtype.kind not in REAL:
        held = {type(cell).__name__ for cell in array.flat} if array.dtype == object else {array.dtype.name}
        raise ValueError(f"{name} holds {', '.join(sorted(held))}; {wanted}")
    return array


def _array(given: Any) -> Array:
    if isinstance(given, np.ma.MaskedArray):
        given = given.tolist()  # numpy itself would take what is under the mask
    array = np.asarray(list(given) if isinstance(given, Iterator) else given)
    mixed = array.dtype == object and array.ndim > 0
    if mixed and any(isinstance(cell, str | bytes | bool) for cell in array.flat):
        return array  # which numpy would convert
    return array.astype(float) if mixed or array.dtype == np.longdouble else array


def steps(inputs: Inputs | None, name: str = "inputs") -> Array | str:
    """Return the inputs of some steps: a text, numbers (1-D) or rows of features (2-D). Raises: ValueError."""
    if inputs is None:
        raise ValueError(f"{name} is None; {STEPS}")
    return inputs if isinstance(inputs, str) else numbers(inputs, name, STEPS)


def members(inputs: Array | str, text: str = "text") -> dict[str, Any]:
    """Return the member of a request that holds the steps; one that is a text is called `text`."""
    if isinstance(inputs, str):
        return {text: inputs}
    return {"values" if inputs.ndim == 1 else "inputs": inputs.tolist()}


def state_member(state: str | New) -> dict[str, str]:
    """Return the member of a request that says where the session is. Raises: ValueError for None."""
    if isinstance(state, New):
        return {}
    if not isinstance(state, str):
        raise ValueError(f"state is {state!r}; give a token, or NEW to begin a session")
    return {"state": state}


def step_item(item: StepItem, name: str) -> dict[str, Any]:
    """Return an item as /v1/step takes it. Raises: ValueError."""
    place = _place(item, name, "begin")
    if item.inputs is None and item.condition is not None:
        return place
    return {**place, **members(steps(item.inputs, f"{name}.inputs"))}


def prompt_item(item: StepItem, name: str) -> dict[str, Any]:
    """Return an item as /v1/generate takes it. Raises: ValueError."""
    place = _place(item, name, "condition")
    if item.inputs is None:
        return place
    return {**place, **members(steps(item.inputs, f"{name}.inputs"), "prompt")}


def _place(item: StepItem, name: str, begins: str) -> dict[str, Any]:
    """Return the members that say which session it is, and what comes back with its result.

    One that begins from a condition has it in the member `begins`.
    """
    if not isinstance(item, StepItem):
        raise ValueError(f"{name} is of type {type(item).__name__}; give a StepItem")
    place = {**({"id": item.id} if item.id is not None else {}), **state_member(item.state)}
    if item.condition is None:
        return place
    return {**place, begins: _condition(item.condition, f"{name}.{begins}")}


def _condition(given: Condition, name: str) -> dict[str, Any]:
    """Return a condition as requests take it. Raises: ValueError."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str):
        return {"text": given}
    array = numbers(given, name, CONDITION)
    return {"vector" if array.ndim == 1 else "inputs": array.tolist()}


def transform_item(series: Mapping[str, Any] | npt.ArrayLike, name: str) -> dict[str, Any]:
    """Return a series, numbers (1-D) or rows (2-D), as /v1/transform takes it. Raises: ValueError."""
    if isinstance(series, Mapping):
        return {**series, **{part: numbers(series[part], f"{name}.{part}", ROWS) for part in PARTS if part in series}}
    return members(numbers(series, name, ROWS))


def classify_item(item: Mapping[str, Any] | Inputs | bytes, name: str) -> dict[str, Any]:
    """Return what is to be classified as /v1/classify takes it: bytes are a WAV file. Raises: ValueError."""
    if isinstance(item, Mapping):
        audio = item.get("audio")
        return {**transform_item(item, name), **({"audio": _base64(audio)} if isinstance(audio, BYTES) else {})}
    if isinstance(item, BYTES):
        return {"audio": _base64(item)}
    return members(item if isinstance(item, str) else numbers(item, name, ITEM))


def _base64(content: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(content).decode()


def series_item(series: Mapping[str, Any] | npt.ArrayLike, name: str) -> dict[str, Any]:
    """Return a series, numbers (1-D) or rows of channels (2-D), as /v1/forecast takes it: NaN, a gap, as null.

    Raises: ValueError.
    """
    if not isinstance(series, Mapping):
        return {"values": _with_gaps(numbers(series, name, SERIES))}
    if "values" not in series:
        raise ValueError(f"{name} has no member 'values'; {SERIES} there")
    return {**series, "values": _with_gaps(numbers(series["values"], f"{name}.values", SERIES))}


def _with_gaps(values: Array) -> list[Any]:
    floats = values.astype(float)
    cells: list[Any] = np.where(np.isnan(floats), np.array(None), floats).tolist()
    return cells


def encoded(request: Mapping[str, Any]) -> bytes:
    """Return a request as JSON; dates, arrays and numbers of numpy, generators and the like have a form in it.

    Raises: ValueError with the name of a member that has none.
    """
    members = (f"{json.dumps(name)}: {_encoded(name, value)}" for name, value in request.items())
    return f"{{{', '.join(members)}}}".encode()


def _encoded(name: str, value: object) -> str:
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError) as failure:
        raise ValueError(f"{name}: {failure}") from failure


def _plain(value: Any) -> Any:
    """Return a value that json cannot write in a form that it can."""
    if isinstance(value, np.datetime64):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    for form in ("isoformat", "tolist"):  # dates and times; arrays, columns and numbers, whatever library they are of
        if hasattr(value, form):
            return getattr(value, form)()
    if not _is_list(value):
        raise ValueError(f"{value!r} is of type {type(value).__name__}, which a request has no form for")
    return list(value)
