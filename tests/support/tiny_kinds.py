"""Tiny models of further kinds: a forecaster of several channels, a second classifier, steps of characters, steps that
are watched for anomalies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny import GraphBuilder, sentiment, state, tensor, text_settings, write_model
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

CHANNELS = ("temperature", "wind", "rain")
CHARACTERS = "\t\n abAB?"


def weather(root: Path, *, channels: int = 3, **changes: Any) -> Path:
    """A GRU over rows of three channels, or fewer; horizon 4, two quantiles of which none is the median.

    A constant called offsets, one number for each quantile, is added to them.
    """
    build = GraphBuilder(6, lengths=changes.get("lengths", "lengths") or "")
    _, h = build.recurrent("GRU", "values", channels, 4, [], linear_before_reset=1)
    (last,) = build.add("Squeeze", [h, build.constant(np.array([0], np.int64))])
    made = {}
    for name, shape in (("mean", [0, 4, channels]), ("quantiles", [0, 4, channels, 2])):
        flat = build.dense(last, 4, int(np.prod(shape[1:])))
        (made[name],) = build.add("Reshape", [flat, build.constant(np.array(shape, np.int64))])
    if "constants" in changes:
        (made["quantiles"],) = build.add("Add", [made["quantiles"], "offsets"])
    manifest = {
        "name": "weather",
        "task": "forecast",
        "inputs": [tensor("values", "float32", "batch", "time", channels, labels=CHANNELS[:channels])],
        "outputs": [
            tensor("mean", "float32", "batch", 4, channels),
            tensor("quantiles", "float32", "batch", 4, channels, 2),
        ],
        "forecast": {"min_history": 3, "max_history": 16, "horizon": 4, "quantiles": [0.1, 0.9]},
    }
    return write_model(root, build, made, **{**manifest, **changes})


def spam(root: Path) -> Path:
    """The classifier of `sentiment` with labels that no polarity weighs."""
    scores = tensor("scores", "float32", "batch", 2, labels=["ham", "spam"])
    return sentiment(root, name="spam", outputs=[scores], text=text_settings(polarity=None))


def characters() -> Tokenizer:
    """Each character is a token, white space too."""
    vocabulary = {character: i for i, character in enumerate((*CHARACTERS, "[UNK]"))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    return tokenizer


def writer(root: Path, **changes: Any) -> Path:
    """A GRU over characters that gives the probability of each to come next."""
    build = GraphBuilder(7)
    (embedded,) = build.add("Gather", [build.weight(len(CHARACTERS) + 1, 3), "ids"])
    y, h = build.recurrent("GRU", embedded, 3, 4, ["h"], linear_before_reset=1)
    (probabilities,) = build.add("Softmax", [build.dense(y, 4, len(CHARACTERS))], axis=-1)
    manifest = {
        "name": "writer",
        "task": "step",
        "streamable": True,
        "inputs": [tensor("ids", "int64", "batch", "time")],
        "outputs": [tensor("probabilities", "float32", "batch", "time", len(CHARACTERS), labels=[*CHARACTERS])],
        "states": [state("h", 1, "batch", 4)],
        "text": text_settings(polarity=None),
    }
    made = {"probabilities": probabilities, "h_out": h}
    return write_model(root, build, made, tokenizer=characters(), **{**manifest, **changes})


def watcher(root: Path, *, in_rows: bool = False, **changes: Any) -> Path:
    """A GRU over numbers, or rows of one; three quantiles, moved by a constant vector, and an anomaly for each."""
    build = GraphBuilder(8)
    column = "values" if in_rows else build.add("Unsqueeze", ["values", build.constant(np.array([2], np.int64))])[0]
    y, h = build.recurrent("GRU", column, 1, 4, ["h"], linear_before_reset=1)
    (quantiles,) = build.add("Add", [build.dense(y, 4, 3), "offsets"])
    (anomaly,) = build.add("Squeeze", [build.dense(y, 4, 1), build.constant(np.array([2], np.int64))])
    manifest = {
        "name": "watcher",
        "task": "step",
        "streamable": True,
        "constants": {"offsets": [-0.5, 0, 2]},
        "inputs": [tensor("values", "float32", "batch", "time", *([1] if in_rows else []))],
        "outputs": [tensor("quantiles", "float32", "batch", "time", 3), tensor("anomaly", "float32", "batch", "time")],
        "states": [state("h", 1, "batch", 4)],
    }
    made = {"quantiles": quantiles, "anomaly": anomaly, "h_out": h}
    return write_model(root, build, made, **{**manifest, **changes})
