"""What a model takes and gives in the protocol's terms: the names, datatypes and shapes of its tensors.

It knows manifests, not requests. A tensor has the name and the order of axes that the manifest gives it, and -1 stands
for the axes of batch and time. Invariant: a request that has what metadata shows is answered with what metadata shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from service.contract.manifest import Manifest
from service.contract.tensors import Shape, Tensor
from service.endpoints.v2.tensors import BYTES, DATATYPES
from service.engine.engine import Engine

TEXT, STATE_TOKEN, LENGTHS = "text", "state_token", "lengths"
COUNTS = ("INT32", "INT64")  # either will do for lengths


@dataclass(frozen=True)
class Declared:
    """A tensor in the protocol's terms.

    An `optional` one is not in every request, or not in every answer; a `column` holds one element for each row, which
    may have an axis of its own.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    column: bool = False

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor may have `shape`."""
        if self.column:
            return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        return len(shape) == len(self.shape) and all(
            wanted in (-1, size) for size, wanted in zip(shape, self.shape, strict=True)
        )


class Signature:
    """The inputs and outputs of a model.

    `made` are the outputs of its graph. `rows_at` is the axis of rows in each input. `batch_first` says that rows come
    first in all tensors.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.inputs: Mapping[str, Declared] = {tensor.name: tensor for tensor in _inputs(manifest)}
        self.outputs: Mapping[str, Declared] = {tensor.name: tensor for tensor in _outputs(manifest)}
        self.made: Mapping[str, Tensor] = {tensor.name: tensor for tensor in manifest.outputs}
        axes = {tensor.name: tensor.shape.index("batch") for tensor in manifest.inputs}
        self.rows_at = {name: axes.get(name, 0) for name in self.inputs}
        self.batch_first = all(tensor.shape[0] == "batch" for tensor in (*manifest.inputs, *manifest.outputs))


def _inputs(manifest: Manifest) -> Iterator[Declared]:
    own = {tensor.name for tensor in manifest.inputs}
    by_text = manifest.text is not None and TEXT not in own
    for tensor in manifest.inputs:
        yield Declared(tensor.name, DATATYPES[tensor.dtype], _free(tensor.shape), optional=by_text)
    if by_text:
        yield Declared(TEXT, BYTES, (-1, 1), column=True)
    if manifest.lengths is not None:
        yield Declared(manifest.lengths, COUNTS[0], (-1,), optional=True, column=True)
    if manifest.streamable:
        yield Declared(STATE_TOKEN, BYTES, (-1,), optional=manifest.start is None, column=True)


def _outputs(manifest: Manifest) -> Iterator[Declared]:
    own = {tensor.name for tensor in manifest.outputs}
    for tensor in manifest.outputs:
        yield Declared(tensor.name, DATATYPES[tensor.dtype], _free(tensor.shape))
    if manifest.text is not None and LENGTHS not in own and any(tensor.has_time for tensor in manifest.outputs):
        yield Declared(LENGTHS, COUNTS[0], (-1,), optional=True)
    if manifest.streamable:
        yield Declared(STATE_TOKEN, BYTES, (-1,), optional=True)


def _free(shape: Shape) -> tuple[int, ...]:
    return tuple(-1 if isinstance(size, str) else size for size in shape)


_signatures: WeakKeyDictionary[Engine, Signature] = WeakKeyDictionary()


def signature_of(engine: Engine) -> Signature:
    """Return the signature of the engine's model, made once."""
    signature = _signatures.get(engine)
    if signature is None:
        signature = _signatures[engine] = Signature(engine.manifest)
    return signature
