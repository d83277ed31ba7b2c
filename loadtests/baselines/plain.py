"""Sentiment as it is first written: a FastAPI handler that tokenises and calls `session.run` for each request.

It reads the committed model and takes and gives the service's fields, so that answers can be compared; it knows
nothing of batching. Session options are ONNX Runtime's defaults.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

VERSIONS = Path(__file__).parents[2] / "models" / "sentiment"
MODEL = max(VERSIONS.iterdir(), key=lambda version: int(version.name))

manifest = json.loads((MODEL / "manifest.json").read_text())
labels = manifest["outputs"][0]["labels"]
tokenizer = Tokenizer.from_file(str(MODEL / manifest["text"]["tokenizer"]))
tokenizer.enable_truncation(manifest["text"]["max_length"])
session = ort.InferenceSession(MODEL / manifest["file"], providers=["CPUExecutionProvider"])


class SentimentRequest(BaseModel):
    inputs: list[str]


class Sentiment(BaseModel):
    label: str
    score: float


class SentimentAnswer(BaseModel):
    results: list[Sentiment]


app = FastAPI()


@app.post("/v1/sentiment", response_model=SentimentAnswer)
def sentiment(body: SentimentRequest) -> SentimentAnswer:
    return SentimentAnswer(results=[label(text) for text in body.inputs])


def label(text: str) -> Sentiment:
    ids = tokenizer.encode(text).ids
    feeds = {"ids": np.array([ids], np.int32), manifest["lengths"]: np.array([len(ids)], np.int32)}
    (scores,) = session.run(["scores"], feeds)[0]
    best = int(scores.argmax())
    return Sentiment(label=labels[best], score=float(scores[best]))
