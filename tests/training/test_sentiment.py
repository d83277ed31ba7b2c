"""The sentiment recipes on a treebank of a few phrases: training learns, publishing serves, parity holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.contract import read_manifest
from training import cli, data, parity, sentiment
from training.data import PublicFile
from training.export import export
from training.sentiment_network import LiveSentimentNetwork, SentimentNetwork
from training.text import LABELS

PHRASES = [(1, "a good film"), (0, "a bad film"), (1, "good , very good"), (0, "not good"), (0, "very , very bad")]
VOCABULARY = 50
SMALL: dict[str, Any] = {"width": 4, "hidden": 5, "layers": 2, "dropout": 0.4, "word_dropout": 0.1}


@pytest.fixture
def treebank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of the same few phrases, where the recipes look for them."""
    monkeypatch.setenv(data.VARIABLE, str(tmp_path))
    (tmp_path / "sst2").mkdir()
    content = "label\tsentence\n" + "".join(f"{label}\t{text}\n" for label, text in PHRASES)
    for name in (sentiment.TRAIN, sentiment.DEV, sentiment.TEST):
        (tmp_path / name).write_text(content)
        monkeypatch.setitem(data.FILES, name, PublicFile(hashlib.sha256(content.encode()).hexdigest(), "this test"))


@pytest.mark.parametrize("make", [SentimentNetwork, LiveSentimentNetwork])
def test_sentiment_networks_export_within_parity(make: Any) -> None:
    """Both networks give the same scores under ONNX, in any batch, any padding and any chunks."""
    servable = sentiment.servable(make(VOCABULARY, **SMALL), VOCABULARY)
    measured = parity.measure(servable, export(servable))
    measured.require()
    assert (measured.chunks_vs_whole is not None) == (make is LiveSentimentNetwork)


@pytest.mark.usefixtures("treebank")
@pytest.mark.parametrize(("name", "task"), [("sentiment", "sentiment"), ("sentiment-live", "step")])
def test_sentiment_recipes_train_and_publish(tmp_path: Path, name: str, task: str) -> None:
    """Either recipe goes from phrases to a served version that declares its tokenizer, labels and figures."""
    options = ["--epochs", "1", "--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    result = CliRunner().invoke(cli.app, ["train", name, *options])
    assert result.exit_code == 0, result.output

    manifest = read_manifest(tmp_path / "models" / name / "1")
    assert (manifest.task, manifest.streamable) == (task, task == "step")
    assert manifest.outputs[0].labels == LABELS
    assert manifest.text is not None
    assert manifest.text.polarity == (-1.0, 1.0)
    assert manifest.provenance is not None
    floors = {metric.name: metric.floor for metric in manifest.provenance.metrics}
    assert floors == {"sst2_dev_accuracy": 0.6, "sst2_test_accuracy": 0.6}
    assert [source.name for source in manifest.provenance.data] == [sentiment.TRAIN, sentiment.DEV, sentiment.TEST]
