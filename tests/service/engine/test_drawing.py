"""Ids are drawn with the probabilities that temperature, top k and top p say, each by its own number alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from numpy.random import Generator, Philox

from service.engine.drawing import Choice, Draw, Numbers, draw, expect
from service.errors import NotFinite

SHARES = np.array([0.05, 0.4, 0.1, 0.25, 0.2], np.float32)
LOGITS = np.log(SHARES) + 3
COUNT = 20_000
Floats = npt.NDArray[np.floating]


def drawn(choice: Choice, made: Floats = SHARES, form: str = "probabilities", seed: int = 1) -> npt.NDArray[np.int64]:
    """Return the ids of many sessions that are at the same point, each with a number of its own."""
    numbers = Numbers(seed)
    draws = [Draw(choice, numbers.at(step)) for step in range(COUNT)]
    return draw(np.tile(made, (COUNT, 1)), form, draws)


def expected(choice: Choice) -> Floats:
    """Return the probability of each id, computed as the definitions of the three say."""
    heated = SHARES.astype(np.float64) ** (1 / choice.temperature)
    heated /= heated.sum()
    order = sorted(range(len(SHARES)), key=lambda one: -heated[one])[: choice.top_k]
    kept, share, whole = [], 0.0, sum(heated[one] for one in order)
    for one in order:
        if choice.top_p is None or share < choice.top_p * whole:
            kept.append(one)
            share += heated[one]
    return np.array([heated[one] / share if one in kept else 0.0 for one in range(len(SHARES))])


@pytest.mark.parametrize(
    "choice",
    [
        Choice(),
        Choice(temperature=0.5),
        Choice(temperature=2.0),
        Choice(top_k=2),
        Choice(top_k=50),
        Choice(top_p=0.6),
        Choice(top_p=0.66),
        Choice(top_p=1e-9),
        Choice(temperature=1.7, top_k=4, top_p=0.8),
    ],
    ids=str,
)
@pytest.mark.parametrize(("made", "form"), [(SHARES, "probabilities"), (LOGITS, "logits")])
def test_ids_are_drawn_as_often_as_they_are_likely(choice: Choice, made: Floats, form: str) -> None:
    """Within four standard deviations of the exact probabilities, and never an id that is left out."""
    exact = expected(choice)
    counts = np.bincount(drawn(choice, made, form), minlength=len(SHARES))
    assert np.all(np.abs(counts - COUNT * exact) <= 4 * np.sqrt(COUNT * exact * (1 - exact)))


def test_at_temperature_0_it_is_the_first_of_the_likeliest() -> None:
    made = np.array([[0.1, 0.45, 0.45], [0.5, 0.2, 0.3]], np.float32)
    assert draw(made, "probabilities", [Draw(Choice(0), number) for number in (0.99, 0.0)]).tolist() == [1, 0]


def test_an_id_does_not_depend_on_who_is_drawn_for_beside_it() -> None:
    rng = np.random.default_rng(2)
    made = rng.dirichlet(np.ones(7), 50).astype(np.float32)
    choices = [Choice(0), Choice(), Choice(0.7, top_k=3), Choice(1.5, top_p=0.5)]
    draws = [Draw(choices[index % 4], rng.random()) for index in range(50)]
    alone = [int(draw(made[[index]], "probabilities", [draws[index]])[0]) for index in range(50)]
    assert draw(made, "probabilities", draws).tolist() == alone


def test_the_least_and_the_largest_number_give_ids_that_have_a_share() -> None:
    made = np.array([[0, 0.5, 0.5, 0]], np.float32)
    largest = float(np.nextafter(1, 0))
    assert [int(draw(made, "probabilities", [Draw(Choice(), u)])[0]) for u in (0.0, largest)] == [1, 2]


def test_the_number_of_a_step_is_the_seed_s_whoever_asks_and_whenever() -> None:
    seed = 2**63 - 1
    numbers = Numbers(seed)
    in_order = [numbers.at(step) for step in range(5, 15)]
    assert in_order == [Numbers(seed).at(step) for step in range(5, 15)]
    assert in_order == [Generator(Philox(key=seed, counter=step)).random() for step in range(5, 15)]
    assert len(set(in_order)) == 10
    assert numbers.at(5) == in_order[0]


def test_numbers_are_spread_evenly() -> None:
    """Of many numbers as many are in each tenth as chance lets be: within four standard deviations."""
    numbers = Numbers(3)
    counts, _ = np.histogram([numbers.at(step) for step in range(COUNT)], bins=10, range=(0, 1))
    assert np.all(np.abs(counts - COUNT / 10) <= 4 * np.sqrt(COUNT * 0.1 * 0.9))


@pytest.mark.parametrize(("made", "form"), [(SHARES, "probabilities"), (LOGITS, "logits")])
def test_what_the_model_holds_likely_is_its_output_or_what_its_logits_say(made: Floats, form: str) -> None:
    held = expect(made, form, drawn=2, count=3)
    assert held.share == pytest.approx(0.1)
    assert [token for token, _ in held.likeliest] == [1, 3, 4]
    assert [share for _, share in held.likeliest] == pytest.approx([0.4, 0.25, 0.2])
    assert expect(made, form, drawn=2, count=0).likeliest == []
    assert len(expect(made, form, drawn=2, count=9).likeliest) == len(SHARES)


@pytest.mark.parametrize("count", [1, 2, 5, 40, 100])
def test_of_equally_likely_ids_the_first_are_the_likeliest(count: int) -> None:
    shares = np.random.default_rng(5).integers(0, 9, 100) / 8
    best = [token for token, _ in expect(shares, "probabilities", drawn=0, count=count).likeliest]
    assert best == sorted(range(100), key=lambda token: -shares[token])[:count]


@pytest.mark.parametrize("temperature", [1e-310, 5e-324, 1e-300])
@pytest.mark.parametrize(("made", "form"), [(SHARES, "probabilities"), (LOGITS, "logits"), (LOGITS * 1e4, "logits")])
def test_the_least_temperature_is_greedy(temperature: float, made: Floats, form: str) -> None:
    draws = [Draw(Choice(temperature), number) for number in (0.0, 0.5, 0.99)]
    assert draw(np.tile(made, (3, 1)), form, draws).tolist() == [1, 1, 1]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize(
    ("made", "form"),
    [
        ([0, 0, 0], "probabilities"),
        ([np.nan, 0.5, 0.5], "probabilities"),
        ([-1, 0.5, 0.5], "probabilities"),
        ([np.inf, 0, 0], "logits"),
        ([-np.inf, -np.inf, -np.inf], "logits"),
        ([0, np.nan, 0], "logits"),
    ],
)
def test_no_id_is_drawn_where_none_is_likeliest(made: list[float], form: str, temperature: float) -> None:
    with pytest.raises(NotFinite, match="no id can be drawn"):
        draw(np.array([made], np.float32), form, [Draw(Choice(temperature), 0.5)])
