"""Who reports on which of the project's models, and on what data.

It knows names; the tasks draw the reports. Invariant: a model is asked only about parts of the data that its card says
it was measured on.
"""

from __future__ import annotations

from functools import partial

from service.contract.manifest import Manifest
from training.datasets import find
from training.report.pages import Picture, Reporter, Table
from training.tasks.caption.recipe import read_part as read_images
from training.tasks.caption.report import report_captions
from training.tasks.charlm.recipe import read_corpus
from training.tasks.charlm.report import report_characters
from training.tasks.classifier.report import report_classifier, report_live_classifier
from training.tasks.classifier.sentiment import TEST, read_phrases
from training.tasks.classifier.spam import MESSAGES, SPLIT_SEED, Messages
from training.tasks.denoise.report import report_denoise
from training.tasks.digits.recipe import read as read_digits
from training.tasks.digits.report import report_digits
from training.tasks.forecast.report import report_forecast
from training.tasks.forecast_live.report import report_live
from training.tasks.handwriting.report import report_handwriting
from training.tasks.segrnn.report import report_segrnn
from training.tasks.tagger import recipe as tagger
from training.tasks.tagger.report import report_tagger
from training.tasks.tagger.text import read_sentences
from training.tasks.translate.evaluation import by_sentence
from training.tasks.translate.recipe import CORPORA
from training.tasks.translate.report import report_translate

Reported = tuple[tuple[Picture, ...], tuple[Table, ...]]


def _reviews(live: bool, url: str, manifest: Manifest) -> Reported:
    texts, labels = read_phrases(find(TEST).path)
    report = report_live_classifier if live else report_classifier
    return report(url, manifest, texts, labels, "SST-2 test")


def _messages(url: str, manifest: Manifest) -> Reported:
    test = Messages.read(find(MESSAGES).path).split(SPLIT_SEED)["test"]
    return report_classifier(url, manifest, test.texts, test.labels, "SMS Spam test part")


def _play(url: str, manifest: Manifest) -> Reported:
    return report_characters(url, manifest, read_corpus().validation)


def _digits(url: str, manifest: Manifest) -> Reported:
    return report_digits(url, manifest, read_digits().part("test"), "FSDD test part")


def _sentences(url: str, manifest: Manifest) -> Reported:
    return report_tagger(url, manifest, read_sentences(find(tagger.TEST).path), "UD English EWT test")


def _translations(url: str, manifest: Manifest) -> Reported:
    return report_translate(url, manifest, by_sentence(CORPORA["tatoeba"].read("test")), "Tatoeba's test part")


def _images(url: str, manifest: Manifest) -> Reported:
    return report_captions(url, manifest, read_images("test"), "Flickr8k's test part")


REPORTERS: dict[str, Reporter] = {
    "sentiment": partial(_reviews, False),
    "sentiment-live": partial(_reviews, True),
    "spam": _messages,
    "forecast": report_forecast,
    "forecast-live": report_live,
    "segrnn": report_segrnn,
    "charlm": _play,
    "denoise": report_denoise,
    "denoise-live": report_denoise,
    "digits": _digits,
    "digits-live": _digits,
    "tagger": _sentences,
    "tagger-live": _sentences,
    "translate": _translations,
    "handwriting": report_handwriting,
    "caption": _images,
}
