"""Plain models that are refused, each with the field of its manifest that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import tiny_plain
from here import load_here

from service.errors import ManifestError


def change(directory: Path, rewrite: Callable[[dict], object]) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    rewrite(manifest)
    tiny.write_manifest(directory, manifest)


def shaped(kind: str, index: int, *shape: int | str) -> Callable[[dict], object]:
    return lambda m: m[kind][index].update(shape=list(shape))


FOUR = "float32, float64, int32 or int64"
BROKEN: list[tuple[Callable[..., Path], Callable[[dict], object], str, str]] = [
    (tiny_plain.visits, lambda m: m["inputs"].pop(), "inputs", "the graph also needs ward"),
    (tiny_plain.visits, lambda m: m.update(inputs=[]), "inputs", "at least 1 item"),
    (tiny_plain.visits, lambda m: m["inputs"][2].update(name="age"), "inputs[2]", "no input 'age'; it has profile,"),
    (tiny_plain.visits, lambda m: m["inputs"][2].update(name="profile"), "inputs", "profile is named more than once"),
    (tiny_plain.visits, lambda m: m["inputs"][2].update(dtype="int8"), "inputs[2]", "int8, but the graph has int64"),
    (tiny_plain.visits, lambda m: m["inputs"][0].update(dtype="text"), "inputs[0].dtype", "'bool' or 'string'"),
    (tiny_plain.visits, shaped("inputs", 0, "batch", 3), "inputs[0]", "but the graph has ['batch', 2]"),
    (tiny_plain.visits, shaped("inputs", 2, "time"), "inputs[2].shape", "'batch' exactly once"),
    (tiny_plain.visits, lambda m: m["outputs"][1].update(labels=["a"]), "outputs[1].labels", "1 do not fit"),
    (tiny_plain.visits, lambda m: m.update(lengths="ward"), "inputs", "ward is named more than once"),
    (tiny_plain.visits, lambda m: m.update(streamable=True), "streamable", "must be false: nothing is carried"),
    (
        tiny_plain.visits,
        lambda m: m.update(task="step"),
        "inputs",
        "are 3; task 'step' takes one, and 'tensor' several",
    ),
    (tiny_plain.classifier, lambda m: m.update(text=tiny.text_settings(sha256="0" * 64)), "text", "must be left out"),
    (
        tiny_plain.classifier,
        lambda m: m.update(forecast={"min_history": 1, "max_history": 2, "horizon": 3, "quantiles": [0.5]}),
        "forecast",
        "must be left out; task 'tensor' has none",
    ),
    (
        tiny.stepper,
        lambda m: m.update(task="tensor", streamable=False),
        "states",
        "nothing is carried: name them among inputs and outputs",
    ),
    (tiny.stepper, lambda m: m.update(task="tensor"), "streamable", "must be false: nothing is carried"),
    (lambda root: tiny_plain.echo(root, "int8"), lambda m: m.update(lengths="n"), "lengths", "no input has a 'time'"),
    (lambda root: tiny_plain.echo(root, "int8"), shaped("outputs", 0, "batch", "time"), "outputs[0].shape", "no input"),
    (
        lambda root: tiny_plain.echo(root, "int8"),
        lambda m: m.update(task="step"),
        "inputs[0].dtype",
        f"is int8; the tensors of task 'step' are {FOUR}",
    ),
    (tiny.forecast, lambda m: m["outputs"][1].update(dtype="bool"), "outputs[1].dtype", f"'forecast' are {FOUR}"),
    (tiny.sentiment, lambda m: m["inputs"][0].update(dtype="uint8"), "inputs[0].dtype", f"'sentiment' are {FOUR}"),
]


@pytest.mark.parametrize(("write", "rewrite", "field", "message"), BROKEN)
def test_a_manifest_that_does_not_fit_is_refused_by_field(
    tmp_path: Path, write: Callable[..., Path], rewrite: Callable[[dict], object], field: str, message: str
) -> None:
    directory = write(tmp_path)
    change(directory, rewrite)
    with pytest.raises(ManifestError) as refused:
        load_here(tmp_path)
    assert (refused.value.file, refused.value.field) == (str(directory / "manifest.json"), field)
    assert message in refused.value.message


def test_what_numpy_has_no_dtype_for_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime loads bfloat16, but takes it from no array."""
    directory = tiny_plain.echo(tmp_path, "bfloat16")
    with pytest.raises(ManifestError, match=r"Input should be 'float32', 'float64'.*'bool' or 'string'") as refused:
        load_here(tmp_path)
    assert refused.value.field == "inputs[0].dtype"
    change(directory, lambda m: [each.update(dtype="float16") for each in (*m["inputs"], *m["outputs"])])
    with pytest.raises(ManifestError, match=r"declared float16, but the graph has tensor\(bfloat16\)"):
        load_here(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "int8", "string"])
def test_a_graph_that_mixes_its_rows_is_refused_whatever_their_dtype(tmp_path: Path, dtype: str) -> None:
    tiny_plain.mixing(tmp_path, dtype)
    with pytest.raises(ManifestError, match="neighbours in the batch; the graph must keep the rows") as refused:
        load_here(tmp_path)
    assert refused.value.field == "inputs[0].shape"
