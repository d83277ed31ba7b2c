"""Drawing the next ids of sessions: from what their last steps made, by temperature, top k and top p.

It knows numbers for ids, not models and not requests. Invariant: what is drawn for a session depends on its own numbers
alone, whatever sessions are drawn for beside it, and a seed draws the same in every process.

Source: top p is nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator, Philox

from service.errors import NotFinite
from service.model.onnx_session import Array

Form = Literal["probabilities", "logits"]


@dataclass(frozen=True, slots=True)
class Choice:
    """How an id is chosen. At temperature 0 it is the likeliest, the first of several.

    Else the likeliest `top_k` are left to choose from, None for all, and of these the fewest likeliest that have
    together a share of at least `top_p`.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """An id to be drawn: how it is chosen, by which number from 0 to 1, and how many of the likeliest are told with it;
    None where nothing is told of what the model holds likely.
    """

    choice: Choice
    number: float
    likeliest: int | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """How likely the model held the id that was drawn, and its likeliest ids, the first of them first."""

    share: float
    likeliest: Sequence[tuple[int, float]]


class Numbers:
    """The numbers that a seed gives to the steps of a session, whoever takes them and whenever."""

    def __init__(self, seed: int) -> None:
        self._seed, self._next = seed, -1
        self._drawing: Generator

    def at(self, step: int) -> float:
        """Return the number for the step that a session takes after `step` others."""
        return self.four_at(step)[0]

    def four_at(self, step: int) -> tuple[float, float, float, float]:
        """Return all numbers for that step, of which `at` gives the first."""
        if step != self._next:
            self._drawing = Generator(Philox(key=self._seed, counter=step))
        self._next = step + 1
        one, two, three, four = self._drawing.random(4).tolist()  # a step of the counter makes four
        return one, two, three, four


def expect(made: Array, form: Form, drawn: int, count: int) -> Expected:
    """Return how likely the model held an id and so many of the likeliest. Shapes: made [ids]."""
    shares = made.astype(np.float64)
    if form == "logits":
        shares = np.exp(shares - shares.max())
        shares /= shares.sum()
    best = _likeliest(shares, min(count, len(shares))) if count else []
    return Expected(float(shares[drawn]), [(token, float(shares[token])) for token in best])


def _likeliest(shares: Array, count: int) -> list[int]:
    """Return so many of the likeliest ids, of equal ones the first; sorting a large vocabulary takes far longer."""
    least = np.partition(shares, -count)[-count]
    above, equal = np.flatnonzero(shares > least), np.flatnonzero(shares == least)
    ids: list[int] = [*above[(-shares[above]).argsort(kind="stable")].tolist(), *equal[: count - len(above)].tolist()]
    return ids


def draw(made: Array, form: Form, draws: Sequence[Draw]) -> Array:
    """Return the id that is drawn for each session. Shapes: made [sessions, ids]; returns [sessions].

    Raises: NotFinite where a session's numbers make no id likeliest.
    """
    check_drawable(made, form)
    chosen: Array = made.argmax(axis=-1)
    groups: dict[Choice, list[int]] = {}
    for index, each in enumerate(draws):
        if each.choice.temperature > 0:
            groups.setdefault(each.choice, []).append(index)
    for choice, indices in groups.items():
        weights = _weights(made[indices], form, choice)
        bounds = weights.cumsum(axis=-1)
        numbers = np.array([draws[index].number for index in indices])
        passed = bounds <= (numbers * bounds[:, -1])[:, None]
        chosen[indices] = np.minimum(passed.sum(axis=-1), _last(weights))
    return chosen


def check_drawable(made: Array, form: Form) -> None:
    """Raises: NotFinite where a session's numbers make no id likeliest."""
    best = made.max(axis=-1)
    sound = np.isfinite(best)
    if form == "probabilities":
        sound &= (best > 0) & (made.min(axis=-1) >= 0)
    if not sound.all():
        raise NotFinite("no id can be drawn here: what the model made is not finite, negative, or 0 for all ids")


def _weights(made: Array, form: Form, choice: Choice) -> Array:
    """Return a weight for each id, 0 for those that are left out. Shapes: as `made`, [sessions, ids]."""
    with np.errstate(divide="ignore", over="ignore"):
        logits = np.log(made.astype(np.float64)) if form == "probabilities" else made.astype(np.float64)
        below = logits - logits.max(axis=-1, keepdims=True)
        weights: Array = np.exp(below / choice.temperature)  # the likeliest keep theirs, however cold it is
    if choice.top_k is not None and choice.top_k < weights.shape[-1]:
        order = np.argsort(-weights, axis=-1, kind="stable")
        np.put_along_axis(weights, order[:, choice.top_k :], 0.0, axis=-1)
    if choice.top_p is not None:
        order = np.argsort(-weights, axis=-1, kind="stable")
        ranked = np.take_along_axis(weights, order, axis=-1)
        before = ranked.cumsum(axis=-1) - ranked
        ranked[before >= choice.top_p * ranked.sum(axis=-1, keepdims=True)] = 0.0
        np.put_along_axis(weights, order, ranked, axis=-1)
    return weights


def _last(weights: Array) -> Array:
    """Return the last id that has a weight: rounding must not go beyond it. Shapes: [sessions]."""
    last: Array = weights.shape[-1] - 1 - (weights[:, ::-1] > 0).argmax(axis=-1)
    return last
