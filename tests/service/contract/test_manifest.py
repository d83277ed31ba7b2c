"""A model directory that breaks the contract is refused with file, field and what would be right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
import tiny
from conftest import baton
from here import load_here

from service.errors import DeviceUnavailable, ManifestError
from service.model.repository import find_versions, read_verified

NOBODY = 65534
Change = Callable[[dict], object]


def rewrite(directory: Path, change: Change) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    tiny.write_manifest(directory, manifest)


PROVENANCE = {
    **{"command": "none", "seed": 1, "seeds": [0, 1], "data": [], "parity_max_abs": 0, "opset": 20, "licence": "none"},
    **{"created": "2026-01-01", "tools": {}, "metrics": [{"name": "error", "value": 0.5, "seeds": [0.4, 0.5, 0.6]}]},
}
BROKEN_STEPPER: list[tuple[Change, str, str]] = [
    (lambda m: m.update(schema_version=9), "schema_version", "reads schema version 1"),
    (lambda m: m.pop("schema_version"), "schema_version", "Field required"),
    (lambda m: m.update(sha256="0" * 64), "sha256", "hashes to"),
    (lambda m: m.update(file="other.onnx"), "file", "other.onnx is missing"),
    (lambda m: m.update(file="../model.onnx"), "file", "match pattern"),
    (lambda m: m.update(name="walker"), "name", "directory is named 'stepper'"),
    (lambda m: m.update(version="2"), "version", "directory is named '1'"),
    (lambda m: m.update(flavour="plum"), "flavour", "Extra inputs are not permitted"),
    (lambda m: m["inputs"][0].update(name="z"), "inputs[0]", "the graph has no input 'z'; it has x, lengths, h, c"),
    (lambda m: m["inputs"][0].update(dtype="int64"), "inputs[0]", "declared int64, but the graph has float32"),
    (
        lambda m: m["inputs"][0].update(shape=["batch", "time", 5]),
        "inputs[0]",
        "but the graph has ['batch', 'time', 2]",
    ),
    (lambda m: m["inputs"][0].update(shape=["time", "batch", 2]), "file", "the model fails on a short probe"),
    (lambda m: m["inputs"][0].update(shape=["time", 2]), "inputs[0].shape", "'batch' exactly once"),
    (lambda m: m["inputs"][0].update(shape=["batch", "time", 2, 2]), "inputs[0]", "but the graph has"),
    (lambda m: m["outputs"][0].update(name="z"), "outputs[0]", "the graph has no output 'z'"),
    (lambda m: m["outputs"][0].update(shape=["batch", "time", 4]), "outputs[0]", "the graph has ['batch', 'time', 3]"),
    (lambda m: m["outputs"][0].update(shape=["batch", 3]), "outputs[0].shape", "must hold 'time', as the input"),
    (lambda m: m["outputs"][0].update(labels=["a"]), "outputs[0].labels", "1 do not fit"),
    (lambda m: m["states"][0].update(input="hh"), "states[0].input", "the graph has no input 'hh'"),
    (lambda m: m["states"][1].update(output="cc"), "states[1].output", "the graph has no output 'cc'"),
    (lambda m: m["states"][0].update(shape=[1, "batch", 5]), "states[0].input", "the graph has [1, 'batch', 4]"),
    (lambda m: m["states"][0].update(shape=[1, 4]), "states[0].shape", "'batch' exactly once"),
    (lambda m: m["states"][0].update(dtype="float16"), "states[0].dtype", "'float32', 'float64', 'int32' or 'int64'"),
    (lambda m: m["states"].pop(), "inputs", "the graph also needs c"),
    (lambda m: m.update(states=[]), "states", "must name the states"),
    (lambda m: m.update(streamable=False), "streamable", "must be true: steps carry states (task 'step')"),
    (lambda m: m.update(lengths=None), "inputs", "the graph also needs lengths"),
    (lambda m: m.update(lengths="x"), "inputs", "x is named more than once"),
    (lambda m: m.update(constants={"rate": 8000}), "constants.rate", "the graph has no such input"),
    (lambda m: m.update(constants={"h": [0, 0]}), "inputs", "h is named more than once"),
    (lambda m: m.update(constants={"rate": []}), "constants.rate", "a list of finite numbers"),
    (lambda m: m.update(constants={"rate": [[1, 2]]}), "constants.rate", "a list of finite numbers"),
    (lambda m: m.update(constants={"rate": True}), "constants.rate", "one finite number"),
    (lambda m: m.update(provenance=PROVENANCE), "provenance.metrics[0].seeds", "has 3 figures for 2 seeds"),
    (
        lambda m: m.update(networks=[{"cell": "lstm", "layers": 1, "hidden": 4, "bidirectional": True}]),
        "streamable",
        "must be false for a bidirectional network",
    ),
    (
        lambda m: [s.update(output=o) for s, o in zip(m["states"], ("c_out", "h_out"), strict=True)],
        "streamable",
        "chunks with carried state differ",
    ),
]


@pytest.mark.parametrize(("change", "field", "message"), BROKEN_STEPPER)
def test_a_broken_step_model_is_refused_by_field(tmp_path: Path, change: Change, field: str, message: str) -> None:
    directory = tiny.stepper(tmp_path)
    rewrite(directory, change)
    with pytest.raises(ManifestError) as refused:
        load_here(tmp_path)
    assert refused.value.field == field
    assert message in refused.value.message
    assert refused.value.file == str(directory / "manifest.json")


@pytest.mark.parametrize("arithmetic", ["float32", "float16", "int8"])
def test_a_bidirectional_stream_is_refused_even_where_the_manifest_does_not_say_so(
    tmp_path: Path, arithmetic: str
) -> None:
    """Whatever the arithmetic: what rounding may change is far below what a reverse direction does."""
    rewrite(tiny.stepper(tmp_path, direction="bidirectional"), lambda manifest: manifest.update(arithmetic=arithmetic))
    with pytest.raises(ManifestError, match="reverse direction") as refused:
        load_here(tmp_path)
    assert refused.value.field == "streamable"


BROKEN_SENTIMENT: list[tuple[Change, str, str]] = [
    (lambda m: m.update(text=None), "text", "needs a tokenizer"),
    (lambda m: m["text"].update(tokenizer="none.json"), "text.tokenizer", "none.json is missing"),
    (lambda m: m["text"].update(sha256="0" * 64), "text.sha256", "hashes to"),
    (lambda m: m["text"].update(unknown_token="<oov>"), "text.unknown_token", "not in the vocabulary"),
    (lambda m: m["text"].update(polarity=[1]), "text.polarity", "1 weights for 2 labels"),
    (lambda m: m["outputs"][0].pop("labels"), "outputs", "names its labels"),
    (lambda m: m["inputs"][0].update(dtype="float32"), "inputs[0].dtype", "it is int32 or int64 ids"),
    (lambda m: m["inputs"][0].update(dtype="int64"), "inputs[0]", "declared int64, but the graph has int32"),
    (
        lambda m: m.update(streamable=True, states=[tiny.state("h", 1, "batch", 4)]),
        "streamable",
        "must be false: nothing is carried (task 'sentiment')",
    ),
    (lambda m: m["outputs"][0].update(labels=["same", "same"]), "outputs[0].labels", "must differ"),
]


@pytest.mark.parametrize(("change", "field", "message"), BROKEN_SENTIMENT)
def test_a_broken_text_model_is_refused_by_field(tmp_path: Path, change: Change, field: str, message: str) -> None:
    rewrite(tiny.sentiment(tmp_path), change)
    with pytest.raises(ManifestError) as refused:
        load_here(tmp_path)
    assert refused.value.field == field
    assert message in refused.value.message


BROKEN_FORECAST: list[tuple[Change, str, str]] = [
    (lambda m: m.update(forecast=None), "forecast", "needs history, horizon and quantiles"),
    (lambda m: m["forecast"].update(quantiles=[0.5, 0.1, 0.9]), "forecast", "must rise strictly"),
    (lambda m: m["forecast"].update(min_history=99), "forecast", "above max_history"),
    (lambda m: m["forecast"].update(horizon=5), "outputs", "mean ['batch', 5]"),
    (lambda m: m["inputs"][0].update(shape=["batch", "time", 3]), "outputs", "mean ['batch', 4, 3]; quantiles"),
    (lambda m: m["inputs"][0].update(dtype="int32"), "inputs[0].dtype", "float32 or float64"),
    (lambda m: m["inputs"][0].update(dtype="float64"), "inputs[0]", "declared float64, but the graph has float32"),
    (lambda m: m["inputs"][0].update(shape=["batch", 3, "time"]), "inputs[0].shape", "or [batch, time, channels]"),
    (lambda m: m["inputs"][0].update(shape=["batch", "time", 3, 1]), "inputs[0].shape", "or [batch, time, channels]"),
]


@pytest.mark.parametrize(("change", "field", "message"), BROKEN_FORECAST)
def test_a_broken_forecaster_is_refused_by_field(tmp_path: Path, change: Change, field: str, message: str) -> None:
    rewrite(tiny.forecast(tmp_path), change)
    with pytest.raises(ManifestError) as refused:
        load_here(tmp_path)
    assert refused.value.field == field
    assert message in refused.value.message


def test_a_vocabulary_that_is_larger_than_the_embedding_is_refused_at_load(tmp_path: Path) -> None:
    directory = tiny.sentiment(tmp_path)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["unheard-of"] = len(tiny.WORDS)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    rewrite(directory, lambda m: m["text"].update(sha256=tiny.sha256(directory / "tokenizer.json")))
    with pytest.raises(ManifestError, match="fails on a short probe"):
        load_here(tmp_path)


def test_scores_that_do_not_sum_to_one_are_refused_at_load(tmp_path: Path) -> None:
    directory = tiny.sentiment(tmp_path)
    graph = onnx.load(directory / "model.onnx")
    (softmax,) = [node for node in graph.graph.node if node.op_type == "Softmax"]
    softmax.op_type = "LogSoftmax"
    onnx.save(graph, directory / "model.onnx")
    rewrite(directory, lambda m: m.update(sha256=tiny.sha256(directory / "model.onnx")))
    with pytest.raises(ManifestError, match="must end in a softmax") as refused:
        load_here(tmp_path)
    assert refused.value.field == "outputs[0]"


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    directory = tiny.stepper(tmp_path)
    (directory / "manifest.json").unlink()
    (directory / "manifest.json").mkdir()
    with pytest.raises(ManifestError, match="cannot be read: Is a directory"):
        load_here(tmp_path)


def test_files_that_are_not_what_they_should_be_are_refused(tmp_path: Path) -> None:
    directory = tiny.sentiment(tmp_path)
    (directory / "model.onnx").write_bytes(b"no graph")
    rewrite(directory, lambda m: m.update(sha256=tiny.sha256(directory / "model.onnx")))
    with pytest.raises(ManifestError, match="ONNX Runtime cannot load it"):
        load_here(tmp_path)
    (directory / "tokenizer.json").write_text("{}")
    rewrite(directory, lambda m: m["text"].update(sha256=tiny.sha256(directory / "tokenizer.json")))
    with pytest.raises(ManifestError, match=r"text\.tokenizer"):
        load_here(tmp_path)
    (directory / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="Invalid JSON"):
        load_here(tmp_path)
    (directory / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="is missing; every model version needs one"):
        load_here(tmp_path)


def test_a_models_directory_that_is_empty_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no"):
        load_here(tmp_path)
    with pytest.raises(ManifestError, match="BATON_MODELS_DIR"):
        load_here(tmp_path / "nowhere")


def litter(models_dir: Path) -> list[str]:
    """Put things that are no models among the models; return how the log tells of each."""
    for name in ("lost+found", "notes", "notes/drafts", ".draft", "stepper/old"):
        (models_dir / name).mkdir()
    (models_dir / "README.md").write_text("no model")
    (models_dir / "stepper" / "README.md").write_text("no version")
    (models_dir / "gone").symlink_to("/nowhere")
    (models_dir / "loop").symlink_to("loop")
    return [
        f"passed over: {models_dir}/gone: models_dir: cannot be read: No such file or directory",
        f"passed over: {models_dir}/loop: models_dir: cannot be read: Too many levels of symbolic links",
        f"passed over: {models_dir}/lost+found holds no model; one is <name>/<version>/manifest.json",
        f"passed over: {models_dir}/notes holds no model; one is <name>/<version>/manifest.json",
        f"passed over: {models_dir}/stepper/old holds no model; one is <name>/<version>/manifest.json",
    ]


def test_what_lies_among_the_models_is_passed_over_with_one_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.stepper(tmp_path)
    expected = litter(tmp_path)
    load_here(tmp_path)
    told = [record.getMessage() for record in caplog.records if record.name == "baton.repository"]
    assert sorted(told) == expected
    listed = baton("models", "--json", BATON_MODELS_DIR=str(tmp_path))
    assert [line["name"] for line in json.loads(listed.stdout)["models"]] == ["stepper"]
    assert sorted(listed.stderr.splitlines()) == expected


@contextmanager
def unprivileged() -> Iterator[None]:
    """Let this process be one that permissions bind, should it be root's."""
    before = os.geteuid()
    os.seteuid(NOBODY if before == 0 else before)
    try:
        yield
    finally:
        os.seteuid(before)


