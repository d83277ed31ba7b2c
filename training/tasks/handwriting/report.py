"""What is worth a picture of a model of handwriting: words that it writes, and one word ever tidier.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: the words are fixed, not chosen by how they came out.
"""

from __future__ import annotations

from service.contract.manifest import Manifest
from training.report.pages import Picture, Table
from training.report.plots import draw_strokes
from training.tasks.handwriting.data import strokes_of
from training.tasks.handwriting.evaluation import BIAS, write

WORDS = ("mother", "friend", "quality", "history", "kettle", "bridge", "yellow", "jump", "expert", "wave")
WORD = "handwriting"  # which nobody wrote
BIASES = (0, 0.5, 1, 2, 3, 5)


def report_handwriting(url: str, manifest: Manifest) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a model of handwriting."""
    model = manifest.name
    words = {word: strokes_of(points) for word, points in zip(WORDS, write(url, model, WORDS, BIAS), strict=True)}
    by_bias = {f"bias {bias:g}": strokes_of(write(url, model, [WORD], bias)[0]) for bias in BIASES}
    return (
        Picture("words", f"Ten words, each written once, at bias {BIAS:g}.", draw_strokes(words, columns=5)),
        Picture(
            "biases",
            f'"{WORD}", a word that no writer wrote, from bias 0, as the network draws, to ever likelier points.',
            draw_strokes(by_bias, columns=2),
        ),
    ), ()
