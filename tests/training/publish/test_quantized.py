"""Models in int8 and float16: made from a published float32 model, measured beside it, served under their own names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import echo
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from typer.testing import CliRunner

from service.contract.files import read_manifest, verify_files
from service.contract.provenance import Metric
from training import cli
from training.evaluate import ask, serving
from training.export import quantization_error
from training.export.graph import ExportError, Servable, export
from training.export.parity import BOUND
from training.export.quantize import to_float16, to_int8
from training.networks.recurrent import Recurrent
from training.publish import model_directory
from training.publish.model_directory import PublishError, publish
from training.publish.quantized import FLOAT16_BOUND, compared, publish_quantized
from training.recipe import Release

pytestmark = pytest.mark.old_cpu

FEATURES = 4
STEPS = np.random.default_rng(3).normal(size=(9, FEATURES)).round(3).tolist()
NAMES = {"int8": "echo-int8", "float16": "echo-float16"}
# Of answers within -1 to 1. An eighth bit of the activations is 0.008, and a step adds up to what those before it left.
NEAR = {"int8": 0.05, "float16": FLOAT16_BOUND}


def outputs(url: str, model: str, steps: Any, **more: Any) -> dict[str, Any]:
    (result,) = ask(url, "/v1/step", "items", [{"inputs": steps, **more}], model=model, **{"return": "all"})
    return result


def size(url: str) -> tuple[Metric, ...]:
    """A figure that any model has: the root mean square of its answers."""
    answer = outputs(url, echo.MODEL, STEPS)["outputs"]["y"]
    return (Metric(name="size", value=float(np.sqrt(np.square(answer).mean()))),)


def release_of(cell: Any = "lstm", measure: Any = size) -> Release:
    torch.manual_seed(0)
    stack = Recurrent(cell, FEATURES, 24, layers=2)
    servable = echo.servable_stack(stack, FEATURES)
    return echo.release(echo.Echo(seed=0), servable=servable, networks=(stack.network,), measure=measure)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LSTM in float32, and made from it in int8 and float16."""
    folder, release = tmp_path_factory.mktemp("models"), release_of()
    float32 = publish(release, folder, command="test", seed=0)
    for arithmetic in ("int8", "float16"):
        publish_quantized(release, float32, arithmetic, folder, command=f"test {arithmetic}")
    return folder


@pytest.mark.parametrize("arithmetic", ["int8", "float16"])
def test_quantized_model_is_published_beside_float32_figures(models: Path, arithmetic: Any) -> None:
    """It is complete, has a name of its own, and every figure of the float32 model stands beside its own."""
    wide = read_manifest(models / "echo/1")
    directory = models / NAMES[arithmetic] / "1"
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    assert (manifest.arithmetic, wide.arithmetic) == (arithmetic, "float32")
    assert (manifest.inputs, manifest.outputs, manifest.states) == (wide.inputs, wide.outputs, wide.states)
    assert manifest.provenance is not None
    assert wide.provenance is not None
    figures = {metric.name: metric for metric in manifest.provenance.metrics}
    assert figures["size"].floor == wide.provenance.metrics[0].value
    assert figures["size"].floor_method == "the float32 model"
    assert 0 < figures["max_abs_difference_from_float32"].value < NEAR[arithmetic]
    assert figures["model_bytes"].value == (directory / manifest.file).stat().st_size
    assert figures["model_bytes"].value < 0.7 * (models / "echo/1/model.onnx").stat().st_size
    batches = {f"{kind}_batch_{batch}" for kind in ("speedup", "speedup_step") for batch in (1, 8, 32)}
    assert {name for name in figures if "speedup" in name} == (batches if arithmetic == "int8" else set())
    assert manifest.provenance.parity_max_abs == wide.provenance.parity_max_abs <= BOUND
    assert manifest.provenance.command == f"test {arithmetic}"
    card = (directory / "card.md").read_text()
    assert all(f"| {name} | {metric.value:.4g} |" in card for name, metric in figures.items())


def test_quantized_models_serve_beside_the_float32_one(models: Path) -> None:
    """A client chooses by name; answers are near the float32 model's, and go on from a state as in one run."""
    with serving(models) as url:
        due = outputs(url, "echo", STEPS)["outputs"]["y"]
        for arithmetic, name in NAMES.items():
            whole = outputs(url, name, STEPS)["outputs"]["y"]
            begun = outputs(url, name, STEPS[:4])
            gone_on = outputs(url, name, STEPS[4:], state=begun["state"])
            assert np.abs(np.subtract(whole, due)).max() < NEAR[arithmetic]
            chunked = [*begun["outputs"]["y"], *gone_on["outputs"]["y"]]
            assert np.abs(np.subtract(chunked, whole)).max() < NEAR[arithmetic]
            assert whole != due


