"""Hints from a person who knows the graph: the axes of an input, the value of a constant, a pair that is a state, the
labels of an output, the tokenizer of its ids.

It knows the options as they are typed, and the inputs and outputs of a graph. Invariant: checked `Hints` name only what
the graph has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from service.contract.parts import Constant
from service.contract.tensors import Shape
from service.errors import ManifestError, StartupError
from service.model.graph_check import has_axes
from service.model.onnx_session import Node, OnnxSession

V = TypeVar("V")
AXES: TypeAdapter[Shape] = TypeAdapter(Shape)
CONSTANT: TypeAdapter[Constant] = TypeAdapter(Constant)


@dataclass(frozen=True)
class Hints:
    """By the names of inputs: axes as a manifest has them, values of constants, and the outputs of states; by the names
    of outputs: labels. `tokenizer` is the file of the tokenizer that makes the ids.
    """

    axes: Mapping[str, Shape] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokenizer: Path | None = None

    def check(self, file: Path, session: OnnxSession) -> None:
        """Check that the graph of `session`, loaded from `file`, has what the hints name.

        Raises: ManifestError naming the option.
        """
        given = {node.name: node for node in session.inputs}
        made = {node.name: node for node in session.outputs}
        named = [("input", f"--{option}", name) for option, names in self._by_option() for name in names]
        named += [("output", "--state", name) for name in self.states.values()]
        named += [("output", "--labels", name) for name in self.labels]
        for kind, option, name in named:
            if name not in (found := given if kind == "input" else made):
                raise ManifestError(file, option, f"the graph has no {kind} {name!r}; it has {', '.join(found)}")
        for name in self.constants.keys() & {*self.axes, *self.states}:
            raise ManifestError(file, "--constant", f"{name} is said to be something else as well; a constant is fed")
        for name in self.constants:
            if not all(isinstance(size, int) for size in given[name].shape):
                message = f"{name} {list(given[name].shape)} has a free axis; a constant has a fixed shape"
                raise ManifestError(file, "--constant", message)
        for name, axes in self.axes.items():
            _check_axes(file, given[name], axes)

    def _by_option(self) -> list[tuple[str, Mapping[str, object]]]:
        return [("axis", self.axes), ("constant", self.constants), ("state", self.states)]


def read_hints(
    axes: Sequence[str],
    constants: Sequence[str],
    states: Sequence[str],
    labels: Sequence[str] = (),
    tokenizer: Path | None = None,
) -> Hints:
    """Read options such as `input=batch,576`, `sr=16000`, `h0=hn` and `scores=ham,spam`.

    Raises: StartupError naming the option, with an example of what would be right.
    """
    return Hints(
        axes=_read(axes, "axis", "input=batch,576", _axes),
        constants=_read(constants, "constant", "sr=16000", _constant),
        states=_read(states, "state", "h0=hn", str),
        labels=_read(labels, "labels", "scores=ham,spam", _labels, of="output"),
        tokenizer=tokenizer,
    )


def _read(
    given: Sequence[str], option: str, example: str, read: Callable[[str], V], *, of: str = "input"
) -> dict[str, V]:
    found: dict[str, V] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            if not name or not value or name in found:
                raise ValueError
            found[name] = read(value)
        except (ValueError, ValidationError):
            message = f"--{option} {text}: give each {of} once, as in --{option} {example}"
            raise StartupError(message) from None
    return found


def _axes(text: str) -> Shape:
    axes = AXES.validate_python([int(axis) if axis.isdecimal() else axis for axis in text.split(",")])
    if axes.count("batch") != 1 or axes.count("time") > 1:
        raise ValueError
    return axes


def _constant(text: str) -> Constant:
    numbers = [float(number) if set(number) & set(".en") else int(number) for number in text.split(",")]
    return CONSTANT.validate_python(numbers[0] if len(numbers) == 1 else tuple(numbers))


def _labels(text: str) -> tuple[str, ...]:
    labels = tuple(text.split(","))
    if not all(labels) or len({*labels}) < len(labels):
        raise ValueError
    return labels


def _check_axes(file: Path, node: Node, axes: Shape) -> None:
    if not has_axes(node, axes):
        message = f"{node.name} is said to be {list(axes)}, but the graph has {list(node.shape)}"
        raise ManifestError(file, "--axis", f"{message}; name each axis in its order: batch, time, or its size")
