"""What a module takes and gives, found by calling it: from an example and what its arguments are to a `Servable`.

It knows modules and their tensors, not graphs, tasks or directories. Invariant: the module that was given is never
changed; what is tried, and what the servable holds, is a copy.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from service.contract import tensors
from service.errors import StartupError
from training.export.explicit import cell_of
from training.export.foreign import Call, ModuleError, Served
from training.export.graph import Array, Servable, line_of

DTYPES: dict[torch.dtype, tensors.Dtype] = {getattr(torch, name): name for name in get_args(tensors.Dtype)}
TRIED = ((2, 0), (3, 0), (2, 2))  # rows, and steps beyond the example's: one axis changes at a time
ROW_LENGTHS = (1, 2, 3, 5, 8, 13, 21)
WHOLE = (torch.int32, torch.int64)
AXES: tuple[tensors.Axis, ...] = ("batch", "time")
MEMBERS = {*vars(nn.Module()), "_flat_weights"}  # what every module has, and a recurrent layer's second list of weights


def servable_of(
    module: nn.Module,
    call: Call,
    outputs: Mapping[str, Sequence[str]],
    shortest: int = 1,
    longest: int | None = None,
) -> Servable:
    """Return a copy of the module with its signature; `outputs` names what it returns beside its states, in their
    order, each with its labels.

    Units: `shortest` and `longest` rows in steps.

    Raises: ModuleError.
    """
    module = _copied(module)
    states = tuple(_state(call, name, leaf) for name, leaf in _named_states(call))
    timed, dtype = call.time_axis is not None, _dtype(call.sequence, call.steps.dtype)
    draw = Draw(call)
    returned = _try_out(module, call, draw, states)
    names = list(outputs) or (["output"] if len(returned) == 1 else [f"output_{at}" for at in range(len(returned))])
    if not returned:
        raise ModuleError("the module returns nothing but its states: return the answer of a step as well")
    if len(names) != len(returned):
        named = ", ".join(names)
        raise ModuleError(f"outputs names {len(names)} ({named}), and the module returns {len(returned)} beside states")
    if both := {*names} & {call.sequence, *(state.input for state in states)}:
        raise ModuleError(f"{', '.join(sorted(both))} names an argument and an output: give outputs other names")
    axes = [_axes(call, name, sizes) for name, (_, sizes) in zip(names, returned, strict=True)]
    declared = tuple(
        _output(name, made, sizes[0], own, outputs.get(name, ()))
        for name, (made, sizes), own in zip(names, returned, axes, strict=True)
    )
    lengths = [length for n in ROW_LENGTHS if (length := shortest + n - 1) <= (longest or length)] if timed else [1]
    return Servable(
        Served(module, call, axes, [state.batch_axis for state in states]),
        tensors.Tensor(name=call.sequence, dtype=dtype, shape=(*AXES[: 1 + timed], *call.steps.shape[2:])),
        declared,
        draw,
        states=states,
        streamable=bool(states),
        row_lengths=tuple(lengths) if len(lengths) > 1 else (*lengths, *lengths, *lengths),  # a batch has several rows
    )


def call_of(
    module: nn.Module,
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    lengths: str | None,
    states: Mapping[str, int | str],
    time_axis: int | None,
) -> Call:
    """Return how the module is called. Raises: ModuleError."""
    if not isinstance(module, nn.Module):
        raise ModuleError(f"module is a {type(module).__name__}; it must be an nn.Module")
    if time_axis not in (0, 1, None):
        raise ModuleError(f"time_axis is {time_axis}; it is 0 or 1, or None where a call is one step")
    signature = inspect.signature(module.forward)
    example = tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, example)
    try:
        if isinstance(example, Mapping):
            bound = signature.bind(**example)
        else:
            bound = signature.bind(*([example] if isinstance(example, Tensor) else example))
    except TypeError as failure:
        raise ModuleError(f"example does not fit forward{signature}: {failure}") from failure
    given = bound.arguments
    if len({*states.values()}) < len(states):
        raise ModuleError(f"states gives one place in what is returned to several: {dict(states)}")
    if missing := {*states, *([lengths] if lengths else [])} - given.keys():
        raise ModuleError(f"example has no {', '.join(sorted(missing))}; it has {', '.join(given)}")
    free = [name for name in given if name not in states and name != lengths]
    others = [name for name in free if any(isinstance(leaf, Tensor) for leaf in tree_leaves(given[name]))]
    if len(others) != 1 or not isinstance(given[others[0]], Tensor):
        raise ModuleError(
            f"beside lengths and states the example has the tensors {', '.join(others) or 'none'}, and one is served, "
            "the sequence: name states and lengths, and compute masks and the like in the module, from its lengths"
        )
    call = Call(bound, others[0], lengths, states, time_axis)
    if given[others[0]].dim() < (1 if time_axis is None else 2):
        raise ModuleError(f"{others[0]} has the shape {list(given[others[0]].shape)}; it needs batch and time axes")
    _check_lengths(call)
    return call


def _check_lengths(call: Call) -> None:
    if call.lengths is None:
        return
    lengths = call.arguments.arguments[call.lengths]
    if not isinstance(lengths, Tensor) or lengths.shape != call.steps.shape[:1] or lengths.dtype not in WHOLE:
        rows = len(call.steps)
        raise ModuleError(
            f"{call.lengths} must be a tensor of {rows} whole numbers, one for each row of {call.sequence}"
        )
    if call.time_axis is None:
        raise ModuleError(f"time_axis is None, so a call is one step, and {call.lengths} has nothing to say")


class Draw:
    """Rows of the example's steps, in any order: values, and ids above all, that the module is known to take."""

    def __init__(self, call: Call) -> None:
        self._steps = np.unique(call.steps.flatten(0, 1).numpy(), axis=0)
        if len(self._steps) < 2:
            raise ModuleError(
                f"all steps of {call.sequence} in the example are alike, so that nothing would be compared: give "
                "values as they come, or random ones"
            )

    def __call__(self, rng: np.random.Generator, length: int) -> Array:
        return self._steps[rng.integers(len(self._steps), size=length)]


