"""What is worth a picture of a model of spoken digits: what it mixes up, how sure it may be, how soon it knows.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: all recordings of a part are asked, and each is cut at the same shares of its length.
"""

from __future__ import annotations

import numpy as np

from service.contract.manifest import Manifest
from training.evaluate import ask
from training.report.pages import Picture, Table
from training.report.plots import draw_by_share, draw_confusion, draw_reliability
from training.tasks.digits.evaluation import encoded
from training.tasks.digits.network import DIGITS
from training.tasks.digits.recordings import Recordings

SHARES = np.linspace(0.1, 1.0, 10)


def report_digits(
    url: str, manifest: Manifest, recordings: Recordings, part: str
) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a model of `/v1/classify`; `part` names the recordings."""
    truth = np.array(recordings.digits)
    by_share = []
    for share in SHARES:
        items = [{"audio": encoded(signal[: round(share * len(signal))])} for signal in recordings.signals]
        results = ask(url, "/v1/classify", "items", items, model=manifest.name)
        answered = np.array([DIGITS.index(result["label"]) for result in results])
        by_share.append((answered == truth).mean())
    counts = np.zeros((len(DIGITS), len(DIGITS)))  # of the last answers: those to whole recordings
    np.add.at(counts, (truth, answered), 1)
    scores = np.array([result["score"] for result in results])
    return (
        Picture("confusion", f"What was heard for which digit: {part}.", draw_confusion(counts, DIGITS)),
        Picture(
            "reliability",
            f"How often an answer of a score is right: {part}. On the dotted line a score of 0.9 is right nine "
            "times in ten; below it the model is too sure of itself.",
            draw_reliability(scores, answered == truth),
        ),
        Picture(
            "while-listening",
            f"Accuracy on the {part} when only the first part of each recording has been heard.",
            draw_by_share(SHARES, np.array(by_share), "heard, % of the recording"),
        ),
    ), ()
