"""The kind of recipe `digits`: recordings of spoken digits in, a published model that hears them out.

It knows the data, and how the networks are described. Invariant: weights come from recordings 10 to 49 of each speaker
and digit, the checkpoint from 5 to 9; 0 to 4, the known test part, are read only to measure the finished model through
the service.
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
from training.tasks.digits.evaluation import measure
from training.tasks.digits.features import FRAME, RATE
from training.tasks.digits.module import FIGURES, DigitModule, Settings
from training.tasks.digits.network import DIGITS, DigitNetwork, LiveDigitNetwork
from training.tasks.digits.recordings import Recordings

DATA = "fsdd/fsdd.npz"
LICENCE = (
    "Apache-2.0, as the project; trained on the Free Spoken Digit Dataset (Jakobovski et al.), which is under CC BY-SA "
    "4.0"
)
DESCRIPTION = "Says which English digit a recording holds, hearing it whole and in both directions."
LIVE_DESCRIPTION = "Says every 10 milliseconds of a sound which English digit it holds so far."
NEW_SPEAKERS_LIMIT = (
    "New speakers are understood worse: `digits`, trained for 16 epochs on five of the six, named 81.4 % of the "
    "sixth's digits (george 75.0, jackson 80.6, lucas 82.8, nicolas 77.8, theo 94.4, yweweler 78.0; "
    "`unheard_speaker` in training/tasks/digits/evaluation.py)."
)
LIMITS = (
    "Six speakers, who each said every digit fifty times, are all it was trained on, and its figures are on further "
    "recordings of the same six.",
    NEW_SPEAKERS_LIMIT,
    "It expects a single digit: of other words, of several digits and of silence it names a digit all the same.",
)


def read() -> Recordings:
    """Read the data set. Raises: DataError."""
    return Recordings.read(find(DATA).path)


def prepare(settings: Settings, seed: int) -> DigitModule:
    """Return a module on the data. Raises: DataError."""
    recordings = read()
    return DigitModule(settings, recordings.part("train"), recordings.part("held out"), seed)


def draw_sound(rng: np.random.Generator, length: int) -> Array:
    """Draw a chord in noise for the parity suite, somewhere between a whisper and a shout.

    Shapes: returns [length, FRAME] float32.
    """
    times = np.arange(length * FRAME) / RATE
    pitches = rng.uniform(80, RATE / 2, 5)
    chord = np.sin(2 * np.pi * pitches[:, None] * times).mean(0) + rng.normal(0, 0.1, len(times))
    loudness: float = 10 ** rng.uniform(-2, -0.5)
    return np.asarray(loudness * chord, np.float32).reshape(length, FRAME)


def servable(network: DigitNetwork | LiveDigitNetwork) -> Servable:
    """Return the network with its signature."""
    live = isinstance(network, LiveDigitNetwork)
    shape: tensors.Shape = ("batch", "time", len(DIGITS)) if live else ("batch", len(DIGITS))
    return Servable(
        network,
        tensors.Tensor(name="frames", dtype="float32", shape=("batch", "time", FRAME)),
        (tensors.Tensor(name="scores", dtype="float32", shape=shape, labels=DIGITS),),
        draw_sound,
        states=network.states if isinstance(network, LiveDigitNetwork) else (),
        streamable=live,
        row_lengths=(1, 2, 3, 5, 8, 13, 21, 100),
    )


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, DigitModule)
    live = settings.network == "live"
    return Release(
        name=name,
        task="classify",
        description=LIVE_DESCRIPTION if live else DESCRIPTION,
        servable=servable(module.network),
        data=(
            find(DATA).used_as(
                "recordings 10 to 49 of each speaker and digit trained on, 5 to 9 chose the checkpoint, 0 to 4 (the "
                "test part) measured on; CC BY-SA 4.0"
            ),
        ),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(measure, read().part("test"), name),
        networks=(module.network.recurrent.network,),
        signal=Signal(sample_rate=RATE),
    )


KIND = Kind(Settings, FIGURES, prepare, release)
