"""One model version at work: rows in, answers out, in shared runs.

It knows manifests, rows and arrays, not HTTP and not tokens. Invariants: a row's answer does not depend on its
neighbours beyond float rounding (`service.probe` sees to it before the first request); states go in and come out in
manifest order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Encoding

from service.batching import Batcher
from service.contract import Task
from service.errors import (
    EmptyInput,
    InternalError,
    ItemTooLarge,
    NotFinite,
    RequestError,
    StateInvalid,
    Unavailable,
    UnknownModel,
    WrongTask,
)
from service.metrics import ModelMetrics
from service.repository import Model
from service.runtime import Array
from service.settings import Settings
from service.state.token import INVALID

log = logging.getLogger("baton.engine")

NO_STEPS: Array = np.empty(0)


@dataclass(slots=True, eq=False)
class Row:
    """One sequence to run: `steps`, or a `text` whose tokens will be the steps.

    `state` is what an earlier answer returned, None a new session's. A text of more than `most_tokens` is cut when
    `cut`, refused otherwise. `encoding` is set once the text has been tokenised.

    Shapes: steps [time] or [time, features].
    """

    steps: Array = field(default_factory=lambda: NO_STEPS)
    state: bytes | None = None
    text: str | None = None
    most_tokens: int = 0
    cut: bool = False
    encoding: Encoding | None = None


@dataclass(slots=True)
class Answer:
    """What the model made of one row; `state` is all its states, little-endian, in manifest order.

    Shapes: outputs without their batch axis, cut to the row's own steps.
    """

    outputs: dict[str, Array]
    state: bytes


class Engine:
    """A model, its batcher, and the way between rows and tensors."""

    def __init__(self, model: Model, settings: Settings, metrics: ModelMetrics) -> None:
        self.model, self.manifest, self.metrics = model, model.manifest, metrics
        self._sequence = self.manifest.sequence
        self._output_names = [t.name for t in self.manifest.outputs] + [s.output for s in self.manifest.states]
        self._by_time = ["time" in output.shape for output in self.manifest.outputs]
        self._layout = np.dtype(
            [(s.input, np.dtype(s.dtype).newbyteorder("<"), s.row_shape) for s in self.manifest.states]
        )
        self.state_bytes: int = self._layout.itemsize
        self._new_state = bytes(self.state_bytes)
        self.batcher: Batcher[Row, Answer] = Batcher(
            self.run,
            measure=self.measure,
            batch_cells=settings.batch_cells,
            queue_rows=settings.queue_rows,
            observer=metrics,
            threads=settings.worker_share(settings.run_threads),
            same_size=self.manifest.lengths is None,
            name=f"{self.manifest.name}-{self.manifest.version}",
        )

    def measure(self, rows: list[Row]) -> list[int | Exception]:
        """Return how many steps each row has, or why it cannot be run; texts are tokenised together."""
        texts = [row for row in rows if row.text is not None]
        try:
            self._tokenise(texts)
        except Exception as failure:  # noqa: BLE001 - the library raises bare Exceptions; it is logged
            if len(rows) > 1:
                return [size for row in rows for size in self.measure([row])]
            log.error("%s: a text could not be tokenised: %s", self.manifest.name, failure)
            return [InternalError("the tokenizer failed on this text; the log has the cause")]
        return [self._size(row) for row in rows]

    def _tokenise(self, rows: list[Row]) -> None:
        if rows:
            vocabulary = self.model.vocabulary
            assert vocabulary is not None
            whole = self.manifest.task != "step"  # a text that comes in pieces has no marks of beginning and end
            encodings = vocabulary.tokenizer.encode_batch_fast([row.text for row in rows], add_special_tokens=whole)
            for row, encoding in zip(rows, encodings, strict=True):
                row.encoding = encoding

    def _size(self, row: Row) -> int | Exception:
        if row.encoding is None:
            if not np.isfinite(row.steps).all():
                return NotFinite("a value is beyond the range of float32, 3.4e38")
            return len(row.steps)
        ids = row.encoding.ids
        if not ids:
            return EmptyInput("the text has no words; give at least one")
        if len(ids) > row.most_tokens and not row.cut:
            message = f"the text has {len(ids)} tokens; at most {row.most_tokens}"
            return ItemTooLarge(message, limit=row.most_tokens)
        row.steps = np.array(ids[: row.most_tokens], self._sequence.dtype)
        return len(row.steps)

    def run(self, rows: list[Row]) -> list[Answer | Exception]:
        """Run rows together; when that fails, run each alone, so that only what is at fault fails."""
        try:
            return self._split(rows, self.model.session.run(self._output_names, self._collate(rows)))
        except Exception as failure:  # noqa: BLE001 - onnxruntime's exceptions share no public base; it is logged
            if len(rows) > 1:
                return [answer for row in rows for answer in self.run([row])]
            if isinstance(failure, RequestError):
                return [failure]
            log.error("%s: the run of one row failed: %s", self.manifest.name, failure)
            error = InternalError("the model failed on this input; the log has the cause")
            error.__cause__ = failure
            return [error]

    def _collate(self, rows: list[Row]) -> dict[str, Array]:
        sequences = [row.steps for row in rows]
        lengths = [len(steps) for steps in sequences]
        shape = (len(rows), max(lengths), *sequences[0].shape[1:])
        if min(lengths) == max(lengths):
            padded = np.concatenate(sequences).reshape(shape)
        else:
            padded = np.zeros(shape, self._sequence.dtype)
            for place, steps in zip(padded, sequences, strict=True):
                place[: len(steps)] = steps
        feeds: dict[str, Array] = {self._sequence.name: padded}
        if self.manifest.lengths is not None:
            feeds[self.manifest.lengths] = np.array(lengths, np.int32)
        if self.manifest.states:
            carried = np.frombuffer(b"".join([row.state or self._new_state for row in rows]), self._layout)
            for state in self.manifest.states:
                by_row = carried[state.input]
                if not np.isfinite(by_row).all():
                    raise StateInvalid(INVALID, reason="not_finite", field="state")
                feeds[state.input] = np.moveaxis(by_row, 0, state.batch_axis).astype(state.dtype, "C")
        return feeds

    def _split(self, rows: list[Row], tensors: list[Array]) -> list[Answer | Exception]:
        outputs = self.manifest.outputs
        carried = np.empty(len(rows), self._layout)
        for state, tensor in zip(self.manifest.states, tensors[len(outputs) :], strict=True):
            by_row = np.moveaxis(tensor, state.batch_axis, 0)
            if by_row.shape[1:] != state.row_shape:
                raise ValueError(f"{state.output} has shape {list(tensor.shape)}, declared {list(state.shape)}")
            carried[state.input] = by_row
        packed, size = carried.tobytes(), self.state_bytes
        answers: list[Answer | Exception] = []
        for index, row in enumerate(rows):
            cut = len(row.steps)
            made = {
                output.name: tensor[index, :cut] if by_time else tensor[index]
                for output, tensor, by_time in zip(outputs, tensors, self._by_time, strict=False)
            }
            answers.append(Answer(made, packed[index * size : (index + 1) * size]))
        if all(np.isfinite(tensor).all() for tensor in tensors):
            return answers
        return [self._finite(answer) for answer in answers if isinstance(answer, Answer)]

    def _finite(self, answer: Answer) -> Answer | Exception:
        if all(np.isfinite(array).all() for array in (*answer.outputs.values(), *self.unpack(answer.state).values())):
            return answer
        return NotFinite("these inputs drive the model to values that are not finite; are they in a sensible range?")

    def unpack(self, state: bytes) -> dict[str, Array]:
        """Return the states in `state` by the names of their inputs, each of its `State.row_shape`."""
        return {s.input: np.frombuffer(state, self._layout)[s.input][0] for s in self.manifest.states}


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

    def admit(self, task: Task, *, rows: int = 1) -> None:
        """Check that some model of `task` works, and has room for so many rows.

        Raises: what `Batcher.admit` raises, when none has.
        """
        refusal = None
        for engine in self.all:
            if engine.manifest.task == task:
                try:
                    return engine.batcher.admit(rows)
                except Unavailable as error:
                    refusal = error
        if refusal is not None:
            raise refusal

    def by_fingerprint(self, fingerprint: bytes) -> Engine | None:
        return self._by_fingerprint.get(fingerprint)
