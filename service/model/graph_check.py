"""The check of a loaded graph against its manifest: names, types and shapes.

It knows what the graph says of itself; `service.engine.probe` tries how it behaves. Invariant: a graph that passed has
every input, output and state of its manifest, as declared, and needs no other input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.contract.manifest import Manifest
from service.contract.parts import Constant
from service.contract.tensors import DTYPE_BYTES, NAMED_AXES, fits
from service.errors import ManifestError
from service.model.onnx_session import Node, OnnxSession

_TYPES = ", ".join(DTYPE_BYTES)
_Declared = tuple[str, str, Sequence[str], Sequence[int | str]]  # field, name, dtypes to choose from, shape


def check_graph(session: OnnxSession, file: Path, manifest: Manifest) -> None:
    """Check the inputs and outputs of `session` against `manifest`, which was read from `file`.

    Raises: ManifestError naming `file`, the field and what the graph has.
    """
    given = {node.name: node for node in session.inputs}
    made = {node.name: node for node in session.outputs}
    inputs: list[_Declared] = [(f"inputs[{i}]", t.name, (t.dtype,), t.shape) for i, t in enumerate(manifest.inputs)]
    for field in ("lengths", "memory_lengths"):
        if name := getattr(manifest, field):
            inputs.append((field, name, ("int32", "int64"), ("batch",)))
    outputs: list[_Declared] = [(f"outputs[{i}]", t.name, (t.dtype,), t.shape) for i, t in enumerate(manifest.outputs)]
    for i, state in enumerate(manifest.states):
        inputs.append((f"states[{i}].input", state.input, (state.dtype,), state.shape))
        if state.output is not None:
            outputs.append((f"states[{i}].output", state.output, (state.dtype,), state.shape))
    for kind, declared, found in (("input", inputs, given), ("output", outputs, made)):
        for field, name, dtypes, shape in declared:
            if name not in found:
                raise ManifestError(file, field, f"the graph has no {kind} {name!r}; it has {', '.join(found)}")
            _check_tensor(file, field, found[name], dtypes, shape, grows=kind == "output")
    for name, value in manifest.constants.items():
        if name not in given:
            raise ManifestError(file, f"constants.{name}", f"the graph has no such input; it has {', '.join(given)}")
        _check_constant(file, f"constants.{name}", given[name], value)
    unfed = set(given) - {name for _, name, _, _ in inputs} - set(manifest.constants)
    if unfed:
        raise ManifestError(file, "inputs", f"the graph also needs {', '.join(sorted(unfed))}; declare them")


def has_axes(node: Node, shape: Sequence[int | str | None], *, grows: bool = False) -> bool:
    """Return whether `node` can be declared as `shape`: sizes agree, and named axes are free, or a batch axis of 1."""
    lacking = lacks_batch(node, shape)
    held = [axis for axis in shape if axis != "batch"] if lacking else shape
    return len(node.shape) == len(held) and all(
        size == axis
        or (size == 1 and axis == "batch")
        or (grows and axis in NAMED_AXES)
        or (not isinstance(size, int) and (axis in NAMED_AXES or not lacking))
        for size, axis in zip(node.shape, held, strict=True)
    )


def takes_one_row(session: OnnxSession, manifest: Manifest) -> bool:
    """Return whether the graph takes one row at a time."""
    nodes = {node.name: node for node in session.inputs}
    return any(holds_one_row(nodes[name], shape) for name, shape in manifest.by_row.items())


def holds_one_row(node: Node, shape: Sequence[int | str | None]) -> bool:
    """Return whether `node`, declared as `shape`, takes one row a run: its batch axis is 1 or missing."""
    return lacks_batch(node, shape) or (bool(node.shape) and node.shape[shape.index("batch")] == 1)


def lacks_batch(node: Node, shape: Sequence[int | str | None]) -> bool:
    """Return whether `node` has the axes of `shape` without the batch axis."""
    return len(node.shape) == len(shape) - 1


def _check_constant(file: Path, field: str, node: Node, value: Constant) -> None:
    """Check a constant: a number for all entries of a tensor of fixed shape, or a list of the entries of a vector."""
    shape = list(node.shape)
    if node.dtype not in DTYPE_BYTES or not all(isinstance(size, int) for size in shape):
        raise ManifestError(file, field, f"the graph has {node.dtype} {shape}; a constant is {_TYPES} of fixed shape")
    if isinstance(value, tuple) and shape != [len(value)]:
        takes = f"a list of {shape[0]} numbers" if len(shape) == 1 else "one number"
        message = f"a list of {len(value)} is declared, but the graph has {node.dtype} {shape}; give {takes}"
        raise ManifestError(file, field, message)
    for place, number in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
        if not fits(number, node.dtype):
            named = field if place is None else f"{field}[{place}]"
            raise ManifestError(file, named, f"{number} is declared, but the graph takes {node.dtype}")


def _check_tensor(
    file: Path, field: str, node: Node, dtypes: Sequence[str], shape: Sequence[int | str], *, grows: bool
) -> None:
    """Check a tensor; with `grows`, the graph may have a fixed size in place of a named axis.

    Exporters write the sizes that an output had in an example, above all its time. ONNX Runtime runs with other sizes
    all the same, and runs check them.
    """
    if node.dtype not in dtypes:
        declared = " or ".join(dtypes)
        raise ManifestError(file, field, f"{node.name} is declared {declared}, but the graph has {node.dtype}")
    if not node.shape:
        return  # ONNX Runtime shows a shape like this if the graph has none; runs check it
    if not has_axes(node, shape, grows=grows):
        message = f"{node.name} is declared {list(shape)}, but the graph has {list(node.shape)}"
        message += "; sizes must agree, 'time' and 'memory' be free in the graph, 'batch' be free, or 1, or not there"
        raise ManifestError(file, field, message)
