"""POST /v1/transform: series in, as many numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Body
from pydantic import Field

from service.contract.manifest import Task
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import ItemTooLarge, NotFinite, RaggedInputs, WrongTask, attempt
from service.web.answers import Reply
from service.web.batch import Job, reply, run_jobs, show_each
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.numbers import NumbersInput, find_given, read_numbers, read_samples, takes_numbers
from service.web.routes import BodyRoute
from service.web.schema import MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, Result, RunRequest

ERRORS = run_errors(
    "items",
    ItemTooLarge("5000 samples; at most 4096 in one item", field="items[0].values", limit=4096),
    RaggedInputs("2 values, 1 needed in every row", field="items[0].inputs[0]"),
    NotFinite("items[0].values[1] is not a finite number", field="items[0].values[1]"),
    WrongTask("'forecast' is for task 'forecast'; for 'transform' there is denoise, denoise-live", field="model"),
)
router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=ERRORS)


class TransformItem(NumbersInput):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")


class TransformRequest(RunRequest):
    task: ClassVar[Task] = "transform"
    items_field: ClassVar[str] = "items"

    items: list[TransformItem] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})


HEARTBEAT = [-0.06, 0.02, -0.09, 0.11, 0.98, -0.31, -0.04, -0.1, 0.03, 0.14, 0.22, 0.05]
EXAMPLES: dict[str, Any] = {
    "signal": {"summary": "A signal without its noise", "value": {"model": "denoise", "items": [{"values": HEARTBEAT}]}}
}


class Transformed(Result):
    outputs: list[float] | list[list[float]] = Field(description="a number, or a row, for each that came")


@router.post("/v1/transform", response_model=BatchAnswer[Transformed], summary="Transform series")
async def transform(call: Call, body: Annotated[TransformRequest, Body(openapi_examples=EXAMPLES)]) -> Reply:
    """Give a number, or a row, for each that came. Items fail alone; those of concurrent requests share runs."""
    engines, most = call.service.engines, call.service.settings.max_steps
    engine = engines.for_task(engines.name(body.model, body.task), body.task)
    jobs = [attempt(_read, item, engine, most) for item in body.items]
    outcomes, timing = await run_jobs(call, body, jobs)
    results = await show_each(jobs, outcomes, _shown)
    return reply(call, body, engine, results, timing)


@dataclass(slots=True)
class _SeriesJob(Job):
    samples: int | None  # that came, where they are a signal's


def _read(item: TransformItem, engine: Engine, most: int) -> _SeriesJob:
    """Raises: InvalidRequest, EmptyInput, RaggedInputs or ItemTooLarge."""
    manifest = engine.manifest
    allowed = takes_numbers(manifest) if manifest.signal is None else ("values",)
    member = find_given(item, ("inputs", "values"), allowed, manifest)
    if manifest.signal is None:
        return _SeriesJob(engine, Row(read_numbers(item, manifest, most)), member, None)
    samples = item.values or []
    return _SeriesJob(engine, Row(read_samples(samples, manifest, most)), member, len(samples))


def _shown(job: _SeriesJob, answer: Answer) -> dict[str, Any]:
    (output,) = job.engine.manifest.outputs
    made = answer.outputs[output.name]
    return {"outputs": (made if job.samples is None else made.reshape(-1)[: job.samples]).tolist()}
