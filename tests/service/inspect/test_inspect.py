"""`baton inspect` as a user types it: its drafts agree with manifests written by hand, and are served as they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny
import tiny_forms
import tiny_kinds
import tiny_plain
import torch
from conftest import ROOT, ServerFactory
from here import load_here
from onnx import load, save_model

from service.errors import ManifestError
from service.inspect import draft as inspection
from service.inspect.free_batch import free_batch
from service.inspect.hints import Hints, read_hints
from service.settings import Settings

CLOSE = 1e-5
STEPS = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)


def inspect(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    return subprocess.run(
        [sys.executable, "-m", "service", "inspect", str(file), *options],
        env=clean,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def drafted(file: Path, *options: str) -> dict[str, Any]:
    ended = inspect(file, *options)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def known_to_a_graph(manifest: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a person adds to a manifest: labels, start values, the values of constants."""
    tensors = {
        field: [{key: part[key] for key in ("name", "dtype", "shape")} for part in manifest[field]]
        for field in ("inputs", "outputs")
    }
    states = [{key: value for key, value in state.items() if key != "start"} for state in manifest["states"]]
    constants = sorted(manifest.get("constants", {}))
    return {**tensors, "states": states, "constants": constants, "lengths": manifest.get("lengths")}


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (tiny.stepper, {}),
        (tiny.stepper, {"constants": {"gain": 1}}),
        (tiny.stepper, {"constants": {"gain": [3, 0.5]}}),
        (tiny.stepper, {"lengths": None}),
        (tiny.number_stepper, {}),
        (tiny_forms.cell, {}),
        (tiny_forms.bare_cell, {}),
        (tiny_forms.time_major, {}),
        (tiny_forms.meter, {}),
        (tiny_forms.column, {}),
        (tiny_forms.codes, {}),
        (tiny_forms.dial, {}),
        (tiny_forms.cell, {"graph_shapes": tiny_forms.ONE_ROW["cell"]}),
        (tiny_forms.unbatched, {}),
        (tiny_forms.unbatched_sequence, {}),
    ],
)
def test_a_draft_says_what_the_manifest_written_by_hand_says(
    write: Callable[..., Path], changes: dict[str, Any], tmp_path: Path
) -> None:
    directory = write(tmp_path, **changes)
    by_hand = json.loads((directory / "manifest.json").read_text())
    made = inspection.draft(directory / "model.onnx", "model", Settings(), Hints(), optimisation="all")
    assert made.problem is None
    assert known_to_a_graph(json.loads(made.json())) == known_to_a_graph(by_hand)


@pytest.mark.parametrize("batch", ["batch", "s0", "unk__7", None])
def test_axes_of_any_name_or_none_are_found_by_running_the_graph(batch: str | None, tmp_path: Path) -> None:
    shapes = {"x": [None, batch, 2], "y": [None, 1, None, 4], "h": [1, batch, 4], "c": [1, batch, 4]}
    directory = tiny_forms.time_major(tmp_path, lengths=None, graph_shapes=shapes)
    ended = inspect(directory / "model.onnx")
    draft = json.loads(ended.stdout)
    assert draft["inputs"][0]["shape"] == ["time", "batch", 2]
    assert draft["outputs"][0]["shape"] == ["time", 1, "batch", 4]
    assert ("the axes' names do not tell" in ended.stderr) == (batch is None)


