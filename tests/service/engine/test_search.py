"""Beam search over numbers alone: what it finds is what looking at all would find."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from service.engine.search import Likeliest, Search, log_probabilities

END = 2


def model(ids: tuple[int, ...], vocabulary: int) -> np.ndarray:
    """Log probabilities of the next id after `ids`, as a model would have them."""
    rng = np.random.default_rng([1, *ids])
    return log_probabilities(rng.normal(size=(1, vocabulary), scale=2).astype(np.float32), "logits")[0]


def run(wanted: Likeliest, vocabulary: int) -> Search:
    """Search, with the ids so far as the states."""
    search = Search(wanted)
    search.begin(b"", [])
    while not search.done:
        search.choose(np.stack([model(one.ids, vocabulary) for one in search.live]))
        chosen = search.states
        search.take([bytes(place) for place in range(len(chosen))], [])
    return search


def score_by_hand(ids: tuple[int, ...], ended: bool, vocabulary: int, penalty: float) -> float:
    whole = (*ids, END) if ended else ids
    logp = sum(float(model(whole[:place], vocabulary)[token]) for place, token in enumerate(whole))
    return logp / ((5 + len(whole)) / 6) ** penalty


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
def test_a_search_as_wide_as_there_are_sequences_finds_the_best_of_all(penalty: float) -> None:
    vocabulary, most = 4, 4
    search = run(Likeliest(beams=400, length_penalty=penalty, most=most, end=END), vocabulary)
    others = [token for token in range(vocabulary) if token != END]
    every = [ids for length in range(most) for ids in product(others, repeat=length)]
    best = max(every, key=lambda ids: score_by_hand(ids, True, vocabulary, penalty))
    assert search.best[0].ids == best
    assert search.best[0].score(penalty) == pytest.approx(score_by_hand(best, True, vocabulary, penalty), rel=1e-5)


@pytest.mark.parametrize("vocabulary", [5, 63, 64, 700, 5000])
def test_a_beam_takes_the_likeliest_of_all_ways_on_whatever_the_vocabulary(vocabulary: int) -> None:
    wanted = Likeliest(beams=3, length_penalty=0, most=1, end=END)
    search = run(wanted, vocabulary)
    logp = model((), vocabulary)
    order = [token for token in np.argsort(-logp, kind="stable").tolist() if token != END]
    assert [one.ids for one in search.live] == [(token,) for token in order[: len(search.live)]]


def test_an_end_counts_only_among_as_many_of_the_best_as_there_are_beams() -> None:
    search = Search(Likeliest(beams=1, length_penalty=0, most=5, end=END))
    search.begin(b"", [])
    search.choose(np.log(np.array([[0.4, 0.3, 0.3]])))
    search.take([b"0"], [])
    assert not search.ended
    search.choose(np.log(np.array([[0.3, 0.3, 0.4]])))
    search.take([], [])
    assert [(one.ids, one.ended, one.state) for one in search.best] == [((0,), True, b"0")]


def test_nothing_has_changed_until_a_step_is_taken() -> None:
    search = Search(Likeliest(beams=2, length_penalty=0, most=5, end=END))
    search.begin(b"start", [])
    before = (search.live, search.ended, search.steps)
    first = search.choose(np.log(np.array([[0.2, 0.3, 0.5]])))
    assert (search.live, search.ended, search.steps) == before
    assert search.choose(np.log(np.array([[0.2, 0.3, 0.5]]))) == first == [1, 0]
    assert search.states == [b"start", b"start"]


def test_what_goes_on_stands_behind_what_ended_whatever_its_score() -> None:
    search = Search(Likeliest(beams=2, length_penalty=0, most=1, end=END))
    search.begin(b"", [])
    search.choose(np.log(np.array([[0.7, 0.1, 0.2]])))
    search.take([b"0", b"1"], [])
    assert [(one.ids, one.ended) for one in search.best] == [((), True), ((0,), False)]


def test_what_cannot_come_does_not_however_many_beams_there_are() -> None:
    search = Search(Likeliest(beams=4, length_penalty=0, most=3, end=END))
    search.begin(b"", [])
    with np.errstate(divide="ignore"):
        impossible = log_probabilities(np.array([[1.0, 0.0, 0.0]]), "probabilities")
    assert search.choose(impossible) == [0]
    search.take([b"0"], [])
    assert (len(search.live), search.ended) == (1, [])


def test_a_search_that_is_done_runs_nothing_more() -> None:
    search = Search(Likeliest(beams=1, length_penalty=0, most=5, end=END))
    search.begin(b"", [])
    assert search.choose(np.log(np.array([[0.2, 0.2, 0.6]]))) == []
    search.take([], [])
    assert search.done
    assert [one.ids for one in search.best] == [()]
