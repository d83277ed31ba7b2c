"""One model version at work: rows in, answers out, in shared runs.

It knows manifests, rows and arrays, not HTTP and not tokens. Invariants: a row's answer does not depend on its
neighbours beyond float rounding (`service.probe` sees to it before the first request); states go in and come out in
manifest order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.batching import Batcher, Observer
from service.contract import State, Task
from service.errors import InternalError, NotFinite, StateInvalid, UnknownModel, WrongTask
from service.repository import Model
from service.runtime import Array
from service.settings import Settings
from service.state.token import INVALID

log = logging.getLogger("baton.engine")


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to run. Shapes: steps [time] or [time, features]; states each of `State.row_shape`, None = zeros."""

    steps: Array
    states: tuple[Array, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model made of one row. Shapes: outputs without their batch axis, cut to the row's own steps."""

    outputs: dict[str, Array]
    states: tuple[Array, ...]


class Engine:
    """A model, its batcher, and the way between rows and tensors."""

    def __init__(self, model: Model, settings: Settings, observer: Observer) -> None:
        self.model, self.manifest = model, model.manifest
        self._output_names = [t.name for t in self.manifest.outputs] + [s.output for s in self.manifest.states]
        self.batcher: Batcher[Row, Answer] = Batcher(
            self.run,
            size=lambda row: len(row.steps),
            batch_cells=settings.batch_cells,
            queue_rows=settings.queue_rows,
            observer=observer,
            same_size=self.manifest.lengths is None,
            name=f"{self.manifest.name}-{self.manifest.version}",
        )

    def run(self, rows: list[Row]) -> list[Answer | Exception]:
        """Run rows together; when that fails, run each alone, so that only what is at fault fails."""
        try:
            return self._split(rows, self.model.session.run(self._output_names, self._collate(rows)))
        except Exception as failure:  # noqa: BLE001 - onnxruntime's exceptions share no public base; it is logged
            if len(rows) > 1:
                return [answer for row in rows for answer in self.run([row])]
            log.error("%s: the run of one row of %d steps failed: %s", self.manifest.name, len(rows[0].steps), failure)
            error = InternalError("the model failed on this input; the log has the cause")
            error.__cause__ = failure
            return [error]

    def _collate(self, rows: list[Row]) -> dict[str, Array]:
        sequence = self.manifest.sequence
        longest = max(len(row.steps) for row in rows)
        steps = np.zeros((len(rows), longest, *rows[0].steps.shape[1:]), sequence.dtype)
        for index, row in enumerate(rows):
            steps[index, : len(row.steps)] = row.steps
        feeds: dict[str, Array] = {sequence.name: steps}
        if self.manifest.lengths is not None:
            feeds[self.manifest.lengths] = np.array([len(row.steps) for row in rows], np.int32)
        for number, state in enumerate(self.manifest.states):
            shape = list(state.row_shape)
            shape.insert(state.batch_axis, len(rows))
            carried = np.zeros(shape, state.dtype)
            by_row = np.moveaxis(carried, state.batch_axis, 0)
            for index, row in enumerate(rows):
                if row.states is not None:
                    by_row[index] = row.states[number]
            feeds[state.input] = carried
        return feeds

    def _split(self, rows: list[Row], tensors: list[Array]) -> list[Answer | Exception]:
        outputs = self.manifest.outputs
        states = [
            np.moveaxis(tensor, state.batch_axis, 0)
            for state, tensor in zip(self.manifest.states, tensors[len(outputs) :], strict=True)
        ]
        answers: list[Answer | Exception] = [
            Answer(
                outputs={
                    output.name: tensor[index, : len(row.steps)] if "time" in output.shape else tensor[index]
                    for output, tensor in zip(outputs, tensors, strict=False)
                },
                states=tuple(by_row[index] for by_row in states),
            )
            for index, row in enumerate(rows)
        ]
        if all(np.isfinite(tensor).all() for tensor in tensors):
            return answers
        return [_finite(answer) for answer in answers]

    def pack(self, states: Sequence[Array]) -> bytes:
        """Return a session's states as bytes: little-endian, in manifest order."""
        return b"".join(
            array.astype(_little_endian(declared), copy=False).tobytes()
            for array, declared in zip(states, self.manifest.states, strict=True)
        )

    def unpack(self, state: bytes) -> tuple[Array, ...]:
        """Return the states in `state`.

        Raises: StateInvalid when the size is not this model's or a value is not finite.
        """
        if len(state) != self.manifest.state_bytes:
            raise StateInvalid(INVALID, reason="wrong_size")
        arrays, start = [], 0
        for declared in self.manifest.states:
            flat = np.frombuffer(state, _little_endian(declared), math.prod(declared.row_shape), start)
            if not np.isfinite(flat).all():
                raise StateInvalid(INVALID, reason="not_finite")
            arrays.append(flat.reshape(declared.row_shape))
            start += declared.row_bytes
        return tuple(arrays)


class Engines:
    """Every engine by name and version; the newest version answers new work, the others their own tokens."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self.all = list(engines)
        self._newest = {engine.manifest.name: engine for engine in self.all}
        self._by_fingerprint = {engine.manifest.fingerprint: engine for engine in self.all}

    @property
    def newest(self) -> list[Engine]:
        return list(self._newest.values())

    def versions(self, name: str) -> list[str]:
        """Return the loaded versions of a model, oldest first."""
        return [engine.manifest.version for engine in self.all if engine.manifest.name == name]

    def get(self, name: str) -> Engine:
        """Raises: UnknownModel with the names that are served."""
        if name not in self._newest:
            served = ", ".join(self._newest)
            raise UnknownModel(f"no model is called {name!r}; this service has {served}", field="model")
        return self._newest[name]

    def for_task(self, name: str, task: Task) -> Engine:
        """Raises: UnknownModel as `get` does; WrongTask when the model does something else."""
        engine = self.get(name)
        if engine.manifest.task != task:
            able = ", ".join(other.manifest.name for other in self.newest if other.manifest.task == task) or "no model"
            message = f"{name!r} is for task {engine.manifest.task!r}; for {task!r} there is {able}"
            raise WrongTask(message, field="model")
        return engine

    def by_fingerprint(self, fingerprint: bytes) -> Engine | None:
        return self._by_fingerprint.get(fingerprint)


def _finite(answer: Answer | Exception) -> Answer | Exception:
    if isinstance(answer, Exception) or all(
        np.isfinite(array).all() for array in (*answer.outputs.values(), *answer.states)
    ):
        return answer
    return NotFinite("these inputs drive the model to values that are not finite; are they in a sensible range?")


def _little_endian(declared: State) -> np.dtype[Any]:
    return np.dtype(declared.dtype).newbyteorder("<")
