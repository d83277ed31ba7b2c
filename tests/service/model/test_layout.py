"""States cut to float16: what float16 can hold comes back, what it cannot is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.tensors import State
from service.errors import PrecisionTooLow
from service.model.layout import StateLayout

H = State(input="h", output="h_out", dtype="float32", shape=(2, "batch", 3))
MEMORY = State(input="memory", output=None, dtype="float32", shape=("batch", "memory", 2))
PLACES = State(input="places", output=None, dtype="int64", shape=("memory", "batch"))
COUNT = State(input="count", output="count_out", dtype="int64", shape=("batch", 1))
TICKS = State(input="ticks", output="ticks_out", dtype="int32", shape=("batch", 2))


def packed(h: list[float], count: int, ticks: list[int]) -> bytes:
    return np.array(h, "<f4").tobytes() + np.array([count], "<i8").tobytes() + np.array(ticks, "<i4").tobytes()


@given(
    h=st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=6, max_size=6),
    count=st.integers(-(2**63), 2**63 - 1),
    ticks=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=2),
)
def test_what_float16_holds_and_every_whole_number_comes_back_exactly(
    h: list[float], count: int, ticks: list[int]
) -> None:
    layout = StateLayout([H, COUNT, TICKS])
    state = packed(h, count, ticks)
    cut = layout.to_float16(state)
    assert len(cut) == layout.float16_size(state) == len(state) - 12
    assert layout.from_float16(cut) == state


def test_other_values_come_back_as_the_nearest_that_float16_holds() -> None:
    layout = StateLayout([H])
    state = np.array([0.1, -3.14159, 1e-9, 65504, 2049, 1 / 3], "<f4")
    restored = np.frombuffer(layout.from_float16(layout.to_float16(state.tobytes())), "<f4")
    np.testing.assert_array_equal(restored, state.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("value", [65520.0, -7e4, 3e38])
def test_a_value_beyond_float16_is_refused_with_the_way_out(value: float) -> None:
    with pytest.raises(PrecisionTooLow, match=r'holds .*"precision": "float32"') as refused:
        StateLayout([COUNT, H]).to_float16(
            np.array([5], "<i8").tobytes() + np.array([0, 0, 0, value, 0, 0], "<f4").tobytes()
        )
    assert refused.value.limit == 65504


def test_float64_stays_whole_beside_what_is_cut() -> None:
    level = State(input="level", output="level_out", dtype="float64", shape=("batch", 2))
    layout = StateLayout([level, H])
    state = np.array([1.7e9 + 1 / 3, 1e300], "<f8").tobytes() + np.array([1, 2, 3, 4, 5, 6], "<f4").tobytes()
    assert layout.float16_size(state) == 2 * 8 + 6 * 2
    assert layout.from_float16(layout.to_float16(state)) == state


@pytest.mark.parametrize("entries", [1, 2, 7])
def test_ragged_tensors_follow_those_of_fixed_size_as_long_as_the_condition_is(entries: int) -> None:
    layout = StateLayout([MEMORY, H, PLACES])
    tensors = {
        "memory": np.arange(2 * entries, dtype="<f4").reshape(entries, 2),
        "places": np.arange(entries) + 2**40,
        "h": np.arange(6, dtype="<f4").reshape(2, 3),
    }
    state = layout.begin(tensors)
    assert (len(state), layout.entries(state)) == (6 * 4 + entries * (2 * 4 + 8), entries)
    restored = layout.from_float16(layout.to_float16(state))
    for each in (state, restored):  # small whole numbers are exact in float16
        unpacked = layout.unpack(each)
        assert unpacked.keys() == tensors.keys()
        for name, values in tensors.items():
            np.testing.assert_array_equal(unpacked[name], values)


def test_only_whole_entries_are_a_state() -> None:
    layout = StateLayout([H, MEMORY])
    exact, cut = ({size for size in range(60) if layout.holds(size, float16=half)} for half in (False, True))
    assert exact == {32, 40, 48, 56}
    assert cut == {*range(16, 60, 4)}
    plain = StateLayout([H])
    assert [size for size in range(60) if plain.holds(size)] == [24]


def test_a_ragged_value_beyond_float16_is_refused_by_its_name() -> None:
    layout = StateLayout([H, MEMORY])
    state = layout.begin({"memory": np.array([[0, 0], [0, 7e4]]), "h": np.zeros((2, 3))})
    with pytest.raises(PrecisionTooLow, match="state 'memory' holds 70000"):
        layout.to_float16(state)