def test_int8_alone_moves_a_row_with_its_batch(models: Path) -> None:
    """What is measured as movement is float32's rounding in float32, and the shared scale of activations in int8."""
    servable = release_of().servable
    graphs = {name: (models / name / "1/model.onnx").read_bytes() for name in ("echo", *NAMES.values())}
    differences = {name: quantization_error.measure(servable, graphs["echo"], graph) for name, graph in graphs.items()}
    assert differences["echo"].max_abs_difference == 0
    assert differences["echo"].max_abs_movement < BOUND
    assert BOUND < differences["echo-int8"].max_abs_movement < NEAR["int8"]
    assert all(ratio > 0 for ratio in differences["echo-int8"].speedups.values())


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_int8_of_another_cell_is_refused(cell: Any) -> None:
    """Only LSTMs have an int8 kernel: the refusal says so, what was found, and what would do."""
    with pytest.raises(ExportError, match=f"has {cell.upper()}: ONNX Runtime has an int8 kernel for LSTM .* float16"):
        to_int8(export(release_of(cell).servable))


def answers(graph: bytes, feeds: dict[str, Any]) -> list[Any]:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, feeds)


def lstm_with_peepholes(peepholes: float) -> bytes:
    """One LSTM node whose `P` input has weights of this size."""
    hidden, rng = 16, np.random.default_rng(0)
    shapes = {"W": (1, 4 * hidden, FEATURES), "R": (1, 4 * hidden, hidden), "B": (1, 8 * hidden), "P": (1, 3 * hidden)}
    weights = {name: rng.normal(scale=0.4, size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["P"] *= peepholes
    node = helper.make_node("LSTM", ["x", "W", "R", "B", "lengths", "h", "c", "P"], ["y"], "lstm", hidden_size=hidden)
    states = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "batch", hidden]) for name in "hc"]
    graph = helper.make_graph(
        [node],
        "peepholes",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", FEATURES]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
            *states,
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", 1, "batch", hidden])],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("quantize", [to_int8, to_float16])
def test_peepholes_survive(quantize: Any) -> None:
    """An LSTM's peepholes do in int8 and float16 what they do in float32."""
    rng = np.random.default_rng(1)
    feeds = {name: rng.normal(size=(1, 3, 16)).astype(np.float32) for name in "hc"}
    feeds["x"] = rng.normal(size=(7, 3, FEATURES)).astype(np.float32)
    feeds["lengths"] = np.array([7, 2, 4], np.int32)
    with_them, without = (lstm_with_peepholes(size) for size in (1.0, 0.0))
    (due,) = answers(with_them, feeds)
    assert np.abs(answers(quantize(with_them), feeds)[0] - due).max() < 0.03
    assert np.abs(answers(without, feeds)[0] - due).max() > 0.1


class Scaled(nn.Module):
    """Divides each row by its largest value, and multiplies the answers by it again, as a forecaster does."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent = Recurrent("gru", FEATURES, 24)
        self.head = nn.Linear(24, 2)
        nn.init.constant_(self.head.bias, gain)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        scale = x.abs().amax((1, 2), keepdim=True)
        y, _ = self.recurrent(x / scale, lengths)
        read: Tensor = self.head(y) * scale
        return read


def scaled_servable(gain: float) -> Servable:
    bare = echo.servable_stack(Recurrent("gru", FEATURES, 2), FEATURES)
    return dataclasses.replace(bare, network=Scaled(gain), states=(), streamable=False)


def test_float16_keeps_the_range_of_float32() -> None:
    """Values that float16 cannot hold go through: only the nodes with weights compute in it."""
    servable = scaled_servable(gain=0.5)
    graph = export(servable)
    x = 1e9 * np.random.default_rng(0).normal(size=(3, 5, FEATURES)).astype(np.float32)
    feeds = servable.feeds(x, np.array([5, 3, 1], np.int32))
    (due,), (found,) = answers(graph, feeds), answers(to_float16(graph), feeds)
    assert np.abs(found / due - 1).max() < 0.01
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load_from_string(to_float16(graph)).graph.initializer}
    assert TensorProto.FLOAT16 in kinds.values()


class Loud(nn.Module):
    """Adds the first feature to the stack's first answer, with a weight halfway between two of float16."""

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.stack = stack
        self.head = nn.Linear(FEATURES, 24, bias=False)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.weight[0, 0] = 16 + 1 / 128

    def forward(self, x: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, *carried = self.stack(x, lengths, *states)
        return y + self.head(x), *carried


def test_float16_beyond_its_bound_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose answers float16 cannot give is refused with the measured difference, and nothing is left behind."""
    monkeypatch.setattr(model_directory, "serving", echo.no_server)
    release = release_of(measure=lambda url: ())
    servable = dataclasses.replace(release.servable, network=Loud(release.servable.network))
    release = dataclasses.replace(release, servable=servable)
    float32 = publish(release, tmp_path, command="test", seed=0)
    before = echo.files_below(tmp_path)
    with pytest.raises(PublishError, match=r"in float16 differs by [0-9.]+ from float32; at most 0\.002"):
        publish_quantized(release, float32, "float16", tmp_path, command="test")
    assert echo.files_below(tmp_path) == before


def test_weight_beyond_float16_is_refused() -> None:
    """A weight that would become infinite is named, with the end of the range."""
    servable = scaled_servable(gain=0.5)
    with torch.no_grad():
        next(iter(servable.network.get_submodule("head").parameters()))[0, 0] = 70_000.0
    with pytest.raises(ExportError, match="holds a weight beyond 65,504, the end of float16"):
        to_float16(export(servable))


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        (0.8, 0.7965, True),
        (0.8, 0.7955, False),
        (0.8, 0.8045, False),
        (0.01, 0.0101, False),
        (2.0, 2.009, True),
        (2.0, 2.011, False),
        (-300.0, -301.0, True),
    ],
)
def test_figure_may_move_by_half_a_percent(before: float, now: float, kept: bool) -> None:
    """Of itself, in either direction; else both are told."""
    measured, wide = (Metric(name="figure", value=now),), (Metric(name="figure", value=before, floor=0.5),)
    if kept:
        assert compared(measured, wide, of="echo-int8") == (
            Metric(name="figure", value=now, floor=before, floor_method="the float32 model"),
        )
    else:
        with pytest.raises(PublishError, match=f"figure is {now:.5g}, the float32 model's is {before:.5g}"):
            compared(measured, wide, of="echo-int8")


def test_other_figures_than_the_float32_model_has_are_refused() -> None:
    """There is nothing to compare a new figure with; the message says which, and what to do."""
    with pytest.raises(PublishError, match=r"\(new, old\); publish it again first"):
        compared((Metric(name="new", value=1.0),), (Metric(name="old", value=1.0),), of="echo-int8")


def test_model_whose_figure_moved_is_not_published(tmp_path: Path) -> None:
    """The figures are the served quantized model's: one that has moved too far ends it, and nothing is left behind."""
    given = iter((0.9, 0.89))
    release = release_of(measure=lambda url: (*size(url), Metric(name="accuracy", value=next(given))))
    float32 = publish(release, tmp_path, command="test", seed=0)
    before = echo.files_below(tmp_path)
    with pytest.raises(PublishError, match=r"accuracy is 0\.89, the float32 model's is 0\.9"):
        publish_quantized(release, float32, "int8", tmp_path, command="test")
    assert echo.files_below(tmp_path) == before


def test_quantized_model_is_made_from_float32_alone(models: Path, tmp_path: Path) -> None:
    """Int8 of float16 would hide what float16 lost."""
    with pytest.raises(PublishError, match="echo-float16 1 is not a float32 model that was published with parity"):
        publish_quantized(release_of(), models / "echo-float16/1", "int8", tmp_path, command="test")


def test_train_publishes_quantized_models_beside_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--float16` adds a model of its own; `--int8` of a GRU ends with its refusal, and the others stay."""
    recipe = echo.recipe_file(tmp_path, monkeypatch)
    folders = ["--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]

    made = CliRunner().invoke(cli.app, ["train", recipe, "--float16", *folders])
    refused = CliRunner().invoke(cli.app, ["train", recipe, "--resume", "--int8", *folders])

    assert made.exit_code == 0, made.output
    provenance = read_manifest(tmp_path / "models/echo-float16/1").provenance
    assert provenance is not None
    assert provenance.command == f"python -m training train {Path(recipe).name} --seeds 0 --epochs 2 --float16"
    assert isinstance(refused.exception, ExportError)
    assert sorted(path.parent.name for path in tmp_path.glob("models/*/1")) == ["echo", "echo-float16"]
