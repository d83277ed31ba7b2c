"""FastAPI as it is first written: one `session.run` a request, in the framework's thread pool."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from loadtests.peers.apps.reader import Reader


class Ids(BaseModel):
    ids: list[int]


class Probabilities(BaseModel):
    probabilities: list[float]


reader = Reader.of_environment()
app = FastAPI()


@app.post("/read")
def read(body: Ids) -> Probabilities:
    return Probabilities(probabilities=reader.read([body.ids])[0].tolist())