def _copied(module: nn.Module) -> nn.Module:
    """Return a copy for inference on the CPU."""
    wide = {name: part.dtype for name, part in module.named_parameters() if part.dtype != torch.float32}
    if wide:
        name, dtype = next(iter(wide.items()))
        raise ModuleError(f"{name} is {dtype}, and Baton serves float32: call module.float() first")
    for path, layer in module.named_modules():
        if isinstance(layer, nn.RNNBase):
            cell_of(path or type(layer).__name__, layer)
    try:
        return copy.deepcopy(module).cpu().eval()
    except (RuntimeError, TypeError) as failure:
        raise ModuleError(f"the module cannot be copied: {failure}") from failure


def _named_states(call: Call) -> list[tuple[str, Tensor]]:
    named = []
    for name, leaves in call.state_examples.items():
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise ModuleError(f"the state {name} must be a tensor in the example, or a tuple of tensors")
        named += [(name if len(leaves) == 1 else f"{name}_{at}", leaf) for at, leaf in enumerate(leaves)]
    return named


def _state(call: Call, name: str, given: Tensor) -> tensors.State:
    rows = len(call.steps)
    axes = [axis for axis, size in enumerate(given.shape) if size == rows]
    if len(axes) != 1:
        raise ModuleError(
            f"the example of the state {name} has the shape {list(given.shape)}, and which axis is that of its {rows} "
            "rows cannot be told: give an example with a number of rows that is none of the other sizes"
        )
    by_row = given.movedim(axes[0], 0)
    if not torch.equal(by_row, by_row[:1].expand_as(by_row)):
        raise ModuleError(
            f"the rows of the example's {name} differ, and every session begins with the same state: give that to all"
        )
    shape: tensors.Shape = tuple("batch" if axis == axes[0] else size for axis, size in enumerate(given.shape))
    start = by_row[0].tolist() if by_row.any() else 0
    return tensors.State(input=name, output=f"{name}_out", dtype=_dtype(name, given.dtype), shape=shape, start=start)


