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

from service.contract.tensors import NAMED_AXES, State, Tensor
from service.errors import StartupError
from training.export.graph import MEMORY_LENGTHS, Array, Servable, Session

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


def measure(servable: Servable, graph: bytes, start: bytes | None = None, seed: int = 0) -> Parity:
    """Run the whole suite on random ragged batches. Sessions begin with what the start graph `start`, if there is one,
    makes of random conditions."""
    suite = Suite(servable, graph)
    rng = np.random.default_rng(seed)
    gaps: dict[str, float] = {}
    if servable.start is not None and start is not None:
        gaps = {name: gap for name, gap in asdict(measure(servable.start.graph, start)).items() if gap is not None}
    sessions: list[Session] = []
    for _ in range(BATCHES):
        rows = [servable.draw(rng, length) for length in rng.permutation(servable.row_lengths)]
        if servable.sequence.has_time or not sessions:
            sessions = _begin(servable, start, len(rows), rng)
        together = suite.run_onnx(rows, sessions)
        compared = {
            "torch_vs_onnx": suite.run_torch(rows, sessions),
            "ragged_vs_single": [suite.run_onnx([row], [own])[0] for row, own in zip(rows, sessions, strict=True)],
            "junk_in_padding": suite.run_onnx(rows, sessions, junk=rng),
        }
        if servable.streamable and servable.sequence.has_time:
            compared["chunks_vs_whole"] = [
                suite.run_chunks(row, own, rng) for row, own in zip(rows, sessions, strict=True)
            ]
        for name, answers in compared.items():
            gaps[name] = float(np.maximum(gaps.get(name, 0.0), largest_gap(together, answers)))  # keeps a NaN
        # Without time no row has chunks: the next batch goes on where this one ended.
        sessions = [suite.after(own, answer) for own, answer in zip(sessions, together, strict=True)]
    return Parity(chunks_vs_whole=gaps.pop("chunks_vs_whole", None), **gaps)


def _begin(servable: Servable, graph: bytes | None, count: int, rng: np.random.Generator) -> list[Session]:
    """Return new sessions, from conditions of different lengths where a start graph reads them."""
    if servable.start is None or graph is None:
        return [servable.new_session() for _ in range(count)]
    starting = servable.start
    conditions = [starting.graph.draw(rng, length) for length in rng.choice(starting.graph.row_lengths, count)]
    answers = Suite(starting.graph, graph).run_onnx(conditions)
    return [starting.session(servable, outputs) for outputs in answers]


class Suite:
    """A graph in ONNX Runtime, on one thread, and the network that it was exported from."""

    def __init__(self, servable: Servable, graph: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._servable, self._network = servable, servable.network.cpu().eval()

    def run_onnx(
        self, rows: list[Array], sessions: list[Session] | None = None, junk: np.random.Generator | None = None
    ) -> list[Answer]:
        servable, room = self._servable, EXTRA_PADDING if junk else 0
        steps, lengths = servable.collate(rows, max(len(row) for row in rows) + room)
        feeds = servable.feeds(steps, lengths, sessions, room)
        if junk:
            for place, length in zip(steps, lengths, strict=True):
                place[length:] = servable.draw(junk, len(place) - length)
            for state in (state for state in servable.states if state.ragged):
                memories = feeds[state.input].transpose(state.row_order)
                for memory, size in zip(memories, feeds[MEMORY_LENGTHS], strict=True):
                    memory[size:] = junk.normal(size=memory[size:].shape)
        return self._by_row(self.session.run(servable.output_names, feeds), lengths, feeds.get(MEMORY_LENGTHS))

    def run_torch(self, rows: list[Array], sessions: list[Session] | None = None) -> list[Answer]:
        steps, lengths = self._servable.collate(rows)
        given = self._servable.arguments(steps, lengths, sessions)
        with torch.no_grad():
            made = self._network(*(torch.from_numpy(array) for array in given))
        memories = given[2] if self._servable.memory_lengths else None
        return self._by_row([t.numpy() for t in (made if isinstance(made, tuple) else (made,))], lengths, memories)

    def run_chunks(self, row: Array, session: Session, rng: np.random.Generator) -> Answer:
        """Run a row in chunks of random length, each from the state the one before it left."""
        cuts = np.flatnonzero(rng.random(len(row) - 1) < 0.4) + 1
        answers: list[Answer] = []
        outputs = self._servable.outputs
        for chunk in np.split(row, cuts):
            (answer,) = self.run_onnx([chunk], [session])
            session = self.after(session, answer)
            answers.append(answer)
        whole = [
            np.concatenate([answer[index] for answer in answers]) if tensor.has_time else answers[-1][index]
            for index, tensor in enumerate(outputs)
        ]
        return [*whole, *answers[-1][len(outputs) :]]

    def after(self, session: Session, answer: Answer) -> Session:
        """Return the states of a session after it gave `answer`; those that are only read stay."""
        carried = iter(answer[len(self._servable.outputs) :])
        states = zip(self._servable.states, session, strict=True)
        return [next(carried) if state.output else own for state, own in states]

    def _by_row(self, made: Sequence[Array], lengths: Array, memories: Array | None) -> list[Answer]:
        carried = [state for state in self._servable.states if state.output]
        declared: list[Tensor | State] = [*self._servable.outputs, *carried]
        by_row = [tensor.transpose(each.row_order) for tensor, each in zip(made, declared, strict=True)]
        answers = []
        for row, length in enumerate(lengths):
            sizes = {"time": length, "memory": None if memories is None else memories[row]}
            named = [[axis for axis in NAMED_AXES[1:] if axis in each.shape] for each in declared]
            cuts = [tuple(slice(sizes[axis]) for axis in axes) for axes in named]
            answers.append([tensor[row][cut] for tensor, cut in zip(by_row, cuts, strict=True)])
        return answers


def largest_gap(ours: list[Answer], theirs: list[Answer]) -> float:
    """Return the largest absolute difference; NaN, which no bound admits, when a value is not a number."""
    gaps = [
        np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return float(np.max(gaps))
