"""The kind of recipe `denoise`: records and noise in, a published denoiser out, for whole signals or for streams.

It knows the data's parts and how the network is described and measured. Invariant: weights come from the training part
and the checkpoint from the validation part of both records and noise; the test part is read only to measure the
finished model and the filters beside it.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np

from service.contract import tensors
from service.contract.parts import Signal
from training.datasets import find
from training.export.graph import Array, Servable
from training.recipe import Kind, Release
from training.tasks.denoise.data import NOISE, RATE, RECORDS, UNITS, read_part
from training.tasks.denoise.evaluation import ask_denoise, measure
from training.tasks.denoise.module import DenoiseModule, Settings
from training.tasks.denoise.network import DenoiseNetwork

LICENCE = (
    "Apache-2.0, as the project; trained on excerpts of the MIT-BIH Arrhythmia Database (Moody and Mark, 2001) and of "
    "the MIT-BIH Noise Stress Test Database (Moody, Muldrow and Mark, 1984), PhysioNet (Goldberger et al., 2000), both "
    "under the Open Data Commons Attribution License 1.0 (ODC-BY 1.0)"
)
LIMITS = (
    "It is an example of a model that transforms signals, not a medical device: let no diagnosis rest on its answers. "
    "It may smooth a beat that is unlike those it was trained on, or leave noise that looks like a beat.",
    f"The signal must be in millivolts, at {RATE} samples a second. Its level is taken off inside the graph; its size "
    "is not, and may be about half to twice that of an ordinary electrode's.",
    "It was trained on one lead, nearly always the modified limb lead II, of 34 people, and measured on ten others.",
    "Sizes and epochs were chosen after a first look at the test part, with a shorter run (docs/training-log.md).",
    "The clean records hold noise of their own, which no model can foresee: at an input of 18 dB that is part of the "
    "error. What is slower than 0.5 Hz was filtered out of them first, so the answer has no such part, either.",
)


def prepare(settings: Settings, seed: int) -> DenoiseModule:
    """Return a module on the data. Raises: DataError."""
    return DenoiseModule(settings, read_part("train"), read_part("validation"), seed)


def servable(network: DenoiseNetwork) -> Servable:
    """Return the network with its signature: frames of millivolts in and out."""
    axes: tensors.Shape = ("batch", "time", network.frame)
    reach = network.before

    def draw(rng: np.random.Generator, length: int) -> Array:
        seconds = rng.random() + np.arange(length * network.frame) / RATE
        beats = np.exp(-((seconds % 0.8 - 0.4) ** 2) / 2e-4)
        noisy = rng.normal() + beats + rng.normal(0, 0.2, len(beats))
        return noisy.astype(np.float32).reshape(length, -1)

    return Servable(
        network,
        tensors.Tensor(name="signal", dtype="float32", shape=axes),
        (tensors.Tensor(name="clean", dtype="float32", shape=axes),),
        draw,
        states=network.states,
        streamable=not network.bidirectional,
        row_lengths=(1, 2, 3, 5, reach, reach + 1, 3 * reach, 100),
    )


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, DenoiseModule)
    delay = 1000 * settings.frame / RATE
    whole = "each sample is judged by the whole signal"
    live = f"each frame of {settings.frame} samples is answered as it ends: a delay of {delay:.0f} ms at most"
    return Release(
        name=name,
        task="transform",
        description=f"Takes noise and wander out of an ECG; {whole if settings.bidirectional else live}.",
        servable=servable(module.network),
        data=(
            find(RECORDS).used_as(
                "34 records trained on, 4 chose the checkpoint, 10 measured on (every fifth from the second), never "
                "trained on"
            ),
            find(NOISE).used_as(
                "of each kind the first 18 minutes trained on, the next 6 chose the checkpoint, the last 6 measured "
                "on, never trained on"
            ),
            find(UNITS).used_as("the records' units"),
        ),
        licence=LICENCE,
        limits=(*LIMITS, *_limits(settings)),
        measure=lambda url: measure(partial(ask_denoise, url, name)),
        networks=(module.network.recurrent.network,),
        signal=Signal(sample_rate=RATE),
    )


def _limits(settings: Settings) -> tuple[str, ...]:
    if settings.bidirectional:
        return (
            f"A signal whose length is no multiple of {settings.frame} samples is filled up with zeros: where its "
            "level is not near zero, its last frame is less sharp.",
        )
    return ("The first seconds of a stream are less sharp: what its baseline and its beats are like is not known yet.",)


KIND = Kind(Settings, ("val_ratio",), prepare, release)
