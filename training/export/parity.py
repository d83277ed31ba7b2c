"""The parity suite: the exported graph gives what the network gives, whatever the batch, the padding or the chunks.

It knows a `Servable` and its ONNX bytes, and runs both on rows the servable draws. Invariant: `measure` compares every
output and every state, up to each row's own length.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from service.errors import StartupError
from training.export.graph import Array, Servable

# Since 1.29 ONNX Runtime reports its use over the network, unless this is set when it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

BOUND = 1e-5  # absolute; design section 3. Float32 rounding over a recurrent stack stays near 1e-6
BATCHES = 3
EXTRA_PADDING = 3

Answer = list[Array]  # one row's outputs, cut to its length, then its states


class ParityError(StartupError):
    """The exported graph does not give what the network gives, so it may not be published: `beyond` are the differences
    that are too large."""

    def __init__(self, beyond: Mapping[str, float]) -> None:
        found = ", ".join(f"{name} {value:.3g}" for name, value in beyond.items())
        super().__init__(f"parity is not within {BOUND:g}: {found}; the graph may not be published")
        self.beyond = beyond


@dataclass(frozen=True)
class Parity:
    """Largest absolute differences of any output or state. Chunks are None for a model that does not stream."""

    torch_vs_onnx: float
    ragged_vs_single: float
    junk_in_padding: float
    chunks_vs_whole: float | None

    @property
    def max_abs(self) -> float:
        gaps = (self.torch_vs_onnx, self.ragged_vs_single, self.junk_in_padding, self.chunks_vs_whole)
        return max(gap for gap in gaps if gap is not None)

    def require(self) -> None:
        """Raises: ParityError when a difference is not within `BOUND`, naming each one that is not."""
        beyond = {name: value for name, value in asdict(self).items() if value is not None and not value <= BOUND}
        if beyond:
            raise ParityError(beyond)


def measure(servable: Servable, graph: bytes, seed: int = 0) -> Parity:
    """Run the whole suite on random ragged batches."""
    suite = Suite(servable, graph)
    rng = np.random.default_rng(seed)
    gaps: dict[str, float] = {}
    ended: list[Answer] = []
    for _ in range(BATCHES):
        rows = [servable.draw(rng, length) for length in rng.permutation(servable.row_lengths)]
        states = suite.states_of(ended)
        alone = [suite.states_of([answer]) for answer in ended] or [None] * len(rows)
        together = suite.run_onnx(rows, states)
        compared = {
            "torch_vs_onnx": suite.run_torch(rows, states),
            "ragged_vs_single": [suite.run_onnx([row], own)[0] for row, own in zip(rows, alone, strict=True)],
            "junk_in_padding": suite.run_onnx(rows, states, junk=rng),
        }
        if servable.streamable and servable.sequence.has_time:
            compared["chunks_vs_whole"] = [suite.run_chunks(row, rng) for row in rows]
        for name, answers in compared.items():
            gaps[name] = float(np.maximum(gaps.get(name, 0.0), largest_gap(together, answers)))  # keeps a NaN
        if not servable.sequence.has_time:  # no row has chunks: the next batch goes on where this one ended
            ended = together
    return Parity(chunks_vs_whole=gaps.pop("chunks_vs_whole", None), **gaps)


class Suite:
    """A graph in ONNX Runtime, on one thread, and the network that it was exported from."""

    def __init__(self, servable: Servable, graph: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._servable, self._network = servable, servable.network.cpu().eval()

    def run_onnx(
        self, rows: list[Array], states: list[Array] | None = None, junk: np.random.Generator | None = None
    ) -> list[Answer]:
        servable = self._servable
        longest = max(len(row) for row in rows)
        steps, lengths = servable.collate(rows, longest + EXTRA_PADDING if junk else longest)
        if junk:
            for place, length in zip(steps, lengths, strict=True):
                place[length:] = servable.draw(junk, len(place) - length)
        made = self.session.run(servable.output_names, servable.feeds(steps, lengths, states))
        return self._by_row(made, lengths)

    def run_torch(self, rows: list[Array], states: list[Array] | None = None) -> list[Answer]:
        servable = self._servable
        steps, lengths = servable.collate(rows)
        feeds = [steps, lengths, *servable.constant_arrays(), *(states or servable.zero_states(len(rows)))]
        with torch.no_grad():
            made = self._network(*(torch.from_numpy(array) for array in feeds))
        return self._by_row([tensor.numpy() for tensor in (made if isinstance(made, tuple) else (made,))], lengths)

    def run_chunks(self, row: Array, rng: np.random.Generator) -> Answer:
        """Run a row in chunks of random length, each from the state the one before it left."""
        cuts = np.flatnonzero(rng.random(len(row) - 1) < 0.4) + 1
        states: list[Array] | None = None
        answers: list[Answer] = []
        outputs = self._servable.outputs
        for chunk in np.split(row, cuts):
            (answer,) = self.run_onnx([chunk], states)
            states = self.states_of([answer])
            answers.append(answer)
        whole = [
            np.concatenate([answer[index] for answer in answers]) if "time" in tensor.shape else answers[-1][index]
            for index, tensor in enumerate(outputs)
        ]
        return [*whole, *answers[-1][len(outputs) :]]

    def states_of(self, answers: list[Answer]) -> list[Array] | None:
        """Return the states that rows ended with, as a batch begins with them; None of no rows."""
        ended = zip(*(answer[len(self._servable.outputs) :] for answer in answers), strict=True)
        axes = [state.batch_axis for state in self._servable.states]
        return [np.stack(rows, axis) for rows, axis in zip(ended, axes, strict=True)] if answers else None

    def _by_row(self, tensors: Sequence[Array], lengths: Array) -> list[Answer]:
        outputs = self._servable.outputs
        axes = [0] * len(outputs) + [state.batch_axis for state in self._servable.states]
        timed = ["time" in tensor.shape for tensor in outputs] + [False] * len(self._servable.states)
        by_row = [np.moveaxis(tensor, axis, 0) for tensor, axis in zip(tensors, axes, strict=True)]
        return [
            [tensor[row, :length] if cut else tensor[row] for tensor, cut in zip(by_row, timed, strict=True)]
            for row, length in enumerate(lengths)
        ]


def largest_gap(ours: list[Answer], theirs: list[Answer]) -> float:
    """Return the largest absolute difference; NaN, which no bound admits, when a value is not a number."""
    gaps = [
        np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return float(np.max(gaps))
