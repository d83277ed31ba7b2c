"""The interpretations of a foreign graph: roles of its inputs with which it runs, and the output of each state.

Runs tell the shapes of the outputs, whatever the file says of them. `service.inspect.draft` tries which interpretation
is right. It knows graphs, not manifests. Invariant: in an `Interpretation` every state comes out with the dtype and
shape that it goes in with.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from service.contract.tensors import DTYPE_BYTES
from service.errors import ManifestError
from service.inspect.axes import Runs, find_distributions, find_features, name_axes, run_at_sizes, sizes_of
from service.inspect.hints import Hints
from service.inspect.names import agree, likeness
from service.inspect.roles import (
    FEATURES,
    Roles,
    Shape,
    find_roles,
    is_named_like_lengths,
    listed,
    may_be_sequence,
    unfit,
)
from service.model.onnx_session import Node, OnnxSession

TELLING = ("states", "--axis", "outputs", "inputs[0].shape")  # the fields of refusals, the most telling first
MAX_INTERPRETATIONS = 24  # all orders of four states of one shape
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Interpretation:
    """A way to understand a graph: as a step model, or, where there are no states, as a plain one.

    `pairs` are states, each as the names of its input and its output; `said` are the pairs that a person named. `made`
    has the shapes of the outputs as runs showed them, without outputs of dtypes that such a model cannot have, and
    `distributions` are those that were probabilities. `likelihood` is how well the names of the axes fit, where nothing
    else tells. `answer` is the output to answer with, for a task that has one alone.
    """

    roles: Roles
    made: Mapping[str, Shape]
    pairs: Pairs
    said: Pairs
    distributions: frozenset[str] = frozenset()
    likelihood: int = 0
    answer: str | None = None

    @property
    def plain(self) -> bool:
        return not self.roles.states

    @cached_property
    def guessed(self) -> Pairs:
        """The pairs that match by dtype and shape alone."""
        return tuple(pair for pair in self.pairs if pair not in self.said and not agree(*pair))

    @cached_property
    def rank(self) -> tuple[int, float]:
        """How badly the names match, in the pairs and of the axes; the lowest rank is the best."""
        return len(self.guessed), -round(sum(likeness(*pair) for pair in self.pairs), 6) - self.likelihood

    @property
    def choice(self) -> str:
        """What this interpretation takes, where others take something else."""
        if self.plain:
            shapes = self.roles.shapes
            return f"inputs {', '.join(f'{node.name} {listed(shapes[node.name])}' for node in self.roles.inputs)}"
        return f"states {told(self.pairs)}"

    @property
    def in_order(self) -> int:
        """The number of pairs whose outputs stand last, in the order of their inputs."""
        last = list(self.made)[-len(self.pairs) :]
        return sum(output == place for (_, output), place in zip(self.pairs, last, strict=False))

    @property
    def outputs(self) -> list[str]:
        """The outputs to answer with: those with a row for each row, of a step model for each step of it, and outputs
        of states only if there are no others."""
        if self.answer is not None:
            return [self.answer]
        taken = {output for _, output in self.pairs}
        timed = "time" in self.roles.sequence_shape
        times = {0, int(timed)} if self.plain else {int(timed)}
        able = [
            name
            for name, shape in self.made.items()
            if None not in shape and shape.count("batch") == 1 and shape.count("time") in times
        ]
        return [name for name in able if name not in taken] or able


def find_interpretations(file: Path, session: OnnxSession, hints: Hints) -> list[Interpretation]:
    """Return the interpretations of the graph of `session`, loaded from `file`: the likeliest first, 24 at most.

    Raises: ManifestError when there is none, with the reason and the options that could help.
    """
    refusals: list[ManifestError] = []
    for _, alike in itertools.groupby(find_roles(file, session, hints), key=lambda roles: roles.resort):
        found: list[Interpretation] = []
        for roles in alike:
            try:
                found += _read(file, session, roles, hints)
            except ManifestError as refusal:
                refusals.append(refusal)
        if found:
            return sorted(found, key=lambda each: (*each.rank, -each.in_order))[:MAX_INTERPRETATIONS]
    raise min(refusals, key=lambda refusal: TELLING.index(refusal.field))


def _read(file: Path, session: OnnxSession, roles: Roles, hints: Hints) -> list[Interpretation]:
    """Return the interpretations with these roles.

    Raises: ManifestError when there are none.
    """
    if FEATURES in roles.sequence_shape:
        roles = find_features(file, session, roles, hints)
    runs = run_at_sizes(file, session, roles, hints, DTYPE_BYTES)
    matches = {state.name: _matches(session, roles, runs, state, hints) for state in roles.states}
    if lonely := _lonely(roles, matches):
        raise ManifestError(file, "states", _without_output(roles, lonely[0], matches, hints))
    made, said = name_axes(roles, runs), tuple(hints.states.items())
    spread = find_distributions(made, runs)
    pairings = itertools.islice(_pairings(matches), MAX_INTERPRETATIONS)
    answering = [each for pairs in pairings if (each := Interpretation(roles, made, pairs, said, spread)).outputs]
    if not answering:
        message = "beside the states, no output has one row per step; the graph needs one to answer with"
        raise ManifestError(file, "outputs", message)
    return answering


def _matches(session: OnnxSession, roles: Roles, runs: Runs, state: Node, hints: Hints) -> list[str]:
    """Return the outputs that can be the next value of `state`, the likeliest names first."""
    shapes = [roles.size(state, sizes) for sizes in sizes_of(roles)]
    alike = [node.name for node in session.outputs if node.dtype == state.dtype]
    names = [name for name in alike if [tensor.shape for tensor in runs[name]] == shapes]
    if state.name in hints.states:
        names = [name for name in names if name == hints.states[state.name]]
    elif is_named_like_lengths(state):  # a count grows with each run; an output that stays 0 is lengths handed on
        names = [name for name in names if runs[name][0].all()]
    return sorted(names, key=lambda name: -likeness(state.name, name))


def _lonely(roles: Roles, matches: Mapping[str, list[str]]) -> list[Node]:
    """Return the states of a dtype and shape of which the graph has more states than outputs."""
    alike = Counter(tuple(sorted(outputs)) for outputs in matches.values())
    return [state for state in roles.states if alike[group := tuple(sorted(matches[state.name]))] > len(group)]


def _without_output(roles: Roles, state: Node, matches: Mapping[str, list[str]], hints: Hints) -> str:
    shape = roles.shapes[state.name]
    if said := hints.states.get(state.name):
        return f"--state {state.name}={said} cannot be: {said} has another type or shape, or is said of another input"
    if not may_be_sequence(shape):
        return unfit([state])
    return (
        f"no output {'is left with' if matches[state.name] else 'has'} the type and shape of {state.name} "
        f"{listed(shape)}, so it is no state, and the sequence is {roles.sequence.name}; a state comes out as it goes "
        "in, and all else is one input"
    )


def _pairings(matches: Mapping[str, list[str]], taken: Pairs = ()) -> Iterator[Pairs]:
    """Yield each way to give every input an output among its matches, no output twice."""
    if len(taken) == len(matches):
        yield taken
        return
    name = list(matches)[len(taken)]
    for output in matches[name]:
        if all(output != other for _, other in taken):
            yield from _pairings(matches, (*taken, (name, output)))


def told(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{given} -> {output}" for given, output in pairs)
