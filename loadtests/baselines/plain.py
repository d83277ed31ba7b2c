"""Sentiment as it is first written: a FastAPI handler that tokenises and calls `session.run` for each request.

It serves the model in the directory that `LOADTEST_MODEL` names, and takes and gives the service's fields, so that
answers can be compared; it knows nothing of batching. Session options are the service's: one thread a run, no spinning.
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

from loadtests.baselines import MODEL_VARIABLE

MODEL = Path(os.environ[MODEL_VARIABLE])

manifest = json.loads((MODEL / "manifest.json").read_text())
labels = manifest["outputs"][0]["labels"]
tokenizer = Tokenizer.from_file(str(MODEL / manifest["text"]["tokenizer"]))
tokenizer.enable_truncation(manifest["text"]["max_length"])
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(MODEL / manifest["file"], options, providers=["CPUExecutionProvider"])


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
