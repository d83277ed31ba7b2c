"""The digit models' figures: through the service on the test part, and on the voice of a speaker not trained on.

It knows the parts of the recordings, and how to ask a running service what it hears; what serves there it does not.

Invariant: of a speaker who is left out, nothing is trained on, and nothing chooses the checkpoint.
"""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from service.contract.provenance import Metric
from training.evaluate import ask
from training.fit.runs import fit
from training.recipe import Recipe
from training.tasks.digits.features import RATE
from training.tasks.digits.module import VALIDATION_ROWS, DigitModule, Settings
from training.tasks.digits.network import DIGITS
from training.tasks.digits.recordings import FULL_SCALE, Recordings, Signal

SOFTER = 0.1  # 20 dB less
FLOOR_METHOD = "always the same digit"


def measure(recordings: Recordings, model: str, url: str) -> tuple[Metric, ...]:
    """Return the accuracy on recordings as they are, 20 dB softer, and when only their first half is heard."""
    heard = {
        "fsdd_test_accuracy": recordings.signals,
        "fsdd_test_accuracy_20_db_softer": tuple(signal * SOFTER for signal in recordings.signals),
        "fsdd_test_accuracy_of_first_halves": tuple(signal[: len(signal) // 2] for signal in recordings.signals),
    }
    floor = float(np.bincount(recordings.digits).max() / len(recordings.digits))
    return tuple(
        Metric(name=name, value=_accuracy(url, model, signals, recordings), floor=floor, floor_method=FLOOR_METHOD)
        for name, signals in heard.items()
    )


def _accuracy(url: str, model: str, signals: tuple[Signal, ...], recordings: Recordings) -> float:
    results = ask(url, "/v1/classify", "items", [{"audio": encoded(signal)} for signal in signals], model=model)
    answers = [DIGITS.index(result["label"]) for result in results]
    return float(np.mean(np.array(answers) == recordings.digits))


def encoded(signal: Signal) -> str:
    """Return the signal as a WAV file of 16 bits in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes((signal * FULL_SCALE).round().astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode()


def unheard_speaker(recipe: Recipe, recordings: Recordings, speaker: str, runs_dir: Path, seed: int = 0) -> float:
    """Train the recipe on the other speakers alone; return the accuracy on all recordings of `speaker`.

    It is measured under PyTorch, for nothing is published. Checkpoints go to `runs_dir/<recipe>-without-<speaker>/`.
    """
    others = recordings.by(*{*recordings.speakers} - {speaker})

    def prepare(settings: Settings, seed: int) -> DigitModule:
        return DigitModule(settings, others.part("train"), others.part("held out"), seed)

    without = replace(recipe, name=f"{recipe.name}-without-{speaker}", kind=replace(recipe.kind, prepare=prepare))
    module = fit(without, seed=seed, resume=False, runs_dir=runs_dir).module
    assert isinstance(module, DigitModule)
    with torch.no_grad():
        right = [
            module.scores(frames, lengths).argmax(1) == digits
            for frames, lengths, digits in recordings.by(speaker).batches(VALIDATION_ROWS)
        ]
    return float(torch.cat(right).float().mean())
