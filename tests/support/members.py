"""The members of manifests of each kind, and the manifests that they make."""

from __future__ import annotations

import tiny

from service.contract.manifest import Manifest

SHA = "0" * 64
TEXT = {"tokenizer": "tokenizer.json", "sha256": SHA, "max_length": 16, "unknown_token": "[UNK]"}
HISTORY = {"min_history": 3, "max_history": 9, "horizon": 4, "quantiles": [0.5]}
IDS = tiny.tensor("ids", "int64", "batch", "time")
VALUES = tiny.tensor("values", "float32", "batch", "time")
SCORES = tiny.tensor("scores", "float32", "batch", 2, labels=["no", "yes"])
BY_STEP = tiny.tensor("y", "float32", "batch", "time", 2)
FORECAST = [tiny.tensor("mean", "float32", "batch", 4), tiny.tensor("quantiles", "float32", "batch", 4, 1)]
CARRIED = {"task": "step", "streamable": True, "states": [tiny.state("h", 1, "batch", 4)], "outputs": [BY_STEP]}
CLASSIFIER = {"task": "sentiment", "inputs": [IDS], "outputs": [SCORES], "text": TEXT}
FORECASTER = {"task": "forecast", "inputs": [VALUES], "outputs": FORECAST, "forecast": HISTORY}
STEPPER = {**CARRIED, "inputs": [VALUES]}
READER = {**CARRIED, "inputs": [IDS], "text": TEXT}
TABLE = tiny.tensor("table", "string", 3, "batch")
PLAIN = {"task": "tensor", "inputs": [TABLE, VALUES, IDS], "outputs": [SCORES, BY_STEP]}
TABULAR = {"task": "tensor", "inputs": [TABLE], "outputs": [SCORES]}


def read(members: dict) -> Manifest:
    due = {"schema_version": 1, "name": "model", "version": "1", "file": "model.onnx", "sha256": SHA}
    return Manifest.model_validate({**due, **members})
