"""ONNX's own test cases of RNN, LSTM and GRU: run by the service's runtime, and served as models with their states.

The cases come with the onnx package: graph, inputs and expected outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import Server
from onnx import helper, numpy_helper, save
from onnx.backend.test.loader import load_model_tests

from service.contract.files import read_manifest
from service.engine.engine import Engine
from service.engine.probe import probe
from service.errors import ManifestError
from service.metrics import Metrics, ModelMetrics
from service.model.onnx_session import OnnxSession
from service.model.repository import load_model
from service.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other operators' cases overflow on purpose
    CASES = {
        case.name.removeprefix("test_"): case
        for case in load_model_tests(kind="node")
        if case.model.graph.node[-1].op_type in tiny.GATES
    }
BATCHWISE = {name for name in CASES if name.endswith("_batchwise")}
BACKWARD = {name for name in CASES if name.endswith(("_reverse", "_bidirectional"))}
FORWARD = sorted(CASES.keys() - BATCHWISE - BACKWARD)
STEPS = 6


def load(file: Path) -> OnnxSession:
    return OnnxSession(file, file.read_bytes(), device="cpu", intra_op_threads=1, optimisation="all")


def attributes(name: str) -> dict[str, Any]:
    node = CASES[name].model.graph.node[-1]
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_every_kind_of_case_is_here() -> None:
    assert len(CASES) >= 18
    for operator in ("rnn", "lstm", "gru"):
        for kind in ("defaults", "with_initial_bias", "batchwise", "reverse", "bidirectional"):
            assert any(operator in name and name.endswith(kind) for name in CASES), (operator, kind)
    assert {"lstm_with_peepholes", "gru_seq_length", "rnn_seq_length"} <= set(CASES)


@pytest.mark.parametrize("name", sorted(CASES.keys() - BATCHWISE))
def test_a_case_gives_its_expected_outputs(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    save(case.model, tmp_path / "case.onnx")
    session = load(tmp_path / "case.onnx")
    for inputs, expected in case.data_sets:
        feeds = {node.name: value for node, value in zip(session.inputs, inputs, strict=True)}
        found = session.run([node.name for node in session.outputs], feeds)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("name", sorted(BATCHWISE))
def test_a_batchwise_case_is_refused_with_the_runtime_s_reason(name: str, tmp_path: Path) -> None:
    assert attributes(name)["layout"] == 1
    save(CASES[name].model, tmp_path / "case.onnx")
    with pytest.raises(ManifestError, match=r"Batchwise recurrent operations .* are not supported"):
        load(tmp_path / "case.onnx")


def write_served(root: Path, name: str) -> Path:
    """Write the case as a model: its weights in the graph, batch and time free, its states in and out."""
    node = CASES[name].model.graph.node[-1]
    values = dict(zip((i for i in node.input if i), CASES[name].data_sets[0][0], strict=True))
    features, hidden = values["X"].shape[2], attributes(name)["hidden_size"]
    directions = values["W"].shape[0]
    slots = dict(
        zip(
            ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"), [*node.input, *[""] * 8], strict=False
        )
    )
    carried = ("h", "c") if node.op_type == "LSTM" else ("h",)
    weights = [numpy_helper.from_array(values[slots[s]], s) for s in ("W", "R", "B", "P") if slots[s]]
    given = ["X", "W", "R", "B" if slots["B"] else "", "", *(f"initial_{state}" for state in carried)]
    given += ["P"] if slots["P"] else []
    made = ["Y", *(f"Y_{state}" for state in carried)]
    states = [tiny.state(f"initial_{state}", directions, "batch", hidden) for state in carried]
    for state, output in zip(states, made[1:], strict=True):
        state["output"] = output
    manifest = {
        "schema_version": 1,
        "name": name,
        "version": "1",
        "task": "step",
        "streamable": True,
        "file": "model.onnx",
        "inputs": [tiny.tensor("X", "float32", "time", "batch", features)],
        "outputs": [tiny.tensor("Y", "float32", "time", directions, "batch", hidden)],
        "states": states,
    }
    inputs = [*manifest["inputs"], *(tiny.tensor(s["input"], "float32", *s["shape"]) for s in states)]
    outputs = [*manifest["outputs"], *(tiny.tensor(s["output"], "float32", *s["shape"]) for s in states)]
    build = tiny.GraphBuilder()
    build.constants = weights
    build.nodes = [helper.make_node(node.op_type, given, made, **attributes(name))]
    directory = root / name / "1"
    directory.mkdir(parents=True)
    build.save(directory / "model.onnx", inputs, outputs, {})
    tiny.write_manifest(directory, {**manifest, "sha256": tiny.sha256(directory / "model.onnx")})
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("operators")
    for name in FORWARD:
        write_served(root, name)
    return root


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(models, tmp_path_factory.mktemp("state"))
    yield running
    running.stop()


def step(server: Server, name: str, item: dict[str, Any]) -> dict[str, Any]:
    answer = server.post("/v1/step", {"model": name, "items": [item], "return": "all"})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


@pytest.mark.parametrize("name", FORWARD)
def test_a_served_case_answers_with_its_expected_outputs(name: str, served: Server) -> None:
    """A new session begins at zeros, as the cases do; the last Y is the expected Y_h."""
    case = CASES[name]
    (inputs, (expected,)) = case.data_sets[0]
    for row in range(inputs[0].shape[1]):
        made = step(served, name, {"inputs": inputs[0][:, row].tolist()})["outputs"]["Y"]
        np.testing.assert_allclose(made[-1], expected[:, row], rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("name", FORWARD)
def test_a_served_case_carries_its_state_from_step_to_step(name: str, served: Server, models: Path) -> None:
    session = load(models / name / "1" / "model.onnx")
    shapes = {node.name: node.shape for node in session.inputs}
    steps = np.random.default_rng(0).normal(size=(STEPS, 1, shapes["X"][2])).astype(np.float32)
    zeros = {given: np.zeros((1, 1, shape[2]), np.float32) for given, shape in shapes.items() if given != "X"}
    (whole,) = session.run(["Y"], {"X": steps, **zeros})
    item: dict[str, Any] = {}
    for index in range(STEPS):
        result = step(served, name, {**item, "inputs": steps[index].tolist()})
        np.testing.assert_allclose(result["outputs"]["Y"][0], whole[index, :, 0], rtol=1e-5, atol=1e-6)
        item = {"state": result["state"]}


@pytest.mark.parametrize("name", sorted(BACKWARD))
def test_a_backward_case_declared_streamable_is_refused_at_load_with_the_reason(name: str, tmp_path: Path) -> None:
    directory = write_served(tmp_path, name)
    model = load_model(directory, read_manifest(directory), device="cpu", intra_op_threads=1, optimisation="all")
    with pytest.raises(ManifestError, match=r"streamable: chunks with carried state differ .* a reverse direction"):
        probe(Engine(model, Settings(), ModelMetrics(Metrics(), name, "1")))
