"""Modules that were not written for Baton, called as a servable's network is.

It knows how modules are called and what they return, not graphs, tasks or directories. Invariant: outside of export a
row's answer is what the module gives for that row alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from service.errors import StartupError


class ModuleError(StartupError):
    """The module cannot be served as it is called; the message says what, where, and what would be right."""


@dataclass(frozen=True)
class Call:
    """How a module is called: an example of its arguments, and which of them are what.

    `states` names each argument that is a state, and its place in what is returned: an index or a key. `time_axis` is
    that of the sequence: 1, 0, or None where a call is one step.
    """

    arguments: inspect.BoundArguments
    sequence: str
    lengths: str | None
    states: Mapping[str, int | str]
    time_axis: int | None

    @cached_property
    def steps(self) -> Tensor:
        """The example of the sequence. Shapes: [batch, time, ...]; a single step is a time of 1."""
        given: Tensor = self.arguments.arguments[self.sequence]
        return given[:, None] if self.time_axis is None else given.transpose(0, 1 - self.time_axis)

    @cached_property
    def state_examples(self) -> dict[str, list[Tensor]]:
        """The tensors that the example has for each state."""
        return {name: tree_leaves(self.arguments.arguments[name]) for name in self.states}

    def run(
        self, module: nn.Module, steps: Tensor, lengths: Tensor, states: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Call the module; return its outputs and its states. Shapes: steps as `steps`; all else as the module's."""
        given = dict(self.arguments.arguments)
        given[self.sequence] = steps[:, 0] if self.time_axis is None else steps.transpose(0, 1 - self.time_axis)
        if self.lengths is not None:
            given[self.lengths] = lengths.to(given[self.lengths].dtype)
        carried_in = iter(states)
        for name in self.states:
            given[name] = tree_map(lambda _: next(carried_in), given[name])
        call = inspect.BoundArguments(self.arguments.signature, given)
        returned = module(*call.args, **call.kwargs)
        named = isinstance(returned, Mapping)
        items = dict(returned if named else enumerate(returned if isinstance(returned, tuple | list) else [returned]))
        if lost := [place for place in self.states.values() if place not in items]:
            raise ModuleError(f"states are said to be returned at {lost}, and what is returned has {list(items)}")
        carried = [leaf for place in self.states.values() for leaf in tree_leaves(items.pop(place))]
        return tree_leaves(list(items.values())), carried


class Served(nn.Module):
    """The module under a servable's signature.

    Outside of export each row runs alone at its true length: what the graph gives in any batch is compared with that.
    """

    def __init__(
        self, module: nn.Module, call: Call, output_axes: list[tuple[int, ...]], state_axes: list[int]
    ) -> None:
        """`output_axes` has each output's batch axis and, if it has one, time axis."""
        super().__init__()
        self.module, self.call = module, call
        self._output_axes, self._state_axes = output_axes, state_axes

    def forward(self, steps: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        if torch.onnx.is_in_onnx_export():
            return tuple(part for parts in self._run(steps, lengths, states) for part in parts)
        rows = [self._alone(row, steps, lengths, states) for row in range(len(steps))]
        outputs, carried = (list(zip(*parts, strict=True)) for parts in zip(*rows, strict=True))
        ended = [torch.cat(parts, axis) for parts, axis in zip(carried, self._state_axes, strict=True)]
        return (*(torch.cat(parts) for parts in outputs), *ended)

    def _run(self, steps: Tensor, lengths: Tensor, states: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        outputs, carried = self.call.run(self.module, steps, lengths, states)
        placed = zip(outputs, self._output_axes, strict=True)
        return [output.movedim(axes, tuple(range(len(axes)))) for output, axes in placed], carried

    def _alone(
        self, row: int, steps: Tensor, lengths: Tensor, states: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run one row. Shapes: returns outputs [1, ...], zero beyond the row's length, and states."""
        length = int(lengths[row])
        own = [state.narrow(axis, row, 1) for state, axis in zip(states, self._state_axes, strict=True)]
        outputs, carried = self._run(steps[row : row + 1, :length], lengths[row : row + 1], own)
        for at, axes in enumerate(self._output_axes):
            if len(axes) > 1:
                short = outputs[at]
                outputs[at] = short.new_zeros(1, steps.shape[1], *short.shape[2:])
                outputs[at][:, :length] = short
        return outputs, carried
