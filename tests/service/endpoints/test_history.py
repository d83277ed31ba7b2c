"""The history of a series by itself: gaps, cuts, channels, and the level where differences are lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny

from service.contract.manifest import Manifest
from service.endpoints.forecast.history import read_history
from service.errors import HistoryTooShort, InputError, InvalidRequest, MissingValues, RaggedInputs


def manifest_of(channels: int = 0, dtype: str = "float64", **spec: int) -> Manifest:
    sizes = [channels] if channels else []
    labels = ["load", "oil"][:channels] if channels > 1 else None
    return Manifest.model_validate(
        {
            "schema_version": 1,
            "name": "f",
            "version": "1",
            "task": "forecast",
            "file": "model.onnx",
            "sha256": "0" * 64,
            "inputs": [tiny.tensor("x", dtype, "batch", "time", *sizes, labels=labels)],
            "outputs": [
                tiny.tensor("mean", dtype, "batch", 4, *sizes),
                tiny.tensor("quantiles", dtype, "batch", 4, *sizes, 1),
            ],
            "forecast": {"min_history": 2, "max_history": 5, "horizon": 4, "quantiles": [0.5], **spec},
        }
    )


def read(values: list[Any], missing: Any = "error", **manifest: Any) -> tuple[list[Any], list[str]]:
    history, warnings = read_history(values, manifest_of(**manifest), missing)
    return history.tolist(), warnings


def test_a_whole_history_is_read_as_it_stands() -> None:
    assert read([1.5, 2.0, -3.0]) == ([1.5, 2.0, -3.0], [])
    assert read([(1.0, 10.0), (2.0, 20.0)], channels=2) == ([[1.0, 10.0], [2.0, 20.0]], [])


def test_the_last_values_that_the_model_can_read_are_used() -> None:
    history, (warning,) = read([float(n) for n in range(9)])
    assert history == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert warning == "9 values given; the last 5 are used"


@pytest.mark.parametrize(
    ("missing", "filled"), [("ffill", [1.0, 1.0, 1.0, 4.0]), ("linear", [1.0, 2.0, 3.0, 4.0])], ids=["ffill", "linear"]
)
def test_gaps_are_filled_as_asked_and_told(missing: str, filled: list[float]) -> None:
    assert read([1.0, None, None, 4.0], missing) == (filled, [f"2 missing values filled ({missing})"])


def test_each_channel_is_filled_by_itself() -> None:
    rows = [(1.0, 5.0), (None, 6.0), (3.0, None)]
    assert read(rows, "ffill", channels=2)[0] == [[1.0, 5.0], [1.0, 6.0], [3.0, 6.0]]


@pytest.mark.parametrize(
    ("values", "missing", "error", "field", "says"),
    [
        ([1.0], "error", HistoryTooShort, "values", "1 values given, 2 needed"),
        ([1.0, None, 3.0], "error", MissingValues, "values[1]", 'ask for "missing": "linear"'),
        ([1.0, 2.0, None], "error", MissingValues, "values[2]", 'ask for "missing": "ffill"'),
        ([None, 1.0, 2.0], "error", MissingValues, "values[0]", "fill them"),
        ([None, 1.0, 2.0], "ffill", MissingValues, "values[0]", "none before it"),
        ([1.0, 2.0, None], "linear", MissingValues, "values[2]", "no line to draw"),
        ([1.0, None, None], "ffill", HistoryTooShort, "values", "1 values given that are not null, 2 needed"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    values: list[Any], missing: str, error: type[InputError], field: str, says: str
) -> None:
    with pytest.raises(error, match=says) as refused:
        read(values, missing)
    assert refused.value.field == field


def test_rows_and_channels_must_agree() -> None:
    with pytest.raises(InvalidRequest, match=r"takes rows of 2 numbers \(load, oil\)"):
        read([1.0, 2.0], channels=2)
    with pytest.raises(RaggedInputs, match=r"1 values, 2 needed in every row \(load, oil\)") as refused:
        read([(1.0, 2.0), (3.0,)], channels=2)
    assert refused.value.field == "values[1]"
    with pytest.raises(RaggedInputs, match="takes one series: send each channel as one"):
        read([(1.0, 2.0), (3.0, 4.0)])


@pytest.mark.parametrize(("level", "dtype", "warned"), [(1e9, "float32", True), (1e9, "float64", False)])
def test_differences_that_the_dtype_loses_are_warned_of(level: float, dtype: str, warned: bool) -> None:
    _, warnings = read([level + n for n in (0.0, 10.0, -10.0, 5.0)], dtype=dtype)
    assert bool(warnings) is warned
    assert all("subtract the level first" in warning for warning in warnings)


def test_a_filled_history_is_not_what_the_client_sent() -> None:
    values = [1.0, None, 3.0]
    read(values, "linear")
    assert values == [1.0, None, 3.0]
    assert np.isfinite(read(values, "linear")[0]).all()
