"""The figures in the committed manifests, measured again through the service on the real data, and their targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, Server

from service.contract import Metric
from training import forecast, sentiment, spam
from training.data import VARIABLE, find

SAME = 0.005  # relative: other processors round otherwise, and a few answers lie on the edge
Measure = Callable[[str], tuple[Metric, ...]]


def sentiment_measure(label: Callable[[str, str, list[str]], list[str]], model: str) -> Measure:
    parts = {"train": sentiment.TRAIN, "dev": sentiment.DEV, "test": sentiment.TEST}
    return lambda url: sentiment.measure(partial(label, model), {part: find(name) for part, name in parts.items()}, url)


def spam_measure(url: str) -> tuple[Metric, ...]:
    return spam.measure("spam", spam.Messages.read(find(spam.MESSAGES).path).split(spam.SPLIT_SEED), url)


MEASURES: dict[str, tuple[Measure, str, Callable[[float, float], bool]]] = {  # figure, and whether value and floor do
    "sentiment": (
        sentiment_measure(sentiment.ask_sentiment, "sentiment"),
        "sst2_test_accuracy",
        lambda value, _: value >= 0.83,
    ),
    "sentiment-live": (
        sentiment_measure(sentiment.ask_sentiment_live, "sentiment-live"),
        "sst2_test_accuracy",
        lambda value, _: value >= 0.79,
    ),
    "spam": (spam_measure, "spam_test_f1", lambda value, floor: value >= max(0.95, floor)),
    "forecast": (forecast.measure_forecast, "m4_weekly_test_mase", lambda value, floor: value <= 0.95 * floor),
    "forecast-live": (forecast.measure_live, "etth1_test_pinball", lambda value, floor: value <= 0.90 * floor),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(ROOT / "models", tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


@pytest.mark.parametrize("name", MEASURES)
def test_a_model_s_figures_are_those_of_its_manifest_and_reach_their_target(
    name: str, served: Server, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(data_dir))
    measure, target, is_reached = MEASURES[name]
    manifest = json.loads((ROOT / "models" / name / "1" / "manifest.json").read_text())
    claimed = {metric["name"]: metric for metric in manifest["provenance"]["metrics"]}
    found = {metric.name: metric for metric in measure(served.url or "")}
    assert found.keys() == claimed.keys()
    for figure, metric in found.items():
        assert metric.value == pytest.approx(claimed[figure]["value"], rel=SAME)
        floor = claimed[figure].get("floor")
        assert metric.floor == (floor if floor is None else pytest.approx(floor, rel=SAME))
    assert found[target].floor is not None
    assert is_reached(found[target].value, found[target].floor)
