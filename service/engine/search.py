"""Beam search: the likeliest ways on from a point of a session, which are its forks and share runs.

It knows numbers for ids, states and what is attended to, not models and not requests. Invariants: what is found depends
on where the search began alone, not on what is searched for beside it; nothing changes in a search until its step is
taken as a whole.

Source: the length penalty is Wu et al. 2016, arXiv 1609.08144, equation 14.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.engine.drawing import Form
from service.model.onnx_session import Array

BLOCK = 64  # values


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Ids behind the point where a search began, the sum of their log probabilities, and the state after them.

    An id that ends the text is told by `ended`, and is not in the state. `attention` are the weights with which each
    id was chosen, and last those for the id to come. Shapes: each [entries].
    """

    ids: tuple[int, ...]
    logp: float
    state: bytes
    attention: tuple[Array, ...] = ()
    ended: bool = False

    def score(self, length_penalty: float) -> float:
        """Return the log probability by which hypotheses are compared: longer ones pay less for each id."""
        return self.logp / float(((5 + len(self.ids) + self.ended) / 6) ** length_penalty)


@dataclass(frozen=True, slots=True)
class Likeliest:
    """What a search looks for: `beams` are followed at a time, of `most` ids at most; `end` ends a text.

    At a `length_penalty` of 0 the likeliest hypothesis is best, the higher it is the longer ones are preferred. With
    `attends` the weights of attention are kept.
    """

    beams: int
    length_penalty: float
    most: int
    end: int | None
    attends: bool = False


class Search:
    """A search under way; `live` hypotheses go on, `ended` ones do not.

    It has `begun` once what comes before it has run. `until` is the number of steps at which it waits, and `steps` how
    many it has taken.
    """

    def __init__(self, wanted: Likeliest) -> None:
        self.wanted, self.begun = wanted, False
        self.live: list[Hypothesis] = []
        self.ended: list[Hypothesis] = []
        self.steps = self.until = 0
        self._chosen: list[tuple[Hypothesis, int, float]] = []
        self._ending: list[Hypothesis] = []

    @property
    def done(self) -> bool:
        over = not self.live or len(self.ended) >= self.wanted.beams or self.steps >= self.wanted.most
        return self.begun and over

    @property
    def best(self) -> list[Hypothesis]:
        """What was found, the best first: what ended, and only where too little did, what goes on."""
        found = self._ranked(self.ended) + self._ranked(self.live)
        return found[: self.wanted.beams]

    def choose(self, logp: Array) -> list[int]:
        """Choose the next ids by the log probabilities that the live hypotheses give them, and return for each that
        goes on its id. Shapes: logp [live, ids].
        """
        total = logp + np.array([[one.logp] for one in self.live], logp.dtype)
        self._chosen, self._ending = [], []
        for rank, place in enumerate(_largest(total.ravel(), 2 * self.wanted.beams)):
            parent, drawn = divmod(int(place), logp.shape[1])
            before, sum_logp = self.live[parent], float(total[parent, drawn])
            if sum_logp == -math.inf:
                break  # what cannot come does not, however many beams there are
            if drawn != self.wanted.end:
                self._chosen.append((before, drawn, sum_logp))
            elif rank < self.wanted.beams:
                self._ending.append(Hypothesis(before.ids, sum_logp, before.state, before.attention, ended=True))
            if len(self._chosen) == self.wanted.beams:
                break
        if len(self.ended) + len(self._ending) >= self.wanted.beams:
            self._chosen = []  # it is done, and what goes on would be run for nothing
        return [drawn for _, drawn, _ in self._chosen]

    @property
    def states(self) -> list[bytes]:
        """The states from which the chosen ids go on."""
        return [before.state for before, _, _ in self._chosen]

    def begin(self, state: bytes, attention: Sequence[Array]) -> None:
        """Begin at the state after what came before, with what its last step attended to, if that is kept."""
        self.live, self.begun = [Hypothesis((), 0.0, state, tuple(attention) if self.wanted.attends else ())], True

    def take(self, states: Sequence[bytes], attention: Sequence[Array]) -> None:
        """Take the states after the chosen ids, and what these steps attended to, if that is kept."""
        weights = [(each,) for each in attention] if self.wanted.attends else [()] * len(states)
        self.live = [
            Hypothesis((*before.ids, drawn), logp, state, before.attention + more)
            for (before, drawn, logp), state, more in zip(self._chosen, states, weights, strict=True)
        ]
        self.ended += self._ending
        self.steps += 1

    def let_go_of_states(self) -> None:
        """Keep of what was found the ids and what was attended to alone: many states take much memory."""
        self.live, self.ended = ([replace(one, state=b"") for one in found] for found in (self.live, self.ended))
        self._chosen, self._ending = [], []

    def _ranked(self, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        return sorted(hypotheses, key=lambda one: -one.score(self.wanted.length_penalty))


def log_probabilities(made: Array, form: Form) -> Array:
    """Return the log probabilities of ids. Shapes: as `made`, [hypotheses, ids]."""
    if form == "probabilities":
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(made))
    above = made - made.max(axis=-1, keepdims=True)
    return np.asarray(above - np.log(np.exp(above).sum(axis=-1, keepdims=True)))


def _largest(values: Array, count: int) -> Array:
    """Return the places of the largest values, the largest first, of equal ones the first.

    As many blocks have a value above the least of the largest blocks: a look at their maxima spares sorting all.
    """
    count = min(count, len(values))
    blocks = len(values) // BLOCK
    maxima = values[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1) if blocks >= count else values
    places = np.flatnonzero(values >= np.partition(maxima, -count)[-count])
    return places[np.argsort(-values[places], kind="stable")][:count]