def test_where_names_mislead_the_pairs_that_carry_state_are_drafted(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(3, lengths="")
    y, h, c = build.recurrent("LSTM", "x", 2, 4, ["h", "c"])
    states = [
        {**tiny.state("h", 1, "batch", 4), "output": "c_out"},
        {**tiny.state("c", 1, "batch", 4), "output": "h_out"},
    ]
    directory = tiny.stepper(tmp_path)
    inputs = [
        tiny.tensor("x", "float32", "batch", "time", 2),
        *(tiny.tensor(n, "float32", 1, "batch", 4) for n in "hc"),
    ]
    outputs = [tiny.tensor("y", "float32", "batch", "time", 4)]
    outputs += [tiny.tensor(f"{n}_out", "float32", 1, "batch", 4) for n in "hc"]
    build.save(directory / "model.onnx", inputs, outputs, {"y": y, "h_out": c, "c_out": h})
    ended = inspect(directory / "model.onnx")
    assert json.loads(ended.stdout)["states"] == states
    said = "the names suggest states h -> h_out, c -> c_out, but only states h -> c_out, c -> h_out works"
    assert said in ended.stderr


def test_a_draft_says_itself_what_it_could_not_know(tmp_path: Path) -> None:
    ended = inspect(tiny_forms.meter(tmp_path) / "model.onnx", "--name", "gauge")
    draft = json.loads(ended.stdout)
    assert draft["name"] == "gauge"
    assert draft["description"].startswith("DRAFT")
    doubts = [line.split(". ", 1)[1] for line in ended.stderr.splitlines() if line.startswith("  ")]
    assert all(doubt in draft["description"] for doubt in doubts)
    assert [doubt.split(":")[0] for doubt in doubts] == [
        *("constants.rate", "inputs[0]", "outputs[0]", "outputs[1]", "outputs[2]"),
        *("states", "states", "provenance"),
    ]


class Foreign(torch.nn.Module):
    """A network as its makers write it: nothing of it was meant for Baton."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 5, num_layers=2, batch_first=batch_first)
        self.head = torch.nn.Linear(5, 2)

    def forward(
        self, features: torch.Tensor, h_prev: torch.Tensor, c_prev: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made, (h, c) = self.lstm(features, (h_prev, c_prev))
        return self.head(made), h, c


class ForeignCell(torch.nn.Module):
    """The same without a time axis."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.LSTMCell(3, 5)

    def forward(self, features: torch.Tensor, h_prev: torch.Tensor, c_prev: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h, c = self.cell(features, (h_prev, c_prev))
        return h * 2, h, c


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["batch-first", "time-major", "cell"])
def test_an_exported_torch_network_is_served_as_drafted(form: str, tmp_path: Path, start_server: ServerFactory) -> None:
    torch.manual_seed(7)
    names = {"input_names": ["features", "h_prev", "c_prev"], "output_names": ["scores", "h", "c"]}
    file, models = tmp_path / "My Net.v2.onnx", tmp_path / "models"
    if form == "cell":
        network: torch.nn.Module = ForeignCell().eval()
        batch, state = torch.export.Dim("batch"), torch.zeros(4, 5)
        arguments = (torch.zeros(4, 3), state, state)
        axes = ({0: batch},) * 3
        torch.onnx.export(
            network, arguments, file, dynamo=True, dynamic_shapes=axes, external_data=False, verbose=False, **names
        )
    else:
        network = Foreign(batch_first=form == "batch-first").eval()
        axes = {name: {1: "batch"} for name in ("h_prev", "c_prev", "h", "c")}
        order = {0: "batch", 1: "time"} if form == "batch-first" else {0: "time", 1: "batch"}
        axes |= dict.fromkeys(("features", "scores"), order)
        arguments = (torch.zeros(4, 4, 3), torch.zeros(2, 4, 5), torch.zeros(2, 4, 5))
        torch.onnx.export(network, arguments, file, dynamo=False, dynamic_axes=axes, **names)
    draft = drafted(file, "--output", str(models))
    assert [(s["input"], s["output"]) for s in draft["states"]] == [("h_prev", "h"), ("c_prev", "c")]
    assert json.loads((models / "my-net-v2" / "1" / "manifest.json").read_text()) == draft

    server = start_server(models, tmp_path / "state")
    items: list[dict[str, Any]] = [{"inputs": STEPS[:4].tolist()}]
    first = server.post("/v1/step", {"model": "my-net-v2", "items": items, "return": "all"}).json()["results"][0]
    items = [{"inputs": STEPS[4:].tolist(), "state": first["state"]}]
    second = server.post("/v1/step", {"model": "my-net-v2", "items": items, "return": "all"}).json()["results"][0]
    served = first["outputs"]["scores"] + second["outputs"]["scores"]
    assert np.allclose(served, by_hand(file, form), atol=CLOSE)
    server.stop()


def by_hand(file: Path, form: str) -> np.ndarray:
    """Run the raw graph over STEPS, as one sequence where it has a time axis."""
    session = onnxruntime.InferenceSession(file)
    if form != "cell":
        zeros = np.zeros((2, 1, 5), np.float32)
        axis = 0 if form == "batch-first" else 1
        feeds = {"features": np.expand_dims(STEPS, axis), "h_prev": zeros, "c_prev": zeros}
        return np.squeeze(session.run(["scores"], feeds)[0], axis)
    h = c = np.zeros((1, 5), np.float32)
    rows = []
    for step in STEPS:
        scores, h, c = session.run(None, {"features": step[None], "h_prev": h, "c_prev": c})
        rows.append(scores[0])
    return np.array(rows)


def test_a_voice_detector_s_stacked_state_and_sample_rate_are_found(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(9, lengths="")
    parts = build.add("Split", ["state"], 2, axis=0, num_outputs=2)
    (one_step,) = build.add("Unsqueeze", ["input", build.constant(np.array([1], np.int64))])
    _, h, c = build.recurrent("LSTM", one_step, 16, 8, parts)
    (stacked,) = build.add("Concat", [h, c], axis=0)
    (flat,) = build.add("Squeeze", [h, build.constant(np.array([0], np.int64))])
    (rate,) = build.add("Cast", ["sr"], to=1)
    (scaled,) = build.add("Div", [build.dense(flat, 8, 1), rate])
    inputs = [tiny.tensor("input", "float32", None, 16), tiny.tensor("state", "float32", 2, None, 8)]
    inputs.append(tiny.tensor("sr", "int64"))
    outputs = [tiny.tensor("output", "float32", None, 1), tiny.tensor("stateN", "float32", None, None, None)]
    build.save(tmp_path / "vad.onnx", inputs, outputs, {"output": scaled, "stateN": stacked})
    draft = drafted(tmp_path / "vad.onnx")
    assert draft["inputs"] == [tiny.tensor("input", "float32", "batch", 16)]
    assert draft["states"] == [
        {"input": "state", "output": "stateN", "dtype": "float32", "shape": [2, "batch", 8]},
    ]
    assert draft["constants"] == {"sr": 1}
    assert "constants.sr: the value is not in the graph" in draft["description"]


def test_a_constant_vector_is_drafted_with_as_many_numbers_as_it_takes(tmp_path: Path) -> None:
    draft = drafted(tiny.stepper(tmp_path, constants={"gain": [3, 0.5]}) / "model.onnx")
    assert draft["constants"] == {"gain": [1, 1]}
    assert "constants.gain: the 2 values are not in the graph; 1 stands in for each" in draft["description"]


def test_pairs_that_neither_names_nor_runs_tell_apart_are_asked_for(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(9, lengths="")
    sums = [build.add("Add", ["x", name])[0] for name in ("p", "q")]
    total = build.add("Add", sums)[0]
    inputs = [tiny.tensor(name, "float32", "batch", 2) for name in ("x", "p", "q")]
    outputs = [tiny.tensor(name, "float32", "batch", 2) for name in ("a1", "a2", "a3")]
    build.save(tmp_path / "sums.onnx", inputs, outputs, {"a1": total, "a2": sums[0], "a3": sums[1]})
    ended = inspect(tmp_path / "sums.onnx", "--output", str(tmp_path / "models"))
    assert json.loads(ended.stdout)["inputs"][0]["name"] == "x"
    assert "states: p -> a3, q -> a2 works as well; the names do not tell which is right" in ended.stderr
    assert "states: p -> a2, q -> a3 by type, shape and order alone" in ended.stderr
    assert ended.returncode == 1
    assert "If so, say it: --state p=a2 --state q=a3" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "models").exists()
    said = drafted(tmp_path / "sums.onnx", "--state", "p=a3", "--state", "q=a2", "--output", str(tmp_path / "models"))
    assert [(state["input"], state["output"]) for state in said["states"]] == [("p", "a3"), ("q", "a2")]


@pytest.mark.parametrize("shape", [["batch", 7, 3], [1, 1, 3], [None, None, None]])
def test_what_a_file_says_of_its_outputs_is_not_trusted(shape: list[int | None], tmp_path: Path) -> None:
    """Exporters write the sizes of their example there; the draft has what runs gave, and is served."""
    directory = tiny.stepper(tmp_path, graph_shapes={"y": shape})
    assert drafted(directory / "model.onnx")["outputs"] == [tiny.tensor("y", "float32", "batch", "time", 3)]


def test_outputs_that_cannot_answer_a_step_are_left_out_and_named(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(3, lengths="")
    y, h = build.recurrent("GRU", "x", 2, 4, ["h"])
    made = {"y": y, "h_out": h, "size": build.add("Shape", ["x"])[0], "loud": build.add("Greater", [y, "level"])[0]}
    inputs = [tiny.tensor("x", "float32", "batch", "time", 2), tiny.tensor("h", "float32", 1, "batch", 4)]
    outputs = [tiny.tensor("y", "float32", "batch", "time", 4), tiny.tensor("h_out", "float32", 1, "batch", 4)]
    outputs += [tiny.tensor("size", "int64", 3), tiny.tensor("loud", "bool", "batch", "time", 4)]
    build.save(tmp_path / "gru.onnx", [*inputs, tiny.tensor("level", "float32")], outputs, made)
    ended = inspect(tmp_path / "gru.onnx")
    assert [output["name"] for output in json.loads(ended.stdout)["outputs"]] == ["y"]
    assert "outputs: size [3] is left out: it has not one row per step" in ended.stderr
    assert "outputs: loud is left out: its type is bool" in ended.stderr


def calibrated(root: Path) -> Path:
    return tiny_kinds.weather(root, constants={"offsets": [0, 0.5]})


def fixed_inside(root: Path) -> Path:
    build = tiny.GraphBuilder(7, lengths="")
    (mixed,) = build.add("Add", [build.dense("x", 2, 4), build.dense("h", 4, 4)])
    (h,) = build.add("Reshape", [mixed, build.constant(np.array([1, 4], np.int64))])
    inputs = [tiny.tensor("x", "float32", "batch", 2), tiny.tensor("h", "float32", "batch", 4)]
    outputs = [tiny.tensor("y", "float32", "batch", 3), tiny.tensor("h_out", "float32", "batch", 4)]
    build.save(root / "model.onnx", inputs, outputs, {"y": build.dense(h, 4, 3), "h_out": h})
    return root


def masked(root: Path) -> Path:
    """A policy without a state: its mask has the shape of its answer."""
    build = tiny.GraphBuilder(3, lengths="")
    (actions,) = build.add("Mul", [build.dense("obs_0", 6, 2), "action_masks"])
    inputs = [tiny.tensor("obs_0", "float32", "batch", 6), tiny.tensor("action_masks", "float32", "batch", 2)]
    outputs = [tiny.tensor("continuous_actions", "float32", "batch", 2)]
    build.save(root / "model.onnx", inputs, outputs, {"continuous_actions": actions})
    return root


def bidirectional(root: Path) -> Path:
    return tiny.stepper(root, direction="bidirectional")


def unreturned_state(root: Path) -> Path:
    directory = tiny.stepper(root)
    build = tiny.GraphBuilder(1, lengths="")
    y, *_ = build.recurrent("LSTM", "x", 2, 4, ["h", "c"])
    inputs = [tiny.tensor("x", "float32", "batch", "time", 2)]
    inputs += [tiny.tensor("h", "float32", 1, "batch", 4), tiny.tensor("c", "float32", 1, "batch", 4)]
    outputs = [tiny.tensor("y", "float32", "batch", "time", 4)]
    build.save(directory / "model.onnx", inputs, outputs, {"y": y})
    return directory


def fixed_time(root: Path) -> Path:
    return tiny.stepper(root, lengths=None, graph_shapes={"x": ["batch", 7, 2], "y": ["batch", 7, 3]})


def half_precision(root: Path) -> Path:
    build = tiny.GraphBuilder(1, lengths="")
    names = {"y": "x", "h_out": "h"}
    inputs, outputs = ([tiny.tensor(n, "float16", "batch", 2) for n in part] for part in (names.values(), names))
    build.save(root / "model.onnx", inputs, outputs, names)
    return root


def brain_floats(root: Path) -> Path:
    return tiny_plain.echo(root, "bfloat16")


def weights_beside(root: Path) -> Path:
    directory = tiny.stepper(root)
    file = directory / "model.onnx"
    save_model(load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return directory


def growing_state(root: Path) -> Path:
    return tiny.stepper(root, lengths=None, graph_shapes={"h": [1, "batch", None]})


def no_onnx(root: Path) -> Path:
    (root / "model.onnx").write_text("no graph")
    return root


def missing(root: Path) -> Path:
    return root


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (fixed_inside, "the graph runs with one row and not with two: its batch axis is free by name alone"),
        (masked, "states: type and shape alone speak for action_masks -> continuous_actions, not the names"),
        (bidirectional, "streamable: chunks with carried state differ by"),
        (
            growing_state,
            "have several free axes each; one input is the sequence, and a state has one size for each row",
        ),
        (brain_floats, "inputs: x is tensor(bfloat16); a step model takes float32, float64, int32, int64"),
        (brain_floats, "nor is it a plain model: x is tensor(bfloat16); Baton feeds float32, float64, int32, int64,"),
        (weights_beside, "external_data=False"),
        (no_onnx, "model.onnx: file: ONNX Runtime cannot load it"),
        (missing, "model.onnx: file: is missing"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    write: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    ended = inspect(write(tmp_path) / "model.onnx", "--output", str(tmp_path / "models"))
    assert ended.returncode == 1
    assert says in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "models").exists()


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    directory = tiny.stepper(tmp_path)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    ended = inspect(directory / "model.onnx", "--name", "stepper", "--output", str(tmp_path))
    assert ended.returncode == 1
    assert "stepper/1 cannot be written: Directory not empty" in ended.stderr
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


@pytest.mark.parametrize("name", ["../escape", "Upper", ""])
def test_a_name_that_no_model_can_have_is_refused(name: str, tmp_path: Path) -> None:
    ended = inspect(tiny.stepper(tmp_path) / "model.onnx", f"--name={name}", "--output", str(tmp_path / "new"))
    if name:
        assert ended.returncode == 1
        assert ": name: String should match pattern" in ended.stderr
        assert not (tmp_path / "new").exists()
    else:
        assert (tmp_path / "new" / "model" / "1").is_dir()


NO_STEPS = [
    (tiny.forecast, "states: the graph has no state: it takes values"),
    (
        tiny_kinds.weather,
        "A classifier or forecaster has none: it is a plain model (--task tensor), or of a task of",
    ),
    (calibrated, "states: the graph has no state: it takes values and begins anew"),
    (fixed_time, "batch, time, and one size above 1, which is not so of x [batch, 7, 2]"),
    (unreturned_state, "states: no output has the type and shape of h [1, batch, 4]"),
    (tiny_forms.thirteenth, "states: no output is left with the type and shape of s0 [batch, 4]"),
    (half_precision, "inputs: x is float16; a step model takes float32, float64, int32, int64"),
    (tiny_plain.visits, "states: no output has the type and shape of profile [batch, 2], so it is no state"),
    (tiny_plain.words, "inputs: words is string; a step model takes"),
]


@pytest.mark.parametrize(("write", "says"), NO_STEPS)
def test_what_is_no_step_model_is_drafted_as_a_plain_one_with_the_reason(
    write: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    file = write(tmp_path) / "model.onnx"
    made = inspection.draft(file, "model", Settings(), Hints(), optimisation="all")
    assert (made.problem, made.manifest.task, made.manifest.streamable) == (None, "tensor", False)
    assert made.doubts[0].startswith("task: a plain model, for it is no step model (")
    assert says in made.doubts[0]
    with pytest.raises(ManifestError) as refused:
        inspection.draft(file, "model", Settings(), Hints(), "step", optimisation="all")
    assert says in f"{refused.value.field}: {refused.value.message}"


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (tiny_plain.classifier, {}),
        (tiny_plain.visits, {}),
        (tiny_plain.visits, {"lengths": None}),
        (tiny_plain.columns, {}),
        (tiny_plain.words, {}),
        *((lambda root, dtype=dtype: tiny_plain.echo(root, dtype), {}) for dtype in ("float16", "uint8", "bool")),
    ],
)
def test_a_plain_draft_says_what_the_manifest_written_by_hand_says(
    write: Callable[..., Path], changes: dict[str, Any], tmp_path: Path
) -> None:
    directory = write(tmp_path, **changes)
    by_hand = {"states": [], **json.loads((directory / "manifest.json").read_text())}
    made = inspection.draft(directory / "model.onnx", "model", Settings(), Hints(), optimisation="all")
    assert made.problem is None
    assert known_to_a_graph({"states": [], **json.loads(made.json())}) == known_to_a_graph(by_hand)
    assert (made.manifest.arithmetic == "float16") == (made.manifest.sequence.dtype == "float16")


def test_a_plain_draft_is_written_where_it_is_served(tmp_path: Path) -> None:
    file = tiny.stepper(tmp_path / "made") / "model.onnx"
    ended = inspect(file, "--task", "tensor", "--name", "plain", "--output", str(tmp_path / "models"))
    assert ended.returncode == 0, ended.stderr
    assert "tried: loads, and answers the same alone and in a batch" in ended.stderr
    draft = json.loads(ended.stdout)
    assert (draft["task"], [each["name"] for each in draft["inputs"]]) == ("tensor", ["x", "h", "c"])
    assert [output["shape"] for output in draft["outputs"][1:]] == [[1, "batch", 4]] * 2
    (engine,) = load_here(tmp_path / "models")
    assert engine.manifest.name == "plain"


def plain_draft(file: Path, *axes: str, **said: tuple[str, ...]) -> inspection.Draft:
    hints = read_hints(axes, said.get("constants", ()), said.get("states", ()))
    return inspection.draft(file, "model", Settings(), hints, "tensor", optimisation="all")


def test_where_names_do_not_tell_the_axes_of_a_plain_model_the_ways_that_work_are_told(tmp_path: Path) -> None:
    shapes: dict[str, list[int | None]] = {"x": [None, None, 1], "mask": [None, None], "y": [None, None, 1]}
    made = plain_draft(tiny_plain.columns(tmp_path, graph_shapes=shapes) / "model.onnx")
    assert [tensor.shape for tensor in made.manifest.inputs] == [("batch", "time", 1), ("batch", "time")]
    assert "inputs[1].shape: [batch, time] is a guess that works; the axes' names do not tell" in made.doubts
    assert "inputs: mask [time, batch] works as well" in made.doubts
    assert any("whether a row is equally long in x [?, ?, 1] and mask [?, ?]" in doubt for doubt in made.doubts)


def test_where_the_names_of_a_plain_model_s_axes_mislead_those_that_work_are_drafted(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(3, lengths="")
    y, _ = build.recurrent("GRU", "x", 2, 4, [])
    tensors = [[tiny.tensor(name, "float32", "time", "batch", size)] for name, size in (("x", 2), ("y", 4))]
    build.save(tmp_path / "gru.onnx", *tensors, {"y": y})
    made = plain_draft(tmp_path / "gru.onnx")
    assert (made.problem, made.manifest.sequence.shape) == (None, ("batch", "time", 2))
    assert made.doubts[-1] == "the names suggest inputs x [time, batch, 2], but only inputs x [batch, time, 2] works"


def test_a_plain_model_s_free_axis_that_is_no_time_is_found_or_asked_for(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(lengths="")
    shapes = [[tiny.tensor(name, "float32", None, None)] for name in "xy"]
    build.save(tmp_path / "table.onnx", *shapes, {"y": build.dense("x", 5, 2)})
    assert plain_draft(tmp_path / "table.onnx").manifest.sequence.shape == ("batch", 5)
    file = tiny_plain.echo(tmp_path, "float32", graph_shapes={"x": [None, None]}) / "model.onnx"
    with pytest.raises(ManifestError, match=r"runs with 1 features and with 2; .* as in --axis x=batch,SIZE"):
        plain_draft(file)
    assert plain_draft(file, "x=batch,2").manifest.outputs[0].shape == ("batch", 4)


def test_an_input_that_has_no_batch_axis_is_a_row_only_where_a_person_says_so(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(lengths="")
    tensors = [[tiny.tensor(name, "float32", 4, size)] for name, size in (("x", 3), ("y", 2))]
    build.save(tmp_path / "image.onnx", *tensors, {"y": build.dense("x", 3, 2)})
    with pytest.raises(ManifestError, match=r"no axis of x \[4, 3\] can be the batch: .*: --axis x=batch,4,3"):
        plain_draft(tmp_path / "image.onnx")
    made = plain_draft(tmp_path / "image.onnx", "x=batch,4,3")
    assert (made.problem, made.manifest.outputs[0].shape) == (None, ("batch", 4, 2))
    assert any("the graph takes one row a run" in doubt for doubt in made.doubts)


@pytest.mark.parametrize(
    ("shape", "said", "says"),
    [
        ([None, None, None], {}, r"more axes are free than batch and time; say them: --axis x=batch,time,SIZE"),
        (["batch", 3], {"states": ("x=y",)}, "a plain model carries no states; leave the option out"),
    ],
)
def test_what_cannot_be_a_plain_model_is_refused_with_what_would_help(
    shape: list[int | str | None], said: dict[str, Any], says: str, tmp_path: Path
) -> None:
    build = tiny.GraphBuilder(lengths="")
    tensors = [[tiny.tensor(name, "float32", *shape)] for name in "xy"]
    build.save(tmp_path / "odd.onnx", *tensors, {"y": build.add("Tanh", ["x"])[0]})
    with pytest.raises(ManifestError, match=says):
        plain_draft(tmp_path / "odd.onnx", **said)


@pytest.mark.parametrize(
    ("shape", "example"), [([3], "x=batch,3"), ([1], "x=batch"), ([], "x=batch"), ([4, 3], "x=batch,4,3")]
)
def test_what_is_to_be_said_of_an_input_that_is_no_row_unasked_can_be_said(
    shape: list[int], example: str, tmp_path: Path
) -> None:
    build = tiny.GraphBuilder(lengths="")
    tensors = [[tiny.tensor(name, "float32", *shape)] for name in "xy"]
    build.save(tmp_path / "fixed.onnx", *tensors, {"y": build.add("Tanh", ["x"])[0]})
    with pytest.raises(ManifestError, match=f"say it: --axis {example}$"):
        plain_draft(tmp_path / "fixed.onnx")
    made = plain_draft(tmp_path / "fixed.onnx", example)
    assert (made.problem, made.manifest.inputs[0].shape[0]) == (None, "batch")


def test_a_graph_that_takes_nothing_is_no_model(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(lengths="")
    made = build.add("Tanh", [build.constant(np.ones((1, 2), np.float32))])[0]
    build.save(tmp_path / "closed.onnx", [], [tiny.tensor("y", "float32", 1, 2)], {"y": made})
    with pytest.raises(ManifestError, match="the graph takes nothing"):
        plain_draft(tmp_path / "closed.onnx")


def test_the_batch_axis_of_a_plain_model_can_be_freed(tmp_path: Path) -> None:
    shapes: dict[str, list[int | str]] = {"readings": [1, "time", 3], "profile": [1, 2], "ward": [1]}
    file, out = tiny_plain.visits(tmp_path, lengths=None, graph_shapes=shapes) / "model.onnx", tmp_path / "free.onnx"
    found = plain_draft(file, "ward=batch")
    freed = free_batch(file, found, Settings(), read_hints(["ward=batch"], [], []), out, optimisation="all")
    assert (freed.problem, freed.manifest.task) == (None, "tensor")
    assert not any("one row a run" in doubt for doubt in freed.doubts)
