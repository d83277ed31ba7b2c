"""The sentiment recipes on a treebank of a few phrases: training learns, publishing serves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.contract.files import read_manifest
from training import cli, datasets
from training.datasets import PublicFile
from training.tasks.classifier import sentiment
from training.tasks.classifier.text import train_review_words

PHRASES = [(1, "a good film"), (0, "a bad film"), (1, "good , very good"), (0, "not good"), (0, "very , very bad")]


@pytest.fixture
def treebank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of the same few phrases, where the recipes look for them."""
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path))
    (tmp_path / "sst2").mkdir()
    content = "label\tsentence\n" + "".join(f"{label}\t{text}\n" for label, text in PHRASES)
    for name in (sentiment.TRAIN, sentiment.DEV, sentiment.TEST):
        (tmp_path / name).write_text(content)
        monkeypatch.setitem(datasets.FILES, name, PublicFile(hashlib.sha256(content.encode()).hexdigest(), "this test"))


def test_words_without_a_label_of_their_own_are_neutral() -> None:
    """The binary treebank leaves out what is neutral; long phrases count for more, words for less."""
    phrases, labels = ["good", "a good film", "bad"], [1, 1, 0]
    tokenizer = train_review_words(phrases, 100)
    texts = sentiment.training_texts(phrases, labels, tokenizer)
    assert [tokenizer.decode(ids) for ids in texts.ids] == ["good", "a good film", "bad", "a", "film"]
    assert texts.targets.tolist() == [[0, 1], [0, 1], [1, 0], [0.5, 0.5], [0.5, 0.5]]
    assert texts.weights.mean().item() == pytest.approx(1)
    assert (texts.weights[1] / texts.weights[0]).item() == pytest.approx(3**0.5)


@pytest.mark.usefixtures("treebank")
@pytest.mark.parametrize(("name", "task"), [("sentiment", "sentiment"), ("sentiment-live", "step")])
def test_sentiment_recipes_train_and_publish(tmp_path: Path, name: str, task: str) -> None:
    """Either recipe goes from phrases to a served version that declares its tokenizer, labels and figures."""
    options = ["--epochs", "1", "--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    result = CliRunner().invoke(cli.app, ["train", name, *options])
    assert result.exit_code == 0, result.output

    manifest = read_manifest(tmp_path / "models" / name / "1")
    assert (manifest.task, manifest.streamable) == (task, task == "step")
    assert manifest.outputs[0].labels == sentiment.LABELS
    assert manifest.text is not None
    assert manifest.text.polarity == (-1.0, 1.0)
    assert manifest.provenance is not None
    floors = {metric.name: metric.floor for metric in manifest.provenance.metrics}
    assert floors == {"sst2_dev_accuracy": 0.6, "sst2_test_accuracy": 0.6}
    assert [source.name for source in manifest.provenance.data] == [sentiment.TRAIN, sentiment.DEV, sentiment.TEST]
