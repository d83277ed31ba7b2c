"""Reports: pictures beside the model, in its card, and on the page of all models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import echo
import numpy as np
import pytest
from conftest import ROOT

from service.contract.files import read_manifest
from service.contract.manifest import Manifest
from service.contract.tensors import Tensor
from training.publish.model_directory import publish
from training.report import plots
from training.report.pages import FOLDER, SECTION, Picture, Table, models_page, read_facts, write_reports
from training.tasks.classifier import report

CURVE = "epoch,train_loss,val_loss\n0,1.5,1.25\n1,1.0,\n2,0.5,1.0\n"
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def report_echo(url: str, manifest: Manifest) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """One picture and one table; what is drawn comes from the service."""
    value = echo.measure(echo.MODEL, url)[0].value
    figure = plots.draw_error({"echo": np.array([value, value])}, "error", "of a number")
    return (Picture("error", "The error of the echo.", figure),), (
        Table(caption="Beside nothing.", header=("method", "error"), rows=(("echo", f"{value:.3f}"),)),
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    publish(echo.release(echo.Echo(seed=0)), folder, command="test", seed=0, curve=CURVE)
    return folder


def test_a_report_stands_beside_the_model_and_in_its_card(models: Path) -> None:
    """Learning curve, picture and tables are written; drawn again, the pictures are the same."""
    (directory,) = write_reports(models, {echo.MODEL: report_echo}, {echo.MODEL})
    before = {path: path.read_bytes() for path in directory.rglob("*.svg")}
    card = (directory / "card.md").read_text()
    assert IMAGE.findall(card) == [f"{FOLDER}/learning-curves.svg", f"{FOLDER}/error.svg"]
    assert all((directory / image).is_file() for image in IMAGE.findall(card))
    assert "| method | error |" in card.split(SECTION)[1]
    assert "| rows a run | rows a second |" in card.split(SECTION)[1]

    write_reports(models, {echo.MODEL: report_echo}, {echo.MODEL})
    assert {path: path.read_bytes() for path in directory.rglob("*.svg")} == before
    assert (directory / "card.md").read_text().count(SECTION) == 1


def test_a_report_takes_the_place_of_the_one_before(models: Path) -> None:
    """Pictures that are no longer drawn are gone, from the card too."""
    write_reports(models, {echo.MODEL: report_echo}, {echo.MODEL})
    (directory,) = write_reports(models, {}, {echo.MODEL})
    assert list(read_facts(directory).pictures) == ["learning-curves.svg"]
    assert not (directory / FOLDER / "error.svg").exists()
    assert "error.svg" not in (directory / "card.md").read_text()


def test_the_page_shows_every_model_with_figures_and_pictures(models: Path, tmp_path: Path) -> None:
    """Links lead from the page's folder to the model's."""
    (directory,) = write_reports(models, {echo.MODEL: report_echo}, {echo.MODEL})
    page = models_page(models, tmp_path)
    assert "\n## echo\n" in page
    (metric,) = read_manifest(directory).provenance.metrics  # type: ignore[union-attr]
    assert f"| echo_error | {metric.value:.4g} |" in page
    assert [(tmp_path / image).resolve() for image in IMAGE.findall(page)] == [
        directory / FOLDER / name for name in ("learning-curves.svg", "error.svg")
    ]


def test_the_committed_page_is_what_the_models_say() -> None:
    """docs/models.md is written from manifests and reports alone, so that it cannot fall behind them."""
    page = (ROOT / "docs" / "models.md").read_text()
    assert page == models_page(ROOT / "models", ROOT / "docs")
    assert all((ROOT / "docs" / image).is_file() for image in IMAGE.findall(page))


def test_a_classifier_s_report_counts_and_shows_its_surest_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three mistakes among five answers the surest comes first; what could break the table is escaped."""
    negative = {"a|b": 0.99, "good": 0.1, "fine": 0.6, "bad": 0.9, "poor": 0.3}
    truth = {"a|b": 1, "good": 1, "fine": 1, "bad": 0, "poor": 0}
    drawn: list[Any] = []

    def answer(url: str, path: str, field: str, texts: Any, **options: Any) -> list[dict[str, Any]]:
        assert (path, field, options) == ("/v1/sentiment", "inputs", {"model": "any", "scores": "all"})
        return [{"scores": {"negative": negative[text], "positive": 1 - negative[text]}} for text in texts]

    monkeypatch.setattr(report, "ask", answer)
    monkeypatch.setattr(report, "draw_confusion", lambda counts, labels: drawn.append((counts.tolist(), labels)))
    labels = ("negative", "positive")
    output = Tensor(name="scores", dtype="float32", shape=("batch", 2), labels=labels)
    manifest = Manifest.model_construct(name="any", outputs=(output,))
    _, (table,) = report.report_classifier("", manifest, list(truth), list(truth.values()), "made up")
    assert drawn == [([[1.0, 1.0], [2.0, 1.0]], ("negative", "positive"))]
    assert [row[0] for row in table.rows] == ["a\\|b", "poor", "fine"]
    assert table.rows[0][1:] == ("positive", "negative", "0.990")


def test_a_picture_of_many_points_is_a_small_file_of_pixels(tmp_path: Path) -> None:
    """What is small is drawn with lines; drawn again, either is the same."""
    for name, points, suffix in (("few", 100, "svg"), ("many", 20_000, "png")):
        noise = np.random.default_rng(0).normal(size=points)
        drawn = []
        for _ in range(2):
            figure = plots.draw_error({"noise": noise}, "error", "of noise")
            assert plots.save(figure, tmp_path, name) == f"{name}.{suffix}"
            drawn.append((tmp_path / f"{name}.{suffix}").read_bytes())
        assert drawn[0] == drawn[1]
        assert len(drawn[0]) < 100_000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["few.svg", "many.png"]
