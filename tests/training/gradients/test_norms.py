"""Gradients through time: against closed forms, against finite differences, and under clipping."""

from __future__ import annotations

from itertools import pairwise
from math import exp, inf

import pytest
import torch

from training.gradients.norms import norms_by_distance, shares_by_distance
from training.gradients.reader import SKIP_SHARE, SKIP_STEPS, SYMBOLS, Reader
from training.gradients.recall import accuracy, draw, train, update
from training.networks.nodes import Cell

CELLS: tuple[Cell, ...] = ("rnn", "lstm", "gru")


def rows(steps: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return draw(3, steps, torch.Generator().manual_seed(seed))


def at_rest(reader: Reader, steps: int) -> list[float]:
    """The gradient's shares where nothing is read, so that every state is zero and every cell linear around it."""
    shares = shares_by_distance(reader, torch.zeros(2, steps, 2 * SYMBOLS), torch.tensor([0, 1]))
    assert shares.shape == (steps,)
    return shares.tolist()


def weights(reader: Reader) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in reader.parameters()])


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5])
def test_a_plain_network_at_rest_multiplies_the_gradient_by_its_radius_at_each_step(radius: float) -> None:
    shares = at_rest(Reader("rnn", radius), 20)
    # The matrix is orthogonal to float32's precision before it is taken to float64.
    assert shares == pytest.approx([radius**distance for distance in range(20)], rel=1e-4)


@pytest.mark.parametrize("cell", CELLS[1:])
def test_without_a_recurrent_matrix_a_gate_multiplies_the_gradient_by_its_own_value(cell: Cell) -> None:
    """From the second step back on, for an LSTM's cell is seen through the output gate only at the last."""
    keep = 3.0
    shares = at_rest(Reader(cell, 0.0, keep=keep), 12)
    assert [after / before for before, after in pairwise(shares[1:])] == pytest.approx(
        [1 / (1 + exp(-keep))] * 10, rel=1e-4
    )


def test_without_a_recurrent_matrix_only_the_skip_hands_the_gradient_on() -> None:
    shares = at_rest(Reader("rnn", 0.0, skip=True), 2 * SKIP_STEPS + 1)
    expected = [0.0 if distance % SKIP_STEPS else SKIP_SHARE ** (distance // SKIP_STEPS) for distance in range(21)]
    assert shares == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_norms_are_those_of_finite_differences(cell: Cell) -> None:
    """The loss after a small change of each number of the state, six steps before the end."""
    torch.manual_seed(0)
    reader, (x, first) = Reader(cell, 1.0).double(), rows(9)
    x, back, change = x.double(), 6, 1e-5
    states = reader.unroll(x)
    losses = torch.nn.functional.cross_entropy(reader.answer(states[-1]), first, reduction="none")
    measured = norms_by_distance(states, losses)[back]

    def losses_from(moved: list[torch.Tensor]) -> torch.Tensor:
        _, final = reader.stack(x[:, -back:], torch.full((3,), back, dtype=torch.int32), tuple(moved))
        return torch.nn.functional.cross_entropy(reader.answer(final), first, reduction="none")

    squares = torch.zeros(3, dtype=torch.float64)
    start = [state.detach() for state in states[-1 - back]]
    for kind, state in enumerate(start):
        for unit in range(state.shape[2]):
            moved = torch.zeros_like(state)
            moved[:, :, unit] = change
            up, down = (
                losses_from([other + sign * moved if at == kind else other for at, other in enumerate(start)])
                for sign in (1, -1)
            )
            squares += ((up - down) / (2 * change)).detach() ** 2
    # Central differences err by the square of the change.
    assert measured.tolist() == pytest.approx(squares.sqrt().tolist(), rel=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_a_network_answers_as_it_does_of_the_whole(cell: Cell) -> None:
    torch.manual_seed(0)
    reader, (x, _) = Reader(cell, 1.0, keep=1.0), rows(12)
    whole, by_steps = reader(x), reader.answer(reader.unroll(x)[-1])
    torch.testing.assert_close(by_steps, whole, atol=1e-6, rtol=0)


def test_clipping_bounds_an_update_and_keeps_its_direction() -> None:
    """With a learning rate of 1 the weights move by the gradient itself, or by as much of it as is allowed."""
    moves = {}
    for max_norm in (inf, 0.01):
        torch.manual_seed(0)
        reader = Reader("rnn", 1.5)
        before = weights(reader)
        _, norm = update(reader, torch.optim.SGD(reader.parameters(), 1.0), *rows(20), max_norm)
        moves[max_norm] = weights(reader) - before
        assert float(moves[max_norm].norm()) == pytest.approx(min(norm, max_norm), rel=1e-3)
    assert float(torch.cosine_similarity(moves[inf], moves[0.01], 0)) == pytest.approx(1, abs=1e-4)


def test_a_network_whose_gradient_arrives_learns_to_remember() -> None:
    torch.manual_seed(0)
    reader, held_out = Reader("rnn", 1.0), draw(64, 6, torch.Generator().manual_seed(9))
    before = accuracy(reader, *held_out)
    train(reader, torch.optim.Adam(reader.parameters(), 3e-3), steps=6, updates=60, seed=0)
    assert accuracy(reader, *held_out) == 1 > before


def test_pytorch_begins_a_plain_network_with_a_radius_that_vanishes() -> None:
    """Numbers between ±1/√n make a radius of 1/√3 as n grows, which the page gives as about 0.58."""
    torch.manual_seed(0)
    matrix = torch.nn.RNN(1, 400).weight_hh_l0.detach()
    assert float(torch.linalg.eigvals(matrix).abs().max()) == pytest.approx(3**-0.5, abs=0.04)
