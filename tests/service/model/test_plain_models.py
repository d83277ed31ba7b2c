"""Models of task `tensor`: any dtype, several inputs, with and without time, and values that pass as they are.

What an engine answers is compared with ONNX Runtime on the raw graph, fed by hand with one row at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest
import tiny
import tiny_plain
from conftest import ServerFactory
from here import load_here

from service.contract.tensors import TensorDtype
from service.engine.costs import measure_costs, run_largest
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.model.onnx_session import OnnxSession, array_dtype
from service.settings import Settings

CLOSE = 1e-5
NAN, INF = float("nan"), float("inf")
DTYPES = get_args(TensorDtype)
WIDTHS = {"float16": 65504, "float64": 1e300, **{f"int{bits}": -(2 ** (bits - 1)) for bits in (8, 16, 32, 64)}}
WIDTHS |= {f"uint{bits}": 2**bits - 1 for bits in (8, 16, 32, 64)}
RNG = np.random.default_rng(3)
VISITS = [
    Row(
        RNG.normal(size=(steps, 3)).astype(np.float32),
        others=(RNG.normal(size=2).astype(np.float32), np.array(steps % 2)),
    )
    for steps in (4, 1, 6, 4)
]


def load(root: Path, name: str) -> Engine:
    (engine,) = [engine for engine in load_here(root) if engine.manifest.name == name]
    return engine


def run(engine: Engine, rows: list[Row]) -> list[dict[str, np.ndarray]]:
    """Prepare and run rows as a batcher does, all together."""
    assert engine.prepare(rows) == [len(row.steps) for row in rows]
    answers = engine.run(rows)
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return [answer.outputs for answer in answers if isinstance(answer, Answer)]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each run of a graph so far; rows that fail together would be run alone."""
    made: list[int] = []
    inner = OnnxSession.run

    def counted(session: OnnxSession, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        made.append(len(next(iter(feeds.values()))))
        return inner(session, names, feeds)

    monkeypatch.setattr(OnnxSession, "run", counted)
    return made


def by_hand(directory: Path, **feeds: Any) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_same(made: dict[str, np.ndarray], due: dict[str, np.ndarray]) -> None:
    assert made.keys() == due.keys()
    for name, values in due.items():
        assert isinstance(made[name], np.ndarray)
        assert (made[name].dtype, made[name].shape) == (values.dtype, values.shape)
        if values.dtype.hasobject:
            np.testing.assert_array_equal(made[name], values)
        else:
            np.testing.assert_allclose(made[name], values, rtol=0, atol=CLOSE)


def values_of(dtype: str) -> np.ndarray:
    """Two rows of `dtype`, the widest value that it has among them."""
    if dtype == "string":
        return np.array([["", "naïve 🎻"], ["a\0b", "1"]], object)
    return np.array([[0, 1], [1, WIDTHS.get(dtype, 1)]], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_goes_in_and_out_unchanged(tmp_path: Path, dtype: str) -> None:
    tiny_plain.echo(tmp_path, dtype)
    values = values_of(dtype)
    made = run(load(tmp_path, f"echo-{dtype}"), [Row(row[None]) for row in values])
    for row, outputs in zip(values, made, strict=True):
        assert outputs["y"].dtype == array_dtype(dtype)
        assert outputs["y"].tolist() == [[*row, *row]]


def test_ids_in_and_probabilities_out_need_no_tokenizer(tmp_path: Path) -> None:
    directory = tiny_plain.classifier(tmp_path)
    ids = [np.arange(length, dtype=np.int32) for length in (5, 2, 8)]
    made = run(load(tmp_path, "classifier"), [Row(each) for each in ids])
    for each, outputs in zip(ids, made, strict=True):
        due = by_hand(directory, ids=each[None], lengths=np.array([len(each)], np.int32))["scores"][0]
        assert_same(outputs, {"scores": due})
        assert outputs["scores"].sum() == pytest.approx(1)


def visits_by_hand(directory: Path, row: Row, **lengths: Any) -> dict[str, np.ndarray]:
    profile, ward = row.others
    made = by_hand(directory, readings=row.steps[None], profile=profile[None], ward=ward[None], **lengths)
    return {name: values[0, ...] for name, values in made.items()}


def test_ragged_rows_of_several_inputs_share_a_run_and_are_answered_as_alone(tmp_path: Path, runs: list[int]) -> None:
    directory = tiny_plain.visits(tmp_path)
    engine = load(tmp_path, "visits")
    runs.clear()
    together = run(engine, VISITS)
    assert runs == [4]
    for row, outputs in zip(VISITS, together, strict=True):
        assert_same(outputs, visits_by_hand(directory, row, lengths=np.array([len(row.steps)], np.int32)))
        assert_same(outputs, run(engine, [row])[0])


@pytest.mark.anyio
async def test_without_lengths_rows_of_unequal_length_do_not_share_a_run(tmp_path: Path) -> None:
    directory = tiny_plain.visits(tmp_path, lengths=None)
    engine = load(tmp_path, "visits")
    engine.batcher.start()
    with engine.batcher.submit(VISITS, tenant="", timeout_s=60) as answer:
        served = await answer
    await engine.batcher.drain()
    for row, outcome in zip(VISITS, served.outcomes, strict=True):
        assert isinstance(outcome, Answer)
        assert_same(outcome.outputs, visits_by_hand(directory, row))


def test_axes_stand_in_the_order_of_the_graph(tmp_path: Path) -> None:
    tiny_plain.columns(tmp_path)
    x = np.array([[[1.0], [2], [3]], [[4], [5], [6]]], np.float32)
    mask = np.array([[True, False, True], [False, True, True]])
    made = run(load(tmp_path, "columns"), [Row(steps, others=(keep,)) for steps, keep in zip(x, mask, strict=True)])
    assert [outputs["y"].tolist() for outputs in made] == [[[1], [0], [3]], [[0], [5], [6]]]


@pytest.mark.parametrize(
    "graph_shapes",
    [
        {"readings": [1, "time", 3], "profile": [1, 2], "ward": [1]},
        {"readings": ["n", "time", 3], "profile": ["n", 2], "ward": [1]},
    ],
)
def test_a_graph_of_one_row_runs_row_by_row(tmp_path: Path, graph_shapes: dict[str, list[int | str]]) -> None:
    directory = tiny_plain.visits(tmp_path, lengths=None, graph_shapes=graph_shapes)
    engine = load(tmp_path, "visits")
    assert engine.model.one_row
    for row, outputs in zip(VISITS, run(engine, VISITS), strict=True):
        assert_same(outputs, visits_by_hand(directory, row))


def test_an_axis_that_the_graph_lacks_may_be_the_batch(tmp_path: Path) -> None:
    build = tiny.GraphBuilder()
    made = {"y": build.add("Add", ["x", "shift"])[0]}
    inputs = [tiny.tensor("x", "int8", "batch", 2), tiny.tensor("shift", "int8", "batch")]
    shapes: dict[str, list[int | str]] = {"x": [2], "shift": [], "y": [2]}
    tiny_plain.plain(
        tmp_path,
        build,
        made,
        name="bare",
        inputs=inputs,
        outputs=[tiny.tensor("y", "int8", "batch", 2)],
        graph_shapes=shapes,
    )
    x, shifts = np.array([[1, 2], [3, 4]], np.int8), np.array([10, 20], np.int8)
    rows = [Row(row[None], others=(shift,)) for row, shift in zip(x, shifts, strict=True)]
    assert [outputs["y"].tolist() for outputs in run(load(tmp_path, "bare"), rows)] == [[[11, 12]], [[23, 24]]]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity_pass_as_they_are(tmp_path: Path, dtype: str) -> None:
    tiny_plain.echo(tmp_path, dtype)
    rows = [[NAN, 1.0], [INF, -INF], [0.0, 2.0]]
    made = run(load(tmp_path, f"echo-{dtype}"), [Row(np.array([row], dtype)) for row in rows])
    for row, outputs in zip(rows, made, strict=True):
        np.testing.assert_array_equal(outputs["y"], [[*row, *row]])


def test_a_graph_that_gives_nan_and_infinity_to_everyone_is_served(tmp_path: Path) -> None:
    """It answers alike alone and in a batch, which is what is asked of it."""
    build = tiny.GraphBuilder()
    (zeros,) = build.add("Mul", ["x", build.constant(np.array([0, 0], np.float32))])
    (made,) = build.add("Div", [build.constant(np.array([0, 1], np.float32)), zeros])
    tensors = [[tiny.tensor(name, "float32", "batch", 2)] for name in "xy"]
    tiny_plain.plain(tmp_path, build, {"y": made}, name="void", inputs=tensors[0], outputs=tensors[1])
    (outputs,) = run(load(tmp_path, "void"), [Row(np.ones((1, 2), np.float32))])
    np.testing.assert_array_equal(outputs["y"], [[NAN, INF]])


def test_texts_are_padded_to_share_a_run_and_cut_to_their_own_steps(tmp_path: Path, runs: list[int]) -> None:
    tiny_plain.words(tmp_path)
    engine = load(tmp_path, "words")
    words, marks, suffixes = (
        [np.array(texts, object) for texts in (["a", "b", ""], ["ç"])],
        [np.array(texts, object) for texts in (["1", "2", "3"], [""])],
        np.array(["!", "\0"], object),
    )
    rows = [Row(steps, others=tuple(others)) for steps, *others in zip(words, marks, suffixes, strict=True)]
    runs.clear()
    made = run(engine, rows)
    assert runs == [2]
    assert [outputs["joined"].tolist() for outputs in made] == [["a1!", "b2!", "3!"], ["ç\0"]]
    assert [outputs["count"].tolist() for outputs in made] == [2, 1]


def test_its_largest_run_and_its_costs_are_tried_as_for_any_model(tmp_path: Path, runs: list[int]) -> None:
    tiny_plain.visits(tmp_path)
    tiny_plain.echo(tmp_path, "string")
    for engine, largest in zip(load_here(tmp_path), (128, 1), strict=True):
        runs.clear()
        run_largest(engine, Settings())
        assert runs == [largest]
        assert measure_costs(engine, Settings()).overhead_cells > 0


def test_plain_models_are_served_and_listed(tmp_path: Path, start_server: ServerFactory) -> None:
    tiny_plain.visits(tmp_path / "models")
    tiny_plain.echo(tmp_path / "models", "string")
    server = start_server(tmp_path / "models", tmp_path / "state")
    lines = server.client.get("/v1/models").json()["models"]
    assert {line["name"]: (line["task"], line["streamable"]) for line in lines} == {
        "visits": ("tensor", False),
        "echo-string": ("tensor", False),
    }
    facts = server.client.get("/v1/models/visits").json()
    assert [(each["name"], each["dtype"]) for each in facts["inputs"]] == [
        ("profile", "float32"),
        ("readings", "float32"),
        ("ward", "int64"),
    ]
    error = server.post("/v1/step", {"model": "visits", "items": [{"values": [1]}]}).json()["error"]
    assert (error["code"], error["message"]) == (
        "wrong_task",
        "'visits' is for task 'tensor'; for 'step' there is no model",
    )
    server.stop()
