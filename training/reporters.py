"""Who reports on which of the project's models, and on what data.

It knows names; the reports themselves are their modules'. Invariant: every part asked here is one that the model's own
card says it was measured on.
"""

from __future__ import annotations

from functools import partial

from service.contract import Manifest
from training.charlm import SHAKESPEARE
from training.charlm_training import Corpus
from training.data import find
from training.forecast_report import report_forecast
from training.report import Picture, Reporter, Table
from training.segrnn_report import report_segrnn
from training.sentiment import TEST
from training.spam import read_parts
from training.stream_report import report_live
from training.text import read_phrases
from training.text_report import report_characters, report_classifier, report_live_classifier

Reported = tuple[tuple[Picture, ...], tuple[Table, ...]]


def _reviews(live: bool, url: str, manifest: Manifest) -> Reported:
    report = report_live_classifier if live else report_classifier
    return report(url, manifest, *read_phrases(find(TEST).path), "SST-2 test")


def _messages(url: str, manifest: Manifest) -> Reported:
    test = read_parts().test
    return report_classifier(url, manifest, test.texts, test.labels, "SMS Spam test part")


def _play(url: str, manifest: Manifest) -> Reported:
    return report_characters(url, manifest, Corpus.of(find(SHAKESPEARE).path.read_text()).validation)


REPORTERS: dict[str, Reporter] = {
    "sentiment": partial(_reviews, False),
    "sentiment-live": partial(_reviews, True),
    "spam": _messages,
    "forecast": report_forecast,
    "forecast-live": report_live,
    "segrnn": report_segrnn,
    "charlm": _play,
}
