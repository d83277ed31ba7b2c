"""The models under models/, through a real server: what their manifests claim holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, Server

from training.catalogue import names

pytestmark = pytest.mark.old_cpu

MODELS = ROOT / "models"
VERSIONS = sorted(file.parent for file in MODELS.glob("*/*/manifest.json"))
PARITY = 1e-5  # max abs, the bound that a model is published under
MOST_BYTES = 12_000_000
TEXTS = [
    "A gorgeous, witty, seductive movie.",
    "It's not that I didn't like it; I loathed every minute of it!",
    "fine",
    "the acting is good but the story goes nowhere and takes for ever to get there",
]
CUTS = ((0, 1), (1, 60), (60, 61), (61, 200))
RNG = np.random.default_rng(5)
SERIES = [np.cumsum(RNG.normal(size=length)).round(4).tolist() for length in (16, 40, 200, 512)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(MODELS, tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


def ask(server: Server, path: str, **body: object) -> list[dict]:
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_every_recipe_s_model_is_there_once() -> None:
    """Nothing was released yet, so that older versions would only make the service larger."""
    found = [directory.parent.name for directory in VERSIONS]
    assert {*found} >= {*names()}
    assert len({*found}) == len(found)


@pytest.mark.parametrize("directory", VERSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_graph_tells_nothing_of_the_machine_that_made_it(directory: Path) -> None:
    """The exporter notes file and line for each node: a machine's paths, and other bytes for the same weights."""
    graph = onnx.load(directory / "model.onnx").graph
    assert not [part.name for part in (*graph.node, *graph.value_info) if part.metadata_props or part.doc_string]


@pytest.mark.parametrize("directory", VERSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_committed_model_is_small_and_says_where_it_comes_from(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    provenance = manifest["provenance"]
    assert (directory / manifest["file"]).stat().st_size < MOST_BYTES
    assert provenance["parity_max_abs"] <= PARITY
    assert provenance["command"].startswith("make train-") or "python -m training" in provenance["command"]
    assert provenance["data"]
    assert all(source["sha256"] for source in provenance["data"] if not source["name"].startswith("generated"))
    assert any(metric["floor"] is not None for metric in provenance["metrics"])
    card = (directory / "card.md").read_text()
    assert all(f"| {metric['name']} | {metric['value']:.4g} " in card for metric in provenance["metrics"])


def test_texts_score_in_a_batch_as_alone(served: Server) -> None:
    together = ask(served, "/v1/sentiment", inputs=TEXTS, scores="all")
    for text, result in zip(TEXTS, together, strict=True):
        (alone,) = ask(served, "/v1/sentiment", inputs=[text], scores="all")
        assert alone["scores"] == pytest.approx(result["scores"], abs=PARITY)


def test_series_forecast_in_a_batch_as_alone(served: Server) -> None:
    together = ask(served, "/v1/forecast", series=[{"values": values} for values in SERIES], horizon=48)
    for values, result in zip(SERIES, together, strict=True):
        (alone,) = ask(served, "/v1/forecast", series=[{"values": values}], horizon=48)
        assert alone["mean"] == pytest.approx(result["mean"], abs=PARITY)
        for level, quantile in alone["quantiles"].items():
            assert quantile == pytest.approx(result["quantiles"][level], abs=PARITY)
        bands = np.array(list(result["quantiles"].values()))
        assert (np.diff(bands, axis=0) >= 0).all()


@pytest.mark.parametrize(
    ("model", "output", "chunks"),
    [
        ("sentiment-live", "scores", [{"text": text} for text in ("A gorgeous , witty", "but", "not a good movie .")]),
        ("forecast-live", "quantiles", [{"values": SERIES[2][a:b]} for a, b in CUTS]),
        ("forecast-live", "anomaly", [{"values": SERIES[2][a:b]} for a, b in CUTS]),
        ("charlm", "probabilities", [{"text": text} for text in ("O Rome", "o, Romeo! ", "where", "fore\n\nart thou")]),
    ],
)
def test_a_stream_through_tokens_equals_the_whole(served: Server, model: str, output: str, chunks: list[dict]) -> None:
    kind = next(iter(chunks[0]))
    parts = [chunk[kind] for chunk in chunks]
    between = "" if model == "charlm" else " "
    joined = between.join(parts) if kind == "text" else [value for part in parts for value in part]
    options = {"model": model, "return": "all"}
    (whole,) = ask(served, "/v1/step", items=[{kind: joined}], **options)
    state, made = {}, []
    for chunk in chunks:
        (result,) = ask(served, "/v1/step", items=[{**state, **chunk}], **options)
        state = {"state": result["state"]}
        made += result["outputs"][output]
    assert result["step"] == whole["step"]
    np.testing.assert_allclose(made, whole["outputs"][output], rtol=0, atol=PARITY)


def test_streams_of_unequal_length_step_together_as_alone(served: Server) -> None:
    options = {"model": "forecast-live", "return": "all"}
    together = ask(served, "/v1/step", items=[{"values": values} for values in SERIES], **options)
    for values, result in zip(SERIES, together, strict=True):
        (alone,) = ask(served, "/v1/step", items=[{"values": values}], **options)
        np.testing.assert_allclose(alone["outputs"]["quantiles"], result["outputs"]["quantiles"], rtol=0, atol=PARITY)


def test_channels_forecast_in_a_batch_as_alone(served: Server) -> None:
    windows = RNG.normal(size=(3, 720, 7)).cumsum(axis=1).round(3)
    options = {"model": "segrnn", "horizon": 720, "levels": [80]}
    together = ask(served, "/v1/forecast", series=[{"values": window.tolist()} for window in windows], **options)
    for window, result in zip(windows, together, strict=True):
        (alone,) = ask(served, "/v1/forecast", series=[{"values": window.tolist()}], **options)
        assert alone["channels"][-1] == "OT"
        np.testing.assert_allclose(alone["mean"], result["mean"], rtol=1e-5, atol=PARITY)
        for level, quantile in alone["quantiles"].items():
            np.testing.assert_allclose(quantile, result["quantiles"][level], rtol=1e-5, atol=PARITY)


def test_messages_are_told_apart_by_the_endpoint_of_sentiment(served: Server) -> None:
    texts = ["URGENT! You have won a 1 week FREE membership, call 09061701461 now", "ok, see you at home then"]
    spam, ham = ask(served, "/v1/sentiment", inputs=texts, model="spam")
    assert (spam["label"], ham["label"]) == ("spam", "ham")


def test_characters_are_foreseen_one_after_the_other(served: Server) -> None:
    """After "the kin" a "g" is likely; the probabilities are of characters, in the order that the model names."""
    labels = served.client.get("/v1/models/charlm").json()["outputs"][0]["labels"]
    (result,) = ask(served, "/v1/step", model="charlm", items=[{"text": "Where is the kin"}])
    probabilities = result["outputs"]["probabilities"]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert labels[int(np.argmax(probabilities))] == "g"


def test_text_typed_by_people_reads_as_the_training_data_s_tokens(served: Server) -> None:
    typed, split = ask(served, "/v1/sentiment", inputs=["I DON'T think it's bad.", "i do n't think it 's bad ."])
    assert typed == {**split, "index": 0}
