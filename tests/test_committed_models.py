"""The models under models/, through a real server: what their manifests claim holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import ROOT, Server

from baton_client import Client
from training.catalogue import names

pytestmark = pytest.mark.old_cpu

MODELS = ROOT / "models"
VERSIONS = sorted(file.parent for file in MODELS.glob("*/*/manifest.json"))
UNPUBLISHED = {
    "caption",  # its data's licence lets nobody publish it
    "translate-multi30k",  # its data's licence lets nobody publish it
}
MADE = ("generated", "synthetic")  # data that is drawn by seed has no file, and no hash
PARITY = 1e-5  # max abs, the bound that a model is published under
MAX_BYTES = 12_000_000
TEXTS = [
    "A gorgeous, witty, seductive movie.",
    "It's not that I didn't like it; I loathed every minute of it!",
    "fine",
    "the acting is good but the story goes nowhere and takes for ever to get there",
]
CUTS = ((0, 1), (1, 60), (60, 61), (61, 200))
RNG = np.random.default_rng(5)
DAY = 10 * np.sin(2 * np.pi * np.arange(720) / 24)  # an amplitude of 10 by the hour
LEVELS = (1e6, 1e8, 1.7e9, -1e10)
SERIES = [np.cumsum(RNG.normal(size=length)).round(4).tolist() for length in (16, 40, 200, 512)]
SOUND = np.random.default_rng(6).uniform(-0.3, 0.3, (200, 80)).tolist()  # frames of noise


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(MODELS, tmp_path_factory.mktemp("state"), BATON_TIMEOUT_MS="100000")
    yield server
    server.stop()


def ask(server: Server, path: str, **body: object) -> list[dict]:
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_every_recipe_s_model_is_there_once() -> None:
    """Nothing was released yet, so that older versions would only make the service larger."""
    found = [directory.parent.name for directory in VERSIONS]
    assert UNPUBLISHED.isdisjoint(found)
    assert {*found} | UNPUBLISHED >= {*names()}
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
    assert (directory / manifest["file"]).stat().st_size < MAX_BYTES
    assert provenance["parity_max_abs"] <= PARITY
    assert provenance["command"].startswith("make train-") or "python -m training" in provenance["command"]
    assert provenance["data"]
    assert all(source["sha256"] for source in provenance["data"] if not source["name"].startswith(MADE))
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
        ("forecast-live", "likelihood", [{"values": SERIES[2][a:b]} for a, b in CUTS]),
        ("digits-live", "scores", [{"inputs": SOUND[a:b]} for a, b in CUTS]),
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


def test_a_forecast_at_any_level_is_the_one_at_zero(served: Server) -> None:
    """Where float64 carries the history; where it does not, the answer says so."""
    history, future = DAY[:512], DAY[512:560]
    carried, lost = (0.0, *LEVELS), (1e15, -1e17, 1e19)
    series = [{"values": (history + level).tolist()} for level in (*carried, *lost)]
    results = ask(served, "/v1/forecast", series=series, horizon=48)
    errors, widths = [], []
    for level, result in zip(carried, results, strict=False):
        errors.append(np.abs(np.array(result["mean"]) - level - future).mean())
        widths.append(np.subtract(result["quantiles"]["0.975"], result["quantiles"]["0.025"]))
        assert result["warnings"] == []
    assert max(errors) <= 1.1 * errors[0] < 0.1
    np.testing.assert_allclose(widths, [widths[0]] * len(widths), rtol=0.01)
    for result in results[len(carried) :]:
        assert "subtract the level" in result["warnings"][0]


def test_channels_at_any_level_are_forecast_as_those_at_zero(served: Server) -> None:
    window = RNG.normal(size=(720, 7)).cumsum(axis=0)
    levels = np.array([0, *LEVELS, 1, -1e8])
    options = {"model": "segrnn", "horizon": 720, "levels": [80]}
    plain, moved = ask(
        served, "/v1/forecast", series=[{"values": (window + b).tolist()} for b in (0, levels)], **options
    )
    np.testing.assert_allclose(np.subtract(moved["mean"], levels), plain["mean"], rtol=0, atol=PARITY)
    for level, quantile in plain["quantiles"].items():
        np.testing.assert_allclose(np.subtract(moved["quantiles"][level], levels), quantile, rtol=0, atol=PARITY)


def test_a_stream_at_any_level_is_judged_as_at_zero(served: Server) -> None:
    """A stream that repeats itself raises no alarm at 1e8, where float32 would have steps of 8."""
    items = [{"values": (DAY[:600] + level).tolist()} for level in (0, *LEVELS)]
    plain, *moved = ask(served, "/v1/step", model="forecast-live", items=items, **{"return": "all"})
    settled = slice(300, None)
    assert np.sum(np.array(plain["outputs"]["anomaly"])[settled] > 1) == 0
    assert np.max(plain["outputs"]["likelihood"]) < 0.45
    for level, result in zip(LEVELS, moved, strict=True):
        np.testing.assert_allclose(result["outputs"]["anomaly"], plain["outputs"]["anomaly"], rtol=0.01, atol=0.01)
        away = np.subtract(result["outputs"]["quantiles"], level)[1:]
        np.testing.assert_allclose(away, plain["outputs"]["quantiles"][1:], rtol=0, atol=1e-3)


GLITCHES = (-9999.0, 40.0, 1e3, 1e6, 1e12, -1e15, 1e30, -1.7e308)
JUMP, LATER = 20.0, 50  # twice the amplitude, so many observations after the glitch


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_one_glitch_does_not_blind_the_live_forecaster(served: Server, noise: float) -> None:
    """A true jump fifty observations later keeps half of its score, wherever in a session the glitch stands."""
    streams: list[np.ndarray] = []
    for at in (0, 1, 5, 24, 100, 300, 500):
        values = DAY[: at + LATER + 1] + 20 + noise * np.random.default_rng(at).normal(size=at + LATER + 1)
        values[-1] += JUMP
        streams += [values, *(np.where(np.arange(len(values)) == at, glitch, values) for glitch in GLITCHES)]
    results = ask(served, "/v1/step", model="forecast-live", items=[{"values": values.tolist()} for values in streams])
    scores = np.reshape([result["outputs"]["anomaly"] for result in results], (-1, 1 + len(GLITCHES)))
    assert (scores[:, 0] > 1).all()
    assert (scores[:, 1:] >= 0.5 * scores[:, :1]).all(), scores / scores[:, :1]


def test_one_glitch_does_not_silence_what_comes_behind_it(served: Server) -> None:
    """A jump well out of the range is worth a report a hundred observations after a glitch that was."""
    streams = [np.where(np.arange(401) == 300, glitch, DAY[:401]) for glitch in GLITCHES]
    items = [{"values": [*stream[:-1].tolist(), 3 * JUMP]} for stream in streams]
    results = ask(served, "/v1/step", model="forecast-live", items=items, **{"return": "all"})
    likelihoods = np.array([result["outputs"]["likelihood"] for result in results])
    assert (likelihoods[:, [300, 400]] > 0.45).all()
    assert (likelihoods[:, 301:400] < 0.45).all()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_an_observation_that_no_float_can_hold_is_refused_and_leaves_the_session_as_it_was(
    served: Server, number: str
) -> None:
    (before,) = ask(served, "/v1/step", model="forecast-live", items=[{"values": DAY[:100].tolist()}])
    item = f'{{"state": "{before["state"]}", "values": [{number}]}}'
    text = f'{{"model": "forecast-live", "items": [{item}]}}'
    answer = served.client.post("/v1/step", content=text, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_finite")
    items = [{"state": before["state"], "values": DAY[100:110].tolist()}, {"values": DAY[:110].tolist()}]
    after, whole = ask(served, "/v1/step", model="forecast-live", items=items)
    np.testing.assert_allclose(after["outputs"]["quantiles"], whole["outputs"]["quantiles"], rtol=0, atol=PARITY)


def test_going_on_from_the_token_before_a_glitch_is_as_if_it_had_not_been(served: Server) -> None:
    """The example of docs/state.md, as it stands there."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "state.md").read_text(), re.DOTALL)
    page: dict[str, Any] = {}
    exec(example, page)
    clean = DAY[:60].tolist()
    with Client(str(served.url)) as client:
        scores, undisturbed = page["watch"](client, [*clean[:50], -9999.0, *clean[50:]]), page["watch"](client, clean)
    assert scores.pop(50) == 10
    assert scores == pytest.approx(undisturbed, abs=1e-4)


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


