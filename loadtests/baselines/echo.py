"""A plain FastAPI route that answers a step request with itself: what HTTP, JSON and pydantic cost, and nothing else.

It knows the body of `/v1/step`, not models or tokens.
"""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel


class StepItem(BaseModel):
    state: str
    inputs: list[list[float]]


class StepRequest(BaseModel):
    model: str
    items: list[StepItem]


app = FastAPI()


@app.post("/v1/step", response_model=StepRequest)
async def echo(body: StepRequest) -> StepRequest:
    return body
