"""The history of a series: what a client gives for it, checked, made whole, and cut to what the model reads.

It knows manifests and numbers; not how a request came in, and not what is forecast. Invariant: a history that is
returned has no gaps, and as many steps as the model can take.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, Tag

from service.contract.manifest import Manifest
from service.errors import HistoryTooShort, InvalidRequest, MissingValues, RaggedInputs
from service.model.onnx_session import Array, cast
from service.web.schema import NUMBERS, ROWS

# Numbers of its dtype that a history spans at least, or it is warned of: with ten thousand, the model `forecast` errs
# by up to a tenth more on a clean sine than with all that float64 has about zero.
LEAST_STEPS = 2**14
Missing = Literal["error", "ffill", "linear"]
_Numbers = Annotated[list[float | None], Field(fail_fast=True)]
# Rows are tuples, as the garbage collector looks through a million lists over and over while they are read.
_Rows = Annotated[list[Annotated[tuple[float | None, ...], Field(fail_fast=True)]], Field(fail_fast=True)]
# Tried in this order, numbers cost what they would cost without the rows beside them.
Values = Annotated[Annotated[_Numbers, Tag(NUMBERS)] | Annotated[_Rows, Tag(ROWS)], Field(union_mode="left_to_right")]


def read_history(values: Values, manifest: Manifest, missing: Missing) -> tuple[Array, list[str]]:
    """Return what a forecaster reads of `values`, null being a gap, and warnings of what was filled, cut or lost.

    Whoever has numbers without channels in an array need not make a list of them: a gap is NaN there.

    Shapes: values [time] or [time][channels], as the model has them; so is what is returned.

    Raises: InvalidRequest, RaggedInputs, HistoryTooShort or MissingValues, with the place as their field.
    """
    spec = manifest.forecast
    assert spec is not None
    history = _as_array(values, manifest)
    gaps = np.isnan(history)
    unit = "values" if history.ndim == 1 else "rows"
    if len(history) < spec.min_history:
        raise HistoryTooShort(f"{len(history)} {unit} given, {spec.min_history} needed", field="values")
    warnings = []
    if gaps.any():
        if missing == "error":
            raise _refusal(gaps, manifest)
        _check_known(gaps, manifest)
        columns, holes = history.reshape(len(history), -1), gaps.reshape(len(gaps), -1)
        for channel in np.flatnonzero(holes.any(axis=0)):
            place = "" if history.ndim == 1 else f"[{channel}]"
            columns[:, channel] = _filled(columns[:, channel], holes[:, channel], missing, place)
        warnings.append(f"{int(gaps.sum())} missing values filled ({missing})")
    if len(history) > spec.max_history:
        warnings.append(f"{len(history)} {unit} given; the last {spec.max_history} are used")
        history = history[-spec.max_history :]
    dtype = manifest.sequence.dtype
    return cast(history, dtype), warnings + _coarse(history, dtype)


def _coarse(history: Array, dtype: str) -> list[str]:
    """Return a warning where the history's differences are lost among the numbers that `dtype` has at its level.

    A channel that does not move is believed, unless whole numbers are not told apart at its level.
    """
    tops, bottoms = history.max(axis=0), history.min(axis=0)
    levels = np.maximum(tops, -bottoms)
    with np.errstate(over="ignore", invalid="ignore"):  # what the dtype cannot hold the engine refuses
        steps, spans = np.spacing(cast(levels, dtype)).astype(np.float64), tops - bottoms
        coarse = np.where(spans > 0, spans < LEAST_STEPS * steps, steps > 1)
    if not coarse.any():
        return []
    level, span, step = (np.atleast_1d(each)[np.atleast_1d(coarse)][0] for each in (levels, spans, steps))
    return [
        f"the values span {span:.3g} at a level of {level:.3g}, where {dtype} has numbers {step:.3g} apart: "
        "what differs by less is lost, and intervals are no finer; subtract the level first"
    ]


def _as_array(values: Values, manifest: Manifest) -> Array:
    """Return float64 values; None becomes NaN, and nothing else can: NaN was refused."""
    width = manifest.features or 1
    names = f" ({', '.join(manifest.sequence.labels)})" if manifest.sequence.labels else ""
    in_rows = len(values) > 0 and isinstance(values[0], tuple)
    if len(values) and not in_rows and width > 1:
        message = f"a list of numbers given; model {manifest.name!r} takes rows of {width} numbers{names}"
        raise InvalidRequest(message, field="values")
    for index, row in enumerate(values if in_rows else ()):
        if len(row) != width:  # type: ignore[arg-type]
            message = f"{len(row)} values, {width} needed in every row{names}"  # type: ignore[arg-type]
            hint = f"; model {manifest.name!r} takes one series: send each channel as one" if width == 1 else ""
            raise RaggedInputs(message + hint, field=f"values[{index}]")
    return np.array(values, np.float64).reshape(-1, *([] if manifest.features is None else [width]))


def _refusal(gaps: Array, manifest: Manifest) -> MissingValues:
    first, *channel = (int(place) for place in np.argwhere(gaps)[0])
    where = f"at {first}" if not channel else f"in row {first}, {_name(manifest, channel[0])}"
    way = "ffill" if gaps[-1].any() else "linear"
    fill = "fill them" if gaps[0].any() else f'fill them, or ask for "missing": "{way}"'
    message = f"{int(gaps.sum())} values are null, the first {where}; {fill}"
    return MissingValues(message, field="values" + "".join(f"[{place}]" for place in (first, *channel)))


def _check_known(gaps: Array, manifest: Manifest) -> None:
    """Check that the model has enough to go by.

    A model of a fixed window needs every place of it, however it is filled, rather than so many values.

    Raises: HistoryTooShort.
    """
    spec = manifest.forecast
    assert spec is not None
    needed = spec.min_history if spec.min_history < spec.max_history else 1
    known = np.atleast_1d(len(gaps) - gaps.sum(axis=0))
    poorest = int(known.argmin())
    if known[poorest] < needed:
        of = "" if gaps.ndim == 1 else f" for {_name(manifest, poorest)}"
        message = f"{known[poorest]} values given{of} that are not null, {needed} needed"
        raise HistoryTooShort(message, field="values")


def _name(manifest: Manifest, channel: int) -> str:
    labels = manifest.sequence.labels
    return labels[channel] if labels else f"channel {channel}"


def _filled(values: Array, gaps: Array, missing: Missing, place: str) -> Array:
    """Fill one channel; `place` is its own in a row.

    Raises: MissingValues where there is nothing to fill from.
    """
    known, places = np.flatnonzero(~gaps), np.arange(len(values))
    if gaps[0]:
        message = "the first value is null, so there is none before it to fill from"
        raise MissingValues(message, field=f"values[0]{place}")
    if missing == "linear":
        if gaps[-1]:
            message = 'the last value is null, so there is no line to draw to it; ask for "missing": "ffill"'
            raise MissingValues(message, field=f"values[{len(values) - 1}]{place}")
        return np.interp(places, known, values[known])
    filled: Array = values[np.maximum.accumulate(np.where(gaps, 0, places))]
    return filled