def test_sentences_are_translated_in_a_batch_as_alone(served: Server) -> None:
    sentences = ["I am cold.", "Where did you buy the book that you gave me yesterday?", "Thank you."]
    together = ask(served, "/v1/translate", inputs=sentences)
    alone = [result for sentence in sentences for result in ask(served, "/v1/translate", inputs=[sentence])]
    assert [result["text"] for result in together] == [result["text"] for result in alone]
    assert together[2]["text"].startswith("Merci")


def test_a_word_written_in_two_requests_is_the_word_written_at_once(served: Server) -> None:
    """The pen ends by itself; another word beside it changes nothing."""
    item = {"condition": {"text": "mother"}}
    options = {"model": "handwriting", "seed": 3, "bias": 2.0}
    beside, _ = ask(served, "/v1/generate", items=[item, {"condition": {"text": "quality"}}], max_steps=300, **options)
    (whole,) = beside["choices"]
    assert whole["finish"] == "end"
    (begun,) = ask(served, "/v1/generate", items=[item], max_steps=20, **options)
    (first,) = begun["choices"]
    (rest,) = ask(served, "/v1/generate", items=[{"state": first["state"]}], max_steps=300, **options)
    points = first["points"] + rest["choices"][0]["points"]
    np.testing.assert_allclose(points, whole["points"], atol=1e-3)