def _try_out(
    module: nn.Module, call: Call, draw: Draw, states: Sequence[tensors.State]
) -> list[tuple[torch.dtype, list[torch.Size]]]:
    """Call the module with other numbers of rows and steps; return each output's type, and its shape in each call."""
    rng, kept, called = np.random.default_rng(0), _kept(module), []
    for rows, more in TRIED:
        time = call.steps.shape[1] + (0 if call.time_axis is None else more)
        steps = torch.from_numpy(np.stack([draw(rng, time) for _ in range(rows)]))
        own = [
            example.narrow(state.batch_axis, 0, 1).repeat_interleave(rows, state.batch_axis)
            for example, state in zip(tree_leaves(call.state_examples), states, strict=True)
        ]
        try:
            with torch.no_grad():
                outputs, carried = call.run(module, steps, torch.full((rows,), time), own)
        except StartupError:
            raise
        except Exception as failure:
            raise ModuleError(
                f"the module fails on {rows} rows of {time} steps{line_of(failure)}: {failure}"
            ) from failure
        _check_carried(states, own, carried)
        called.append(outputs)
    now = _kept(module)
    if changed := sorted(name for name in now if name not in kept or not kept[name].is_as(now[name])):
        raise ModuleError(
            f"a call changes {', '.join(changed)}, which is no part of what it returns, so that it would be lost: take "
            "it as an argument, return it, and name it in states"
        )
    for output in tree_leaves(called):
        if not isinstance(output, Tensor):
            raise ModuleError(f"the module returns a {type(output).__name__}; it must return tensors")
    return [(made[0].dtype, [output.shape for output in made]) for made in zip(*called, strict=True)]


def _check_carried(states: Sequence[tensors.State], given: list[Tensor], returned: list[Any]) -> None:
    goes_in, comes_out = (
        [f"{list(leaf.shape)} {leaf.dtype}" if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves]
        for leaves in (given, returned)
    )
    if goes_in != comes_out:
        names = ", ".join(state.input for state in states)
        raise ModuleError(
            f"{names} go in as {', '.join(goes_in)}, and where they are said to be returned is {', '.join(comes_out)}: "
            "each state must come out as it goes in"
        )


@dataclass(frozen=True)
class _Kept:
    """Tensors that a part of a module holds, and how often each was changed in place."""

    leaves: list[Tensor]
    changes: list[int]

    def is_as(self, other: _Kept) -> bool:
        same = len(self.leaves) == len(other.leaves) and all(map(operator.is_, self.leaves, other.leaves))
        return same and self.changes == other.changes


def _kept(module: nn.Module) -> dict[str, _Kept]:
    """Return what the module's parts hold beside parameters and parts, by name, in lists and the like too."""
    held = [(path, vars(part)) for path, part in module.named_modules()]
    return {
        ".".join(filter(None, (path, name))): _Kept(leaves, [leaf._version for leaf in leaves])
        for path, members in held
        for name, value in (members | members["_buffers"]).items()
        if name not in MEMBERS and (leaves := [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)])
    }


def _axes(call: Call, name: str, sizes: list[torch.Size]) -> tuple[int, ...]:
    """Return the output's batch axis and, if it has one, time axis."""
    rows = tuple(rows for rows, _ in TRIED)
    times = tuple(call.steps.shape[1] + more for _, more in TRIED)
    changing = {axis: along for axis, along in enumerate(zip(*sizes, strict=True)) if len({*along}) > 1}
    batch = [axis for axis, along in changing.items() if along == rows]
    time = [axis for axis, along in changing.items() if along == times]
    if len(batch) != 1 or len(time) > 1 or len(changing) > len(batch) + len(time):
        raise ModuleError(
            f"{name} has the shapes {', '.join(str(list(size)) for size in sizes)} for {', '.join(map(str, rows))} "
            f"rows of {', '.join(map(str, times))} steps: it must have one axis of the rows, at most one of the steps, "
            "and fixed sizes else (a convolution along time needs padding that keeps the number of steps)"
        )
    return (*batch, *time)


def _output(
    name: str, dtype: torch.dtype, sizes: torch.Size, axes: tuple[int, ...], labels: Sequence[str]
) -> tensors.Tensor:
    shape = (*AXES[: len(axes)], *(size for axis, size in enumerate(sizes) if axis not in axes))
    try:
        return tensors.Tensor(name=name, dtype=_dtype(name, dtype), shape=shape, labels=tuple(labels) or None)
    except ValidationError as failure:
        raise ModuleError(f"outputs: {name} {list(shape)}: {failure.errors()[0]['msg']}") from failure


def _dtype(name: str, dtype: torch.dtype) -> tensors.Dtype:
    if dtype not in DTYPES:
        raise ModuleError(f"{name} is {dtype}; Baton serves {', '.join(DTYPES.values())}: cast it in the module")
    return DTYPES[dtype]
