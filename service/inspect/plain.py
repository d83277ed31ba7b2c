"""The interpretations of a foreign graph as a plain model: every input is fed by row, and nothing is carried.

Which axis is the batch and which is time follows from the axes' names and places, alike for all inputs; runs tell the
shapes of the outputs. It knows graphs, not manifests. Invariant: an input without a free axis, and without one of size
1, is never taken for a row unless a person says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from service.contract.tensors import DTYPE_BYTES, TensorDtype
from service.errors import ManifestError
from service.inspect.axes import find_distributions, find_features, name_axes, run_at_sizes
from service.inspect.hints import Hints
from service.inspect.interpretation import TELLING, Interpretation
from service.inspect.roles import (
    FEATURES,
    TIME_NAME,
    Roles,
    Shape,
    free_axes,
    is_named_like_lengths,
    is_small,
    ones,
    several,
)
from service.model.onnx_session import Node, OnnxSession

DTYPES: tuple[str, ...] = get_args(TensorDtype)


def find_plain(file: Path, session: OnnxSession, hints: Hints) -> list[Interpretation]:
    """Return the interpretations of the graph of `session`, loaded from `file`, as a plain model: the likeliest first.

    Raises: ManifestError when there is none, with the reason and the options that could help.
    """
    if hints.states:
        raise ManifestError(file, "--state", "a plain model carries no states; leave the option out")
    constants = tuple(node for node in session.inputs if _is_constant(node, hints))
    fed = [node for node in session.inputs if node not in constants]
    _check(file, fed, constants, hints)
    found: list[Interpretation] = []
    refusals: list[ManifestError] = []
    for roles in _find_roles(fed, constants, hints):
        try:
            found.append(_read(file, session, roles, hints))
        except ManifestError as refusal:
            refusals.append(refusal)
    if not found:
        raise min(refusals, key=lambda refusal: TELLING.index(refusal.field))
    return sorted(found, key=lambda each: each.rank)


def _is_constant(node: Node, hints: Hints) -> bool:
    return node.name in hints.constants or (
        node.dtype in DTYPE_BYTES and is_small(node) and node.name not in hints.axes
    )


def _check(file: Path, fed: Sequence[Node], constants: Sequence[Node], hints: Hints) -> None:
    """Check that there are inputs by row, and that each can be fed.

    Raises: ManifestError with what to export differently, or which option to give.
    """
    if not constants and not fed:
        raise ManifestError(file, "inputs", "the graph takes nothing; export it with what it is to read as an input")
    if not fed:
        found, example = several(constants), _as_row(constants[0])
        message = f"the graph takes {found} and nothing by row; where an input is a row, say it: --axis {example}"
        raise ManifestError(file, "inputs", message)
    for node in fed:
        if node.dtype not in DTYPES:
            raise ManifestError(file, "inputs", f"{node.name} is {node.dtype}; Baton feeds {', '.join(DTYPES)}")
    unsaid = [node for node in fed if node.name not in hints.axes]
    if many := [node for node in unsaid if len(free_axes(node)) > 2]:
        example = ",".join(["batch", "time", *["SIZE"] * (len(many[0].shape) - 2)])
        message = f"{several(many)}: more axes are free than batch and time; say them: --axis {many[0].name}={example}"
        raise ManifestError(file, "--axis", message)
    if bare := [node for node in unsaid if not free_axes(node) and not ones(node)]:
        message = (
            f"no axis of {several(bare)} can be the batch: export one that is free, or of size 1, or, where the graph "
            f"takes one row and has no such axis, say it: --axis {_as_row(bare[0])}"
        )
        raise ManifestError(file, "--axis", message)


def _as_row(node: Node) -> str:
    """Return the option that makes a row of a node without a free axis: its batch is its first 1, else not there."""
    axes = _named(node, ones(node)[0]) if ones(node) else ("batch", *node.shape)
    return f"{node.name}={','.join(map(str, axes))}"


def _find_roles(fed: Sequence[Node], constants: tuple[Node, ...], hints: Hints) -> Iterator[Roles]:
    """Yield the roles of the inputs with each way to name their axes; first with lengths, where one can be them."""
    lengths = [node for node in fed if is_named_like_lengths(node) and node.name not in hints.axes]
    for shapes in _find_shapes(fed, hints):
        for chosen in (*lengths, None):
            inputs = tuple(node for node in fed if node is not chosen)
            if chosen is None or any("time" in shapes[node.name] for node in inputs):
                yield Roles(inputs, chosen, constants, (), shapes)


def _find_shapes(fed: Sequence[Node], hints: Hints) -> list[dict[str, Shape]]:
    """Return the ways to name the axes of all inputs that are alike for all: by name, or by place."""
    unsaid = [node for node in fed if node.name not in hints.axes]
    free = [node for node in unsaid if free_axes(node)]
    names = dict.fromkeys(axis for node in free for axis in node.shape if isinstance(axis, str))
    shared = [name for name in names if all(node.shape.count(name) == 1 for node in free)]
    found: list[dict[str, Shape]] = []
    for place in (*map(_called, shared), _first, _last, _of_one_row):
        shapes = {node.name: hints.axes.get(node.name) or _named(node, place(node)) for node in fed}
        if shapes not in found and all(shape.count("time") <= 1 for shape in shapes.values()):
            found.append(shapes)
    if len(fed) == len(unsaid) == 1 and len(free_axes(fed[0])) == 2:  # a size that the graph does not tell
        found.append({fed[0].name: _named(fed[0], _first(fed[0]), FEATURES)})
    return found


def _called(name: str) -> Callable[[Node], int]:
    return lambda node: node.shape.index(name) if name in node.shape else ones(node)[0]


def _first(node: Node) -> int:
    return (free_axes(node) or ones(node))[0]


def _last(node: Node) -> int:
    return free_axes(node)[-1] if free_axes(node) else ones(node)[0]


def _of_one_row(node: Node) -> int:
    return (ones(node) or free_axes(node))[0]


def _named(node: Node, batch: int, other: str = "time") -> Shape:
    """Name the batch axis, and what other axis is free."""
    axes = (size if isinstance(size, int) else other for size in node.shape)
    return tuple("batch" if place == batch else axis for place, axis in enumerate(axes))


def _read(file: Path, session: OnnxSession, roles: Roles, hints: Hints) -> Interpretation:
    """Return the interpretation with these roles.

    Raises: ManifestError when the graph does not run so, or has no output to answer with.
    """
    if FEATURES in roles.sequence_shape:
        roles = find_features(file, session, roles, hints)
    runs = run_at_sizes(file, session, roles, hints, DTYPES)
    made = name_axes(roles, runs)
    likelihood = sum(_likelihood(roles, node) for node in roles.inputs)
    spread = find_distributions(made, runs)
    read = Interpretation(roles, made, (), (), spread, likelihood + (roles.lengths is not None))
    if not read.outputs:
        raise ManifestError(
            file, "outputs", "no output has a row for each row of the inputs; one is needed to answer with"
        )
    return read


def _likelihood(roles: Roles, node: Node) -> int:
    """Return how well the names of a node's axes fit batch and time."""
    of_batch, of_time = (roles.graph_name(node, axis) for axis in ("batch", "time"))
    return bool(TIME_NAME.search(of_time)) - bool(TIME_NAME.search(of_batch))
