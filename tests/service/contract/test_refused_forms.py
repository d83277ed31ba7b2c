"""Graphs and manifests of new forms that do not fit each other are refused with file, field and what would be right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import tiny_forms
from here import load_here

from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import ManifestError, NotFinite, StateInvalid

Write = Callable[..., Path]
Change = Callable[[dict], object]
NAN, HUGE = float("nan"), 1e39


def load(models: Path, name: str) -> Engine:
    (engine,) = [engine for engine in load_here(models) if engine.manifest.name == name]
    return engine


def starting(index: int, start: object) -> Change:
    return lambda m: m["states"][index].update(start=start)


def shaped(kind: str, *shape: int | str) -> Change:
    return lambda m: m[kind][0].update(shape=list(shape))


def gained(**constants: object) -> Change:
    return lambda m: m.update(constants=constants)


def gained_stepper(root: Path) -> Path:
    return tiny.stepper(root, constants={"gain": [1, 2]})


SHAPELESS_START = "one number, or nested lists"
BROKEN: list[tuple[Write, Change, str, str]] = [
    (tiny_forms.meter, starting(1, [0.5]), "states[1].start", SHAPELESS_START),
    (tiny_forms.meter, starting(1, [[0.5, 0.5]]), "states[1].start", SHAPELESS_START),
    (tiny_forms.meter, starting(0, [[0, 0], [0, 0], [0], [0, 0], [0, 0]]), "states[0].start", SHAPELESS_START),
    (tiny_forms.meter, starting(1, []), "states[1].start", SHAPELESS_START),
    (tiny_forms.meter, starting(1, ["0", 0]), "states[1].start", SHAPELESS_START),
    (tiny_forms.meter, starting(1, True), "states[1].start", SHAPELESS_START),
    (tiny_forms.meter, starting(1, None), "states[1].start", SHAPELESS_START),
    (tiny_forms.meter, starting(1, [0.5, NAN]), "states[1].start", "nan is no float32"),
    (tiny_forms.meter, starting(2, float("inf")), "states[2].start", "inf is no float32"),
    (tiny_forms.meter, starting(2, -HUGE), "states[2].start", "-1e+39 is no float32"),
    (tiny_forms.meter, starting(3, 0.5), "states[3].start", "0.5 is no int64"),
    (tiny_forms.meter, starting(3, 1 << 63), "states[3].start", "9223372036854775808 is no int64"),
    (tiny_forms.dial, starting(0, -(1 << 31) - 1), "states[0].start", "-2147483649 is no int32"),
    (tiny_forms.meter, lambda m: m["constants"].update(rate=HUGE), "constants.rate", "the graph takes float32"),
    (tiny_forms.dial, lambda m: m["constants"].update(size=99.5), "constants.size", "the graph takes int32"),
    (tiny_forms.meter, gained(rate=[0.25]), "constants.rate", "the graph has float32 []; give one number"),
    (gained_stepper, gained(gain=[1]), "constants.gain", "a list of 1 is declared, but the graph has float32 [2]; "),
    (gained_stepper, gained(gain=[1, 2, 3]), "constants.gain", "give a list of 2 numbers"),
    (gained_stepper, gained(gain=[1, HUGE]), "constants.gain[1]", "1e+39 is declared, but the graph takes float32"),
    (gained_stepper, gained(gain=[NAN, 1]), "constants.gain", "a list of finite numbers"),
    (tiny_forms.cell, shaped("outputs", "batch", "time", 3), "outputs[0].shape", "must hold no 'time', as the input"),
    (tiny_forms.time_major, shaped("outputs", 1, "batch", 4), "outputs[0].shape", "must hold 'time', as the input"),
    (
        tiny_forms.cell,
        shaped("outputs", "time", "time", "batch"),
        "outputs[0].shape",
        "and 'memory' at most once",
    ),
    (tiny_forms.cell, shaped("inputs", "batch", 2, 3), "inputs[0]", "is declared ['batch', 2, 3], but the graph has"),
    (tiny_forms.cell, shaped("inputs", "batch", "time", 2), "outputs[0].shape", "must hold 'time'"),
    (tiny_forms.cell, shaped("states", 1, "batch", "time"), "states[0].shape", "no 'time'"),
    (tiny_forms.column, shaped("inputs", "batch", 2), "inputs[0]", "but the graph has [2, 'batch']"),
    (tiny_forms.cell, lambda m: m["states"][0].update(output="y"), "states[0].output", "is declared [1,"),
    (tiny_forms.meter, lambda m: m["outputs"].append(m["outputs"][0]), "outputs", "is named more than once"),
    (tiny_forms.meter, lambda m: m["states"].pop(), "inputs", "the graph also needs count"),
    (
        tiny_forms.meter,
        lambda m: m["states"][3].update(dtype="int32", start=0),
        "states[3].input",
        "but the graph has int64",
    ),
    (tiny_forms.time_major, lambda m: m.update(lengths="x", inputs=[]), "inputs", "at least 1 item"),
    (tiny.stepper, lambda m: m.update(lengths="h", states=m["states"][1:]), "lengths", "int32 or int64"),
    (tiny.sentiment, shaped("inputs", "time", "batch"), "inputs[0].shape", "must be [batch, time]"),
    (tiny.sentiment, shaped("inputs", "batch", "time", 3), "inputs[0].shape", "there are no features"),
    (tiny.forecast, shaped("inputs", "time", "batch"), "inputs[0].shape", "must be [batch, time]"),
]


@pytest.mark.parametrize(("write", "change", "field", "message"), BROKEN)
def test_a_manifest_that_does_not_fit_is_refused_by_field(
    tmp_path: Path, write: Write, change: Change, field: str, message: str
) -> None:
    directory = write(tmp_path)
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    tiny.write_manifest(directory, manifest)
    with pytest.raises(ManifestError) as refused:
        load(tmp_path, manifest["name"])
    assert (refused.value.file, refused.value.field) == (str(directory / "manifest.json"), field)
    assert message in refused.value.message


def test_a_state_that_leaves_in_another_shape_is_refused_where_the_graph_says_so(tmp_path: Path) -> None:
    directory = tiny_forms.grower(tmp_path, graph_shapes={"h_out": ["batch", 5]})
    with pytest.raises(ManifestError) as refused:
        load(tmp_path, "grower")
    assert (refused.value.file, refused.value.field) == (str(directory / "manifest.json"), "states[0].output")
    assert "['batch', 3]" in refused.value.message
    assert "['batch', 5]" in refused.value.message


def test_a_state_that_leaves_in_another_shape_is_refused_where_only_a_run_shows_it(tmp_path: Path) -> None:
    directory = tiny_forms.grower(tmp_path, graph_shapes={"h": ["n", "width"], "h_out": ["n", "wider"]})
    with pytest.raises(ManifestError) as refused:
        load(tmp_path, "grower")
    assert (refused.value.file, refused.value.field) == (str(directory / "manifest.json"), "states[0].output")
    assert refused.value.message == "h_out is declared ['batch', 3], but with a batch of 1 it is [1, 5]"


def test_an_output_of_another_shape_is_refused_where_only_a_run_shows_it(tmp_path: Path) -> None:
    output = tiny.tensor("y", "float32", "batch", 3)
    tiny_forms.crowd(tmp_path, outputs=[output], graph_shapes={"x": ["n", "f"], "h": ["n", "f"], "y": ["n", "g"]})
    with pytest.raises(
        ManifestError, match=r"declared \['batch', 3\], but with a batch of 1 it is \[1, 2\]"
    ) as refused:
        load(tmp_path, "crowd")
    assert refused.value.field == "outputs[0]"


def test_a_batch_axis_that_the_graph_fixes_to_more_than_one_row_is_refused(tmp_path: Path) -> None:
    tiny_forms.cell(tmp_path, graph_shapes={"x": [2, 2]})
    with pytest.raises(
        ManifestError,
        match=r"has \[2, 2\]; sizes must agree, 'time' and 'memory' be free in the graph, 'batch' be free",
    ) as refused:
        load(tmp_path, "cell")
    assert refused.value.field == "inputs[0]"


@pytest.mark.parametrize("write", [tiny_forms.crowd, tiny_forms.hearsay])
def test_a_graph_that_mixes_its_rows_is_refused(write: Write, tmp_path: Path) -> None:
    name = write(tmp_path).parent.name
    with pytest.raises(ManifestError, match="neighbours in the batch; the graph must keep the rows") as refused:
        load(tmp_path, name)
    assert refused.value.field == "inputs[0].shape"


def test_states_that_are_paired_wrongly_are_refused(tmp_path: Path) -> None:
    states = [tiny.state("h", 1, "batch", 4), tiny.state("c", 1, "batch", 4)]
    for state, output in zip(states, ("c_out", "h_out"), strict=True):
        state["output"] = output
    directory = tiny_forms.time_major(tmp_path)
    manifest = json.loads((directory / "manifest.json").read_text())
    tiny.write_manifest(directory, {**manifest, "states": states})
    with pytest.raises(ManifestError, match="chunks with carried state differ") as refused:
        load(tmp_path, "time-major")
    assert refused.value.field == "streamable"


def test_a_graph_that_says_nothing_of_its_shapes_is_served(tmp_path: Path) -> None:
    unknown = dict.fromkeys(("x", "h", "y", "h_out"))
    tiny_forms.column(tmp_path / "one", graph_shapes=unknown)
    tiny_forms.column(tmp_path / "other")
    rows = [Row(np.ones((3, 2), np.float32))]
    one, other = (load(tmp_path / name, "column").run(rows)[0] for name in ("one", "other"))
    assert isinstance(one, Answer)
    assert isinstance(other, Answer)
    assert one.state == other.state


@pytest.mark.parametrize("write", [tiny_forms.time_major, tiny_forms.meter])
def test_a_state_that_is_not_finite_is_refused_for_its_row_alone(tmp_path: Path, write: Write) -> None:
    engine = load(tmp_path, write(tmp_path).parent.name)
    steps = np.ones((2, 2), np.float32)
    (sound,) = engine.run([Row(steps)])
    assert isinstance(sound, Answer)
    broken = np.array([NAN], "<f4").tobytes() + sound.state[4:]
    first, bad, last = engine.run([Row(steps, sound.state), Row(steps, broken), Row(steps, sound.state)])
    assert isinstance(bad, StateInvalid)
    assert (bad.reason, bad.field) == ("not_finite", "state")
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert first.state == last.state


def test_inputs_that_drive_a_state_to_infinity_are_refused_for_their_row_alone(tmp_path: Path) -> None:
    tiny_forms.meter(tmp_path)
    engine = load(tmp_path, "meter")
    steps, far = np.ones((3, 2), np.float32), np.array([[3e38, 0], [-3e38, 0]], np.float32)
    first, bad, last = engine.run([Row(steps), Row(far), Row(steps)])
    assert isinstance(bad, NotFinite)
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert first.state == last.state


def test_weights_in_a_file_of_their_own_are_refused(tmp_path: Path) -> None:
    """No hash in the manifest would cover them."""
    directory = tiny.stepper(tmp_path)
    file = directory / "model.onnx"
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    manifest = json.loads((directory / "manifest.json").read_text())
    tiny.write_manifest(directory, {**manifest, "sha256": tiny.sha256(file)})
    with pytest.raises(ManifestError, match="external_data=False"):
        load(tmp_path, "stepper")
