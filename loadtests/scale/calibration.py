"""What a step costs where it passes, fitted to loads of one replica.

It knows measured loads and the simulation, not how either is made. How often threads wake follows from their costs and
from the load, so the simulation counts it and the costs are fitted again, until they change little. Invariant: no load
of more than one replica is looked at.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from loadtests.simulate import Cost, Costs, Outcome, Setup, simulate

ITERATIONS, SECONDS = 4, 2.0
UNLOCKED = (0.0, 0.25, 0.5)
KINDS = ("client", "proxy", "loop", "run")
Raw = dict[str, Any]


def medians(rounds: Sequence[Raw]) -> Raw:
    """Return the median of each number over the rounds of a load."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def fit(loads: Sequence[Raw], think_s: float, *, unlocked: Sequence[float] = UNLOCKED) -> Costs:
    """Return the costs with which one replica uses the processor time that was measured, and bears the steps.

    `loads` has `sessions`, `steps_per_s`, `runs` (a step) and `<kind>_us` each.
    """
    fitted = [_fit(loads, think_s, share) for share in unlocked]
    return min(fitted, key=lambda costs: _distance(loads, think_s, costs))


def _fit(loads: Sequence[Raw], think_s: float, unlocked: float) -> Costs:
    last = loads[-1]
    items = {"client": 2, "proxy": 2, "loop": 2, "run": 1}
    costs = Costs(**{kind: Cost(0.0, last[f"{kind}_us"] / 1e6 / items[kind]) for kind in KINDS}, unlocked=unlocked)
    for _ in range(ITERATIONS):
        outcomes = _outcomes(loads, think_s, costs)
        found = {kind: _cost(kind, loads, outcomes) for kind in KINDS}
        costs = replace(costs, **found)
    return costs


def _cost(kind: str, loads: Sequence[Raw], outcomes: Sequence[Outcome]) -> Cost:
    """Return the cost of a turn and of an item, neither below 0, whose relative errors are least."""
    measured = np.array([load[f"{kind}_us"] for load in loads]) / 1e6
    uses = [outcome.uses[kind] for outcome in outcomes]
    turns = [load["runs"] if kind == "run" else use.turns for load, use in zip(loads, uses, strict=True)]
    a_step = np.array([turns, [use.items for use in uses]]).T
    (turn_s, item_s), _ = nnls(a_step / measured[:, None], np.ones(len(loads)))
    return Cost(float(turn_s), float(item_s))


def _outcomes(loads: Sequence[Raw], think_s: float, costs: Costs) -> list[Outcome]:
    return [simulate(Setup(1, load["sessions"], think_s), costs, seconds=SECONDS) for load in loads]


def _distance(loads: Sequence[Raw], think_s: float, costs: Costs) -> float:
    """Return how far the simulated steps a second are from the measured ones, relatively."""
    outcomes = _outcomes(loads, think_s, costs)
    ratios = [outcome.steps_per_s / load["steps_per_s"] for outcome, load in zip(outcomes, loads, strict=True)]
    return math.fsum(math.log(ratio) ** 2 for ratio in ratios)
