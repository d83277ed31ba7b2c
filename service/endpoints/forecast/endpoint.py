"""POST /v1/forecast: histories in, means and quantiles of the next values out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Body
from pydantic import Field

from service.contract.manifest import Task
from service.contract.parts import Forecast
from service.endpoints.forecast.history import Missing, Values, read_history
from service.endpoints.forecast.timestamps import list_times
from service.engine.engine import Engine
from service.engine.registry import Registry
from service.engine.rows import Answer, Row
from service.errors import (
    HistoryTooShort,
    HorizonTooLong,
    InvalidRequest,
    ItemTooLarge,
    MissingValues,
    NotFinite,
    QuantileUnavailable,
    RaggedInputs,
    WrongTask,
    attempt,
)
from service.settings import Settings
from service.web.answers import Reply
from service.web.batch import Job, Plan, carry_out
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.routes import BodyRoute
from service.web.schema import MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, Result, RunRequest, Strict

ERRORS = run_errors(
    "series",
    HorizonTooLong("1000 values asked for; this model forecasts 48", field="horizon", limit=48),
    QuantileUnavailable(
        "a level of 99 needs the quantiles 0.005 and 0.995; this model has 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, "
        "0.7, 0.8, 0.9, 0.95, 0.975",
        field="levels",
    ),
    HistoryTooShort("1 values given, 8 needed", field="series[0].values"),
    MissingValues(
        '1 values are null, the first at 1; fill them, or ask for "missing": "linear"', field="series[0].values[1]"
    ),
    RaggedInputs(
        "2 values, 7 needed in every row (HUFL, HULL, MUFL, MULL, LUFL, LULL, OT)", field="series[0].values[0]"
    ),
    ItemTooLarge("1000001 values; at most 1000000 in one series", field="series[0].values", limit=1_000_000),
    NotFinite("series[0].values[1] is not a finite number", field="series[0].values[1]"),
    WrongTask("'sentiment' is for task 'sentiment'; for 'forecast' there is forecast, segrnn", field="model"),
)
router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=ERRORS)

MAX_LEVELS = 100
Probability = Annotated[float, Field(gt=0, lt=1)]
Percent = Annotated[float, Field(gt=0, lt=100)]
LEVEL_MATCH = 1e-9  # quantile levels are written in decimal and compared as floats


class Series(Strict):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
    values: Values = Field(
        description="the history, oldest first, null = missing: numbers, or rows of the model's channels",
        examples=[[5.8, 5.7, None, 5.1], [[5.8, 2.0], [5.7, 2.1], [5.2, None], [5.1, 1.9]]],
    )
    start: str | None = Field(None, description="ISO 8601 time of the first value; with freq, gives timestamps")
    freq: str | None = Field(
        None, max_length=32, description="distance of the values, as pandas has it: 15min, h, D, B, W-MON, ME, QS..."
    )


class ForecastRequest(RunRequest):
    task: ClassVar[Task] = "forecast"
    items_field: ClassVar[str] = "series"

    series: list[Series] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})
    horizon: int = Field(ge=1, description="how many values to forecast")
    quantiles: list[Probability] | None = Field(
        None, min_length=1, max_length=MAX_LEVELS, description="probabilities, of those the model has; default: all"
    )
    levels: list[Percent] | None = Field(
        None,
        min_length=1,
        max_length=MAX_LEVELS,
        description="central intervals in percent: 80 gives quantiles 0.1 and 0.9",
    )
    missing: Missing = Field(
        "error",
        description="what to do with null: refuse the series, repeat the value before, or interpolate",
    )


HISTORY = [12.1, 14.0, 15.2, 13.9, 12.4, 14.1, 15.5, 14.2, 12.6, 14.4, 15.8, 14.3]
EXAMPLES: dict[str, Any] = {
    "interval": {
        "summary": "A series of months, with an interval of 80 %",
        "value": {
            "series": [{"id": "shop-1", "values": HISTORY, "start": "2026-01-01", "freq": "MS"}],
            "horizon": 3,
            "levels": [80],
        },
    },
    "gaps": {
        "summary": "Two series, one with gaps that are to be filled",
        "value": {
            "series": [{"values": HISTORY}, {"values": [3, None, 5, 4, None, 6, 7, 6, 8, 9]}],
            "horizon": 2,
            "quantiles": [0.5],
            "missing": "linear",
        },
    },
}


class ForecastResult(Result):
    channels: list[str] | None = Field(None, description="what the entries of rows are, where the model names them")
    mean: list[float] | list[list[float]] = Field(description="horizon values, or rows of the model's channels")
    quantiles: dict[str, list[float] | list[list[float]]] = Field(description="the same for each quantile")
    timestamps: list[str] | None = Field(None, description="ISO 8601 times of the forecast, where start and freq came")
    warnings: list[str]


@router.post("/v1/forecast", response_model=BatchAnswer[ForecastResult], summary="Forecast series")
async def forecast(call: Call, body: Annotated[ForecastRequest, Body(openapi_examples=EXAMPLES)]) -> Reply:
    """Forecast each series. Lengths may differ; series of one request and of concurrent requests share runs."""
    return await carry_out(call, body, plan(call.service.engines, call.service.settings, body))


def plan(engines: Registry, settings: Settings, body: ForecastRequest) -> Plan[_SeriesJob]:
    """Raises: UnknownModel, InvalidRequest, WrongTask, HorizonTooLong or QuantileUnavailable."""
    engine = engines.for_task(engines.name(body.model, body.task), body.task)
    spec = engine.manifest.forecast
    assert spec is not None
    if body.horizon > spec.horizon:
        message = f"{body.horizon} values asked for; this model forecasts {spec.horizon}"
        raise HorizonTooLong(message, field="horizon", limit=spec.horizon)
    columns = _columns(spec, body)
    jobs = [attempt(_read, series, engine, body, settings.max_series_steps) for series in body.series]
    return Plan(engine, jobs, partial(_shown, body.horizon, columns))


@dataclass(slots=True)
class _SeriesJob(Job):
    told: dict[str, Any]  # of the series, besides its forecast


def _read(series: Series, engine: Engine, body: ForecastRequest, most: int) -> _SeriesJob:
    """Raises: ItemTooLarge, InvalidRequest, RaggedInputs, HistoryTooShort or MissingValues."""
    if len(series.values) > most:
        raise ItemTooLarge(f"{len(series.values)} values; at most {most} in one series", field="values", limit=most)
    history, warnings = read_history(series.values, engine.manifest, body.missing)
    timestamps, readings = _timestamps(series, body.horizon)
    more = {"timestamps": timestamps, "channels": engine.manifest.sequence.labels}
    told = {"warnings": warnings + readings, **{name: value for name, value in more.items() if value is not None}}
    return _SeriesJob(engine, Row(history), "values", told)


def _columns(spec: Forecast, body: ForecastRequest) -> dict[str, int]:
    """Return the quantiles to show, as text, with their places in the model's output."""
    if body.quantiles is None and body.levels is None:
        return {f"{level:g}": place for place, level in enumerate(spec.quantiles)}
    asked = [("quantiles", f"there is no quantile {level:g}", level) for level in body.quantiles or []]
    for level in body.levels or []:
        lower, upper = (100 - level) / 200, (100 + level) / 200
        wanted = f"a level of {level:g} needs the quantiles {lower:g} and {upper:g}"
        asked += [("levels", wanted, lower), ("levels", wanted, upper)]
    columns: dict[str, int] = {}
    for field, wanted, probability in sorted(asked, key=lambda entry: entry[2]):
        place = next((i for i, q in enumerate(spec.quantiles) if abs(q - probability) < LEVEL_MATCH), None)
        if place is None:
            has = ", ".join(f"{q:g}" for q in spec.quantiles)
            raise QuantileUnavailable(f"{wanted}; this model has {has}", field=field)
        columns[f"{spec.quantiles[place]:g}"] = place
    return columns


def _timestamps(series: Series, horizon: int) -> tuple[list[str] | None, list[str]]:
    """Return the times of the forecast, None where the series has none, and warnings of how they were understood."""
    if series.start is None and series.freq is None:
        return None, []
    if series.freq is None:
        message = "start is given and freq is not, which says how far apart the values are: 15min, D, ME..."
        raise InvalidRequest(message, field="freq")
    if series.start is None:
        raise InvalidRequest("freq is given and start is not, which says when the first value was", field="start")
    return list_times(series.start, series.freq, range(len(series.values), len(series.values) + horizon))


def _shown(horizon: int, columns: dict[str, int], job: _SeriesJob, answer: Answer) -> dict[str, Any]:
    quantiles = answer.outputs["quantiles"][:horizon]
    return {
        "mean": answer.outputs["mean"][:horizon].tolist(),
        "quantiles": {name: quantiles[..., place].tolist() for name, place in columns.items()},
        **job.told,
    }
