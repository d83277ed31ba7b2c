"""Files of others: what a graph does not tell is found by running it, or asked for, and what is drafted is served."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import tiny_forms
from conftest import ServerFactory, baton
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from tiny import state, tensor

from service.app import create_app
from service.errors import ManifestError, StartupError
from service.inspect.draft import Draft, draft
from service.inspect.free_batch import free_batch
from service.inspect.hints import Hints, read_hints
from service.model.onnx_session import OnnxSession
from service.settings import Settings

CLOSE = 1e-5
SILERO = ("silero_vad", "silero_vad_16k_op15", "silero_vad_half", "silero_vad_op18_ifless")
FRAMES = np.random.default_rng(3).normal(scale=0.1, size=(6, 576)).astype(np.float32)


def drafted(file: Path, **said: tuple[str, ...]) -> Draft:
    """Draft with `axes`, `constants` and `states` as they are typed."""
    options = {"axes": (), "constants": (), "states": (), **said}
    return draft(file, file.stem, Settings(), read_hints(**options), optimisation="all")


def refused(file: Path, **said: tuple[str, ...]) -> str:
    with pytest.raises(ManifestError) as refusal:
        drafted(file, **said)
    return str(refusal.value)


def states_of(made: Draft) -> list[dict[str, Any]]:
    return [pair.model_dump(mode="json", exclude={"start"}) for pair in made.manifest.states]


@pytest.fixture(scope="module")
def silero() -> Path:
    """The folder of the voice detectors; CI always has it."""
    found = importlib.util.find_spec("silero_vad")
    if found is None:
        assert "CI" not in os.environ, "no silero-vad, and under CI that may not be skipped"
        pytest.skip("no silero-vad; `make test` installs it")
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "data"


def detect(file: Path, frames: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file)
    carried, made = np.zeros((2, 1, 128), np.float32), []
    rate = {"sr": np.array(16000)} if any(node.name == "sr" for node in session.get_inputs()) else {}
    for frame in frames:
        (speech,), carried = session.run(["output", "stateN"], {"input": frame[None], "state": carried, **rate})
        made.append(speech)
    return np.array(made)


def test_voice_detectors_are_served_exactly_once_frame_and_rate_are_said(
    silero: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    for name in SILERO:
        file = silero / f"{name}.onnx"
        asked, rate = refused(file), () if name == "silero_vad_half" else ("sr=16000",)
        assert "say what its axes are, as in --axis input=batch,SIZE" in asked
        assert ("--constant sr=VALUE" in asked) == bool(rate)
        made = drafted(file, axes=("input=batch,576",), constants=rate)
        assert made.problem is None
        made.write(file, tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state")
    for name in SILERO:
        served, carried = [], {}
        for frames in (FRAMES[:4], FRAMES[4:]):
            items = [{"inputs": frames.tolist(), **carried}, {"inputs": FRAMES[::-1].tolist()}]
            answer = server.post("/v1/step", {"model": name, "items": items, "return": "all"}).json()
            served += answer["results"][0]["outputs"]["output"]
            carried = {"state": answer["results"][0]["state"]}
        np.testing.assert_allclose(served, detect(silero / f"{name}.onnx", FRAMES), atol=CLOSE)
    server.stop()


def test_a_size_of_features_that_alone_runs_is_found(tmp_path: Path) -> None:
    directory = tiny_forms.cell(tmp_path, graph_shapes={"x": [None, None]})
    made = drafted(directory / "model.onnx")
    assert made.problem is None
    assert made.manifest.sequence.shape == ("batch", 2)


def test_features_on_several_axes_are_asked_for_and_taken(tmp_path: Path) -> None:
    file = tiny_forms.spectrum(tmp_path) / "model.onnx"
    asked = drafted(file).problem
    assert asked is not None
    assert "If not, say what it is: --axis x=batch,3,1,2 for the sequence" in asked.message
    made = drafted(file, axes=("x=batch,3,1,2",))
    assert (made.problem, made.manifest.features) == (None, 6)
    assert made.manifest.outputs[0].shape == ("batch", 3, 1, 2)
    hints, out = Hints({"x": ("batch", 3, 1, 2)}), tmp_path / "freed.onnx"
    again = free_batch(file, made, Settings(), hints, out, optimisation="all")
    assert (again.problem, again.manifest.outputs[0].shape) == (None, ("batch", 3, 1, 2))


def test_axes_that_are_free_everywhere_are_asked_for_and_taken(tmp_path: Path) -> None:
    shapes = {name: ["N", "N", "N"] for name in ("x", "h", "c")}
    file = tiny.stepper(tmp_path, lengths=None, graph_shapes=shapes) / "model.onnx"
    assert "--axis c=1,batch,64" in refused(file)
    made = drafted(file, axes=("h=1,batch,4", "c=1,batch,4"))
    assert (made.problem, made.manifest.sequence.shape) == (None, ("batch", "time", 2))


def test_a_batch_axis_that_is_fixed_to_several_rows_is_refused(tmp_path: Path) -> None:
    shapes = {"x": [4, 2], "y": [4, 3], "h": [1, 4, 4], "h_out": [1, 4, 4]}
    says = refused(tiny_forms.cell(tmp_path, graph_shapes=shapes) / "model.onnx")
    assert "not so of x [4, 2] and h [1, 4, 4]: export batch and time as free axes, or of size 1" in says


@pytest.mark.parametrize("time_first", [False, True])
def test_axes_of_one_name_are_told_apart_by_running_the_graph(time_first: bool, tmp_path: Path) -> None:
    shapes = {"x": ["N", "N", 2], "h": [1, "N", 4], "c": [1, "N", 4]}
    write = tiny_forms.time_major if time_first else tiny.stepper
    made = drafted(write(tmp_path, lengths=None, graph_shapes=shapes) / "model.onnx")
    assert made.problem is None
    assert made.manifest.sequence.shape == (("time", "batch", 2) if time_first else ("batch", "time", 2))
    assert any("the axes' names do not tell" in doubt for doubt in made.doubts)


def test_axes_of_one_name_and_two_sizes_do_not_mislead_the_runtime(tmp_path: Path) -> None:
    """ONNX Runtime would give a tensor of [batch, 4] the memory of one of [time, 4]."""
    build = tiny.GraphBuilder(3, lengths="")
    y, h = build.recurrent("GRU", "x", 4, 4, ["h"])
    means = []
    for name in ("h", "x"):
        (mean,) = build.add("ReduceMean", [name, build.constant(np.array([0], np.int64))], keepdims=0)
        means.append(build.add("Tanh", build.add("Sigmoid", [mean]))[0])
    (by_row,) = build.add("Unsqueeze", [means[0], build.constant(np.array([1], np.int64))])
    (nothing,) = build.add("Mul", [means[1], build.constant(np.array(0, np.float32))])
    (made,) = build.add("Sum", [y, by_row, nothing])
    inputs = [tensor("x", "float32", "N", "N", 4), tensor("h", "float32", 1, "N", 4)]
    outputs = [tensor("y", "float32", "N", "N", 4), tensor("h_out", "float32", 1, "N", 4)]
    build.save(tmp_path / "alike.onnx", inputs, outputs, {"y": made, "h_out": h})
    session = OnnxSession(
        tmp_path / "alike.onnx",
        (tmp_path / "alike.onnx").read_bytes(),
        device="cpu",
        intra_op_threads=1,
        optimisation="all",
    )
    for rows, steps in itertools.product(range(1, 6), repeat=2):
        feeds = {"x": np.ones((rows, steps, 4), np.float32), "h": np.zeros((1, rows, 4), np.float32)}
        assert session.run(["y"], feeds)[0].shape == (rows, steps, 4)


@pytest.mark.parametrize(("counts", "lengths"), [(True, None), (False, "x_lens")])
def test_what_is_named_like_lengths_is_a_state_where_it_comes_out_grown(
    counts: bool, lengths: str | None, tmp_path: Path
) -> None:
    build = tiny.GraphBuilder(4, lengths="" if counts else "x_lens")
    y, h = build.recurrent("GRU", "x", 2, 4, ["h"])
    (size,) = build.add("Shape", ["x"], start=1, end=2)
    (count,) = build.add("Add", ["x_lens", build.add("Cast", [size], to=TensorProto.INT32)[0]])
    inputs = [tensor("x", "float32", "N", "T", 2), tensor("h", "float32", 1, "N", 4), tensor("x_lens", "int32", "N")]
    outputs = [tensor("y", "float32", "N", "T", 4), tensor("new_h", "float32", 1, "N", 4)]
    made = {"y": y, "new_h": h, "new_x_lens": count if counts else "x_lens"}
    build.save(tmp_path / "lens.onnx", inputs, [*outputs, tensor("new_x_lens", "int32", "N")], made)
    found = drafted(tmp_path / "lens.onnx")
    assert (found.problem, found.manifest.lengths) == (None, lengths)
    assert [pair.output for pair in found.manifest.states] == ["new_h", "new_x_lens"][: 1 + counts]


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"axes": ("y=batch,2",)}, "--axis: the graph has no input 'y'; it has x, h, c, gain"),
        ({"axes": ("x=batch,2",)}, "--axis: x is said to be ['batch', 2], but the graph has ['batch', 'time', 2]"),
        ({"axes": ("x=batch,time,3",)}, "--axis: x is said to be ['batch', 'time', 3], but the graph has"),
        ({"states": ("h=c",)}, "--state: the graph has no output 'c'; it has y, h_out, c_out"),
        ({"states": ("h=y",)}, "states: --state h=y cannot be: y has another type or shape"),
        ({"constants": ("h=1",)}, "--constant: h [1, 'batch', 4] has a free axis; a constant has a fixed shape"),
        ({"constants": ("gain=1",), "axes": ("gain=batch",)}, "--constant: gain is said to be something else as well"),
    ],
)
def test_what_is_said_and_cannot_be_is_refused(said: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = tiny.stepper(tmp_path, lengths=None, constants={"gain": 1}) / "model.onnx"
    assert says in refused(file, **said)


@pytest.mark.parametrize(
    ("option", "texts"),
    [
        *(("axes", (text,)) for text in ("x", "=batch,2", "x=", "x=batch,batch", "x=batch,0", "x=2,3")),
        ("axes", ("x=batch,2", "x=batch,3")),
        *(("constants", (text,)) for text in ("sr", "=1", "sr=", "sr=nan", "sr=1,two")),
        *(("states", (text,)) for text in ("h", "=hn", "h=")),
    ],
)
def test_an_option_that_cannot_be_read_is_refused_with_an_example(option: str, texts: tuple[str, ...]) -> None:
    with pytest.raises(StartupError, match=r"give each input once, as in --(axis|constant|state) \w+="):
        read_hints(**{"axes": (), "constants": (), "states": (), option: texts})


def test_a_constant_that_is_said_is_no_doubt(tmp_path: Path) -> None:
    file = tiny.stepper(tmp_path, lengths=None, constants={"gain": [3, 0.5]}) / "model.onnx"
    made = drafted(file, constants=("gain=3,0.5",))
    assert made.manifest.constants == {"gain": (3, 0.5)}
    assert not any("gain" in doubt for doubt in made.doubts)


def quantised(root: Path) -> Path:
    directory = tiny.stepper(root, lengths=None, constants={"gain": [1, 1]})
    file = directory / "model.onnx"
    quantize_dynamic(file, file, weight_type=QuantType.QInt8, reduce_range=True)
    return file


def test_a_graph_that_quantises_as_it_runs_is_drafted_as_int8(tmp_path: Path) -> None:
    made = drafted(quantised(tmp_path), constants=("gain=1,3",))
    assert (made.problem, made.manifest.arithmetic) == (None, "int8")


def test_int8_that_a_manifest_does_not_declare_is_named(tmp_path: Path) -> None:
    directory = quantised(tmp_path).parent
    manifest = json.loads((directory / "manifest.json").read_text())
    sha256 = tiny.sha256(directory / "model.onnx")
    tiny.write_manifest(directory, {**manifest, "sha256": sha256, "constants": {"gain": [1, 3]}})
    with pytest.raises(ManifestError, match=r'arithmetic: .* so declare "arithmetic": "int8"'):
        create_app(Settings(models_dir=tmp_path, state_dir=tmp_path / ".state"))


def test_where_int8_moves_answers_too_far_its_scales_are_named(tmp_path: Path) -> None:
    made = drafted(quantised(tmp_path), constants=("gain=1,100",))
    assert made.problem is not None
    assert made.problem.field == "arithmetic"
    assert "scales activations to int8 over all that a run holds" in made.problem.message
    assert "declared" not in made.problem.message


def spoken(root: Path) -> Path:
    """A graph of one row, its reshapes written for one, whose axes of size 1 do not tell which is batch."""
    build = tiny.GraphBuilder(16, lengths="")
    (rows,) = build.add("Reshape", ["x", build.constant(np.array([1, -1, 2], np.int64))])
    y, h = build.recurrent("GRU", rows, 2, 4, ["h"])
    (halves,) = build.add("Reshape", [y, build.constant(np.array([1, -1, 2, 2], np.int64))])
    (swapped,) = build.add("Transpose", [halves], perm=[0, 1, 3, 2])
    (made,) = build.add("Reshape", [swapped, build.constant(np.array([1, -1, 4], np.int64))])
    inputs = [tensor("x", "float32", 1, "time", 2), tensor("h", "float32", 1, 1, 4)]
    outputs = [tensor("y", "float32", 1, "time", 3), tensor("h_out", "float32", 1, 1, 4)]
    build.save(root / "spoken.onnx", inputs, outputs, {"y": build.dense(made, 4, 3), "h_out": h})
    return root / "spoken.onnx"


def freed(file: Path, out: Path) -> Draft:
    return free_batch(file, drafted(file), Settings(), Hints(), out, optimisation="all")


def test_a_freed_batch_axis_lets_rows_share_a_run_and_changes_no_answer(tmp_path: Path) -> None:
    file, out = spoken(tmp_path), tmp_path / "freed.onnx"
    made = freed(file, out)
    assert (made.problem, made.manifest.sequence.shape) == (None, ("batch", "time", 2))
    assert states_of(made) == [state("h", 1, "batch", 4)]
    rng = np.random.default_rng(1)
    x, h = rng.normal(size=(3, 5, 2)).astype(np.float32), rng.normal(size=(1, 3, 4)).astype(np.float32)
    one, many = (onnxruntime.InferenceSession(path) for path in (file, out))
    together = many.run(["y", "h_out"], {"x": x, "h": h})
    for row in range(3):
        alone = one.run(["y", "h_out"], {"x": x[row : row + 1], "h": h[:, row : row + 1]})
        np.testing.assert_allclose(together[0][row], alone[0][0], atol=CLOSE)
        np.testing.assert_allclose(together[1][:, row], alone[1][:, 0], atol=CLOSE)


def mixing(root: Path) -> Path:
    """With one row there is nobody to be mixed with, so that only a freed axis shows it."""
    return tiny_forms.crowd(root, graph_shapes={name: [1, 2] for name in ("x", "h", "y", "h_out")}) / "model.onnx"


def hearsay(root: Path) -> Path:
    shapes = {"x": [1, "time", 2], "y": [1, "time", 4], "h": [1, 1, 4], "h_out": [1, 1, 4]}
    return tiny_forms.hearsay(root, graph_shapes=shapes) / "model.onnx"


def joined(root: Path) -> Path:
    build = tiny.GraphBuilder(17, lengths="")
    (mixed,) = build.add("Add", [build.dense("x", 2, 4), "h"])
    (flat,) = build.add("Reshape", [mixed, build.constant(np.array([4], np.int64))])
    (h,) = build.add("Unsqueeze", [build.add("Tanh", [flat])[0], build.constant(np.array([0], np.int64))])
    inputs, outputs = (
        [tensor(a, "float32", 1, 2), tensor(b, "float32", 1, 4)] for a, b in (("x", "h"), ("y", "h_out"))
    )
    build.save(root / "model.onnx", inputs, outputs, {"y": build.dense(h, 4, 2), "h_out": h})
    return root / "model.onnx"


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (mixing, r"cannot be rewritten safely.*: a row's answer changes by .* with its neighbours"),
        (hearsay, r"cannot be rewritten safely.*: a row's answer changes by .* with its neighbours"),
        (joined, r"cannot be rewritten safely.*: the reshape reshape_\d+_0 to \[4\] has no place for more rows"),
        (lambda root: tiny_forms.cell(root) / "model.onnx", "the batch axis is free already; leave the option out"),
        (lambda root: tiny_forms.unbatched(root) / "model.onnx", "x, h, count has no batch axis that could be freed"),
    ],
)
def test_an_axis_that_cannot_be_freed_is_refused(write: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    file = write(tmp_path)
    with pytest.raises(StartupError, match=says):
        freed(file, tmp_path / "freed.onnx")


def test_without_what_rewrites_graphs_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(StartupError, match=r"pip install 'baton-serving\[train\]'"):
        freed(spoken(tmp_path), tmp_path / "freed.onnx")


def test_a_freed_graph_is_written_where_it_can_be_served(tmp_path: Path) -> None:
    said = ("--axis", "x=batch,time,2", "--state", "h=h_out")
    ended = baton("inspect", str(spoken(tmp_path)), *said, "--free-batch", "--output", str(tmp_path / "models"))
    assert ended.returncode == 0, ended.stderr
    graph = onnx.load(tmp_path / "models" / "spoken" / "1" / "model.onnx").graph
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in graph.input] == ["batch", ""]
    assert "the batch axis was freed" in ended.stderr
