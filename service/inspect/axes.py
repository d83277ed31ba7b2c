"""The axes of a foreign graph, found by running it at a few sizes: those of its outputs, and a size of its input.

What the file says of its outputs is not used, because exporters write sizes that an example happened to have. It knows
roles, not interpretations. Invariant: a failed run is explained, with ONNX Runtime's own words at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from service.contract.parts import Constant
from service.errors import ManifestError
from service.inspect.hints import Hints
from service.inspect.roles import FEATURES, Roles, Shape, listed
from service.model.onnx_session import Array, Node, OnnxSession, array_dtype, quoted

STAND_IN = 1  # for a constant, whose value no graph tells; 0 would divide by zero where it divides
SIZES = ({"batch": 2, "time": 3}, {"batch": 5, "time": 3}, {"batch": 2, "time": 7})
ONE_ROW = ({"batch": 1, "time": 3}, {"batch": 1, "time": 7})
MAX_FEATURES = 2048
Runs = Mapping[str, Sequence[Array]]


def run_at_sizes(file: Path, session: OnnxSession, roles: Roles, hints: Hints, dtypes: Collection[str]) -> Runs:
    """Run the graph on zeros at a few sizes; return the tensors of each output of one of the `dtypes`.

    Raises: ManifestError when the graph does not run, with the options that could help.
    """
    names = [node.name for node in session.outputs if node.dtype in dtypes]
    runs: list[list[Array]] = []
    for sizes in sizes_of(roles):
        try:
            runs.append(session.run(names, _feeds(roles, hints, sizes)))
        except Exception as failure:  # onnxruntime's exceptions share no public base
            raise _explained(file, session, roles, hints, failure) from failure
    return dict(zip(names, zip(*runs, strict=True), strict=True))


def name_axes(roles: Roles, runs: Runs) -> dict[str, Shape]:
    """Return the shapes of the outputs; an axis is None if it grows with neither batch nor time.

    If a run takes one row, batch is the first axis of size 1, or an axis that the output lacks.
    """
    sizes = sizes_of(roles)
    kinds = {tuple(size[axis] for size in sizes): axis for axis in SIZES[0]}
    made: dict[str, Shape] = {}
    for name, tensors in runs.items():
        axes = zip(*(tensor.shape for tensor in tensors), strict=True)
        shape: list[int | str | None] = [found[0] if len({*found}) == 1 else kinds.get(found) for found in axes]
        if roles.of_one_row:
            place = shape.index(1) if 1 in shape else 0
            shape[place : place + (1 in shape)] = ["batch"]
        made[name] = tuple(shape)
    return made


def find_features(file: Path, session: OnnxSession, roles: Roles, hints: Hints) -> Roles:
    """Return `roles` with the number of features that the graph runs with.

    Raises: ManifestError when it runs with no number, or with several.
    """
    sizes, able = sizes_of(roles)[0], []
    for features in range(1, MAX_FEATURES + 1):
        failure = _failure(session, roles, hints, {**sizes, FEATURES: features})
        able += [] if failure else [features]
        if len(able) > 1:
            message = f"as {listed(roles.sequence_shape)} it runs with {able[0]} features and with {able[1]}"
            raise ManifestError(file, "--axis", _asked(roles, hints, message))
    if not able:
        assert failure is not None
        raise _explained(file, session, roles, hints, failure)
    named = tuple(able[0] if axis == FEATURES else axis for axis in roles.sequence_shape)
    return replace(roles, shapes={**roles.shapes, roles.sequence.name: named})


def find_distributions(made: Mapping[str, Shape], runs: Runs) -> frozenset[str]:
    """Return the outputs whose numbers on the last fixed axis are probabilities: not negative, and 1 in all."""
    found = set()
    for name, shape in made.items():
        sizes = [place - len(shape) for place, axis in enumerate(shape) if isinstance(axis, int)]
        if sizes and shape[sizes[-1]] != 1 and all(_sums_to_one(tensor, sizes[-1]) for tensor in runs[name]):
            found.add(name)
    return frozenset(found)


def takes_ids(session: OnnxSession, roles: Roles, hints: Hints, ids: int) -> bool:
    """Return whether the graph runs with the ids below `ids` and not with `ids`: its table has so many rows."""
    sizes = sizes_of(roles)[0]
    return not _failure(session, roles, hints, sizes, ids - 1) and bool(_failure(session, roles, hints, sizes, ids))


def _sums_to_one(tensor: Array, axis: int) -> bool:
    if tensor.dtype.kind != "f":
        return False
    return bool((tensor >= 0).all() and np.allclose(tensor.sum(axis, np.float64), 1, atol=1e-3))


def sizes_of(roles: Roles) -> Sequence[Mapping[str, int]]:
    """Return the sizes that the graph is run at."""
    return ONE_ROW if roles.of_one_row else SIZES


def constant_of(node: Node, hints: Hints) -> Constant:
    """Return the value that the hints give a constant, or a stand-in."""
    sizes = [size for size in node.shape if isinstance(size, int)]  # the axis of a constant is fixed
    return hints.constants.get(node.name, (STAND_IN,) * sizes[0] if sizes and sizes[0] > 1 else STAND_IN)


def _feeds(roles: Roles, hints: Hints, sizes: Mapping[str, int], step: int = 0) -> dict[str, Array]:
    feeds = {node.name: _zeros(node, roles.size(node, sizes)) for node in roles.by_row}
    if step:
        feeds[roles.sequence.name] += step
    if roles.lengths is not None:
        feeds[roles.lengths.name] += sizes["time"]
    for node in roles.constants:
        feeds[node.name] = np.full(roles.size(node, sizes), constant_of(node, hints), node.dtype)
    return feeds


def _zeros(node: Node, size: tuple[int, ...]) -> Array:
    dtype = array_dtype(node.dtype)
    return np.full(size, "0" if dtype.hasobject else 0, dtype)


def _failure(
    session: OnnxSession, roles: Roles, hints: Hints, sizes: Mapping[str, int], step: int = 0
) -> Exception | None:
    try:
        session.run([], _feeds(roles, hints, sizes, step))
    except Exception as failure:  # noqa: BLE001 - onnxruntime's exceptions share no public base; the caller tells of it
        return failure
    return None


def _explained(file: Path, session: OnnxSession, roles: Roles, hints: Hints, failure: Exception) -> ManifestError:
    shown = ", ".join(f"{node.name} {listed(roles.shapes[node.name])}" for node in roles.by_row)
    known = not roles.of_one_row and FEATURES not in roles.sequence_shape
    if known and _failure(session, roles, hints, ONE_ROW[0]) is None:
        message = (
            f"with {shown} the graph runs with one row and not with two: its batch axis is free by name alone, and "
            "fixed to 1 inside; export it from an example of two rows, with a free batch axis"
        )
    else:
        message = _asked(roles, hints, f"it does not run with {shown}")
    return ManifestError(file, "inputs[0].shape", f"{message} {quoted(failure)}")


def _asked(roles: Roles, hints: Hints, found: str) -> str:
    """Return what was found, and the options that say what the graph does not tell."""
    sequence = roles.sequence
    asked = [
        f"{node.name} was fed {STAND_IN}; say its value, as in --constant {node.name}=VALUE"
        for node in roles.constants
        if node.name not in hints.constants
    ]
    if sequence.name not in hints.axes:
        unknown = {FEATURES} if roles.states else {FEATURES, "time"}  # of a plain model, time is what was just tried
        axes = ",".join("SIZE" if axis in unknown else str(axis) for axis in roles.sequence_shape)
        asked.insert(0, f"say what its axes are, as in --axis {sequence.name}={axes}")
    return "; ".join([f"the graph does not tell all of {sequence.name} {listed(sequence.shape)}: {found}", *asked])
