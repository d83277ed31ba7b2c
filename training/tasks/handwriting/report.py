"""What is worth a picture of a model of handwriting: words that it writes, and one word ever tidier.

It asks whatever writes; drawing and files it leaves to `training.report`. Invariant: the words are fixed, not chosen by
how they came out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.report.pages import Picture
from training.report.plots import draw_strokes
from training.tasks.handwriting.data import Points, strokes_of

Writer = Callable[[Sequence[str], float], list[Points]]  # from texts and a bias to each text's points

WORDS = ("mother", "friend", "quality", "history", "kettle", "bridge", "yellow", "jump", "expert", "wave")
WORD = "handwriting"  # which nobody wrote
BIAS = 1.0
BIASES = (0, 0.5, 1, 2, 3, 5)


def report_handwriting(write: Writer) -> tuple[Picture, ...]:
    """Report on what writes."""
    words = {word: strokes_of(points) for word, points in zip(WORDS, write(WORDS, BIAS), strict=True)}
    by_bias = {f"bias {bias:g}": strokes_of(write([WORD], bias)[0]) for bias in BIASES}
    return (
        Picture("words", f"Ten words, each written once, at bias {BIAS:g}.", draw_strokes(words, columns=5)),
        Picture(
            "biases",
            f'"{WORD}", a word that no writer wrote, from bias 0, as the network draws, to ever likelier points.',
            draw_strokes(by_bias, columns=2),
        ),
    )