def test_what_may_not_be_read_is_passed_over_unless_it_is_meant_as_a_version(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as root:  # pytest's own are closed to others
        models_dir = Path(root)
        models_dir.chmod(0o755)
        (closed := models_dir / "closed").mkdir(mode=0)
        version = tiny.stepper(models_dir)
        with unprivileged():
            assert find_versions(models_dir) == [version]
            (told,) = caplog.messages
            assert told == f"passed over: {closed}: models_dir: cannot be read: Permission denied"
            with pytest.raises(ManifestError, match="closed: models_dir: cannot be read: Permission denied"):
                find_versions(models_dir, loaded=[closed / "1"])
        for part, message in (("model.onnx", "file: model.onnx cannot be read"), ("", "file: cannot be read")):
            (version / part).chmod(0)
            with unprivileged(), pytest.raises(ManifestError, match=f"{message}: Permission denied"):
                read_verified(*find_versions(models_dir))
        models_dir.chmod(0)
        with unprivileged(), pytest.raises(ManifestError, match="models_dir: cannot be read: Permission denied"):
            find_versions(models_dir)


def empty_version(model: Path) -> str:
    (model / "2").mkdir()
    return "stepper/2/manifest.json: file: is missing"


def version_that_is_a_file(model: Path) -> str:
    (model / "2").write_text("")
    return "stepper/2/manifest.json: file: cannot be read: Not a directory"


def version_that_leads_nowhere(model: Path) -> str:
    (model / "2").symlink_to("/nowhere")
    return "stepper/2/manifest.json: file: is missing"


def version_by_another_name(model: Path) -> str:
    shutil.copytree(model / "1", model / "second")
    return "stepper/second/manifest.json: version: is '1', but the directory is named 'second'"


@pytest.mark.parametrize(
    "spoil", [empty_version, version_that_is_a_file, version_that_leads_nowhere, version_by_another_name]
)
def test_what_is_meant_as_a_version_is_never_passed_over(spoil: Callable[[Path], str], tmp_path: Path) -> None:
    message = spoil(tiny.stepper(tmp_path).parent)
    with pytest.raises(ManifestError, match=message):
        load_here(tmp_path)


def test_cuda_where_there_is_none_ends_start_up_and_names_the_providers_that_exist(tmp_path: Path) -> None:
    tiny.stepper(tmp_path)
    with pytest.raises(DeviceUnavailable, match="CPUExecutionProvider"):
        load_here(tmp_path, device="cuda")


def test_a_refused_model_is_one_line_on_stderr_and_exit_status_one(tmp_path: Path) -> None:
    rewrite(tiny.stepper(tmp_path), lambda m: m.update(schema_version=9))
    command = [sys.executable, "-m", "service", "serve", "--models-dir", str(tmp_path), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"baton: {tmp_path}/stepper/1/manifest.json: schema_version: 9")
    assert "Traceback" not in ended.stderr
