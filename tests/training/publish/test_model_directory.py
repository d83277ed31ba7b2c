"""From training to a published version that the real service has served; what may not be published is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import echo
import pytest
from conftest import ROOT
from torch import Tensor, nn
from typer.testing import CliRunner

from service.contract.files import read_manifest, sha256_of, verify_files
from training import cli
from training.evaluate import EvaluationError, ask, serving
from training.export.parity import BOUND, ParityError
from training.networks.recurrent import Recurrent
from training.publish import model_directory
from training.publish.model_directory import PublishError, next_version, publish


@pytest.fixture
def module() -> echo.Echo:
    return echo.Echo(seed=0)


def refuse_to_measure(url: str) -> Any:
    raise AssertionError("refusals come before the service is started")


def test_train_publishes_a_version_that_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train` leaves graph, manifest and card; figures, command, seed and parity stand in the manifest."""
    recipe = echo.recipe_file(tmp_path, monkeypatch)
    models, run = tmp_path / "models", tmp_path / "runs"
    options = ["--seeds", "7", "--models-dir", str(models), "--runs-dir", str(run)]

    result = CliRunner().invoke(cli.app, ["train", recipe, *options])

    assert result.exit_code == 0, result.output
    files = ["card.md", "manifest.json", "model.onnx", "training.csv"]
    assert echo.files_below(models) == ["echo", "echo/1", *(f"echo/1/{file}" for file in files)]
    manifest = read_manifest(models / "echo/1")
    verify_files(models / "echo/1", manifest)
    provenance = manifest.provenance
    assert provenance is not None
    assert provenance.command == f"python -m training train {Path(recipe).name} --seeds 7 --epochs 2"
    assert (provenance.seed, provenance.seeds) == (7, None)
    assert 0 < provenance.parity_max_abs <= BOUND
    (metric,) = provenance.metrics
    card = (models / "echo/1/card.md").read_text()
    assert f"| echo_error | {metric.value:.4g} | 0.5 | always zero |" in card
    assert provenance.command in card
    assert str(ROOT).encode() not in (models / "echo/1/model.onnx").read_bytes()


def test_published_versions_are_never_overwritten(
    tmp_path: Path, module: echo.Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing again makes the next version and leaves the first as it was."""
    monkeypatch.setattr(model_directory, "serving", echo.no_server)
    release = echo.release(module, measure=lambda url: ())
    first = publish(release, tmp_path, command="test", seed=0)
    before = {path.name: sha256_of(path) for path in first.iterdir()}
    second = publish(release, tmp_path, command="test", seed=0)
    assert (first.name, second.name) == ("1", "2")
    assert {path.name: sha256_of(path) for path in first.iterdir()} == before


def test_version_taken_while_publishing_is_refused(
    tmp_path: Path, module: echo.Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another process publishes the same version first, it is kept, and the refusal says what to do."""
    monkeypatch.setattr(model_directory, "serving", echo.no_server)
    taken = tmp_path / "echo/1/manifest.json"

    def measure(url: str) -> Any:
        taken.parent.mkdir(parents=True)
        taken.write_text("the other's")
        return ()

    with pytest.raises(PublishError, match="publish again to get the next version"):
        publish(echo.release(module, measure=measure), tmp_path, command="test", seed=0)
    assert taken.read_text() == "the other's"


def test_next_version_follows_the_highest(tmp_path: Path) -> None:
    """Versions count up by number; other entries are passed over."""
    assert next_version(tmp_path / "echo") == "1"
    for name in ("2", "10", "draft"):
        (tmp_path / "echo" / name).mkdir(parents=True)
    assert next_version(tmp_path / "echo") == "11"


class ReadsPadding(nn.Module):
    """Adds up the whole width of the batch, padding included."""

    def __init__(self, stack: echo.Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, x: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, *carried = self.stack(x, lengths, *states)
        return y + x.sum(1, keepdim=True), *carried


class ForgetsState(echo.Stack):
    """Begins every chunk at zero."""

    def forward(self, x: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, carried = self.recurrent(x, lengths)
        return y, *(new + 0 * old for new, old in zip(carried, states, strict=True))


@pytest.mark.parametrize(
    ("wrap", "gap"),
    [(ReadsPadding, "junk_in_padding"), (lambda stack: ForgetsState(stack.recurrent), "chunks_vs_whole")],
)
def test_release_without_parity_is_not_published(tmp_path: Path, module: echo.Echo, wrap: Any, gap: str) -> None:
    """A network whose answers depend on padding, or that drops its state, is refused, and nothing is left behind."""
    release = echo.release(module, measure=refuse_to_measure)
    wrong = dataclasses.replace(release.servable, network=wrap(module.network))
    with pytest.raises(ParityError, match=gap):
        publish(dataclasses.replace(release, servable=wrong), tmp_path, command="test", seed=0)
    assert echo.files_below(tmp_path) == []


def test_streamable_bidirectional_release_is_not_published(tmp_path: Path, module: echo.Echo) -> None:
    """Chunks cannot equal the whole where a direction begins at the end."""
    stack = Recurrent("gru", 1, 2, bidirectional=True)
    servable = dataclasses.replace(echo.servable_stack(stack, 1), streamable=True)
    release = echo.release(module, servable=servable, networks=(stack.network,), measure=refuse_to_measure)
    with pytest.raises(ParityError, match="chunks_vs_whole"):
        publish(release, tmp_path, command="test", seed=0)


def test_release_that_breaks_the_contract_is_not_published(tmp_path: Path, module: echo.Echo) -> None:
    """The manifest is validated by the service's own code before anything is served."""
    release = echo.release(module, task="sentiment", measure=refuse_to_measure)
    with pytest.raises(
        PublishError, match=r"contract: streamable: must be false: nothing is carried \(task 'sentiment'\)"
    ):
        publish(release, tmp_path, command="test", seed=0)
    assert echo.files_below(tmp_path) == []


def test_release_over_the_size_limit_is_not_published(tmp_path: Path, module: echo.Echo) -> None:
    """A graph of 12 MB or more is refused with its size."""
    stack = Recurrent("rnn", 1, 1800)
    release = echo.release(module, servable=echo.servable_stack(stack, 1), measure=refuse_to_measure)
    with pytest.raises(PublishError, match="a model must stay under 12,000,000"):
        publish(release, tmp_path, command="test", seed=0)


def test_refused_items_and_requests_end_the_evaluation(tmp_path: Path, module: echo.Echo) -> None:
    """A figure is never taken from answers that are errors."""
    publish(echo.release(module), tmp_path, command="test", seed=0)
    with serving(tmp_path) as url:
        with pytest.raises(EvaluationError, match="answered 404"):
            ask(url, "/v1/step", "items", [{"inputs": [[1.0]]}], model="unheard-of")
        with pytest.raises(EvaluationError, match="refused 1 of 2 items"):
            ask(url, "/v1/step", "items", [{"inputs": [[1.0]]}, {"inputs": [[1.0, 2.0]]}], model=echo.MODEL)


def test_service_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    """An empty models directory ends the evaluation with the service's own reason."""
    with pytest.raises(EvaluationError, match="holds no"), serving(tmp_path):
        pass
