"""Recurrent graphs of every form, served from hand-written manifests through a real server.

What the server answers is compared with ONNX Runtime on the raw graph, fed by hand with one row at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny
import tiny_forms
from conftest import Server, ServerFactory
from streams import Stream

from baton_client import Client
from service.contract.files import read_manifest
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.metrics import Metrics, ModelMetrics
from service.model.forward import Forward
from service.model.graph_check import check_graph
from service.model.onnx_session import OnnxSession
from service.model.repository import load_model
from service.settings import Settings

pytestmark = pytest.mark.old_cpu

CLOSE = 1e-5
RNG = np.random.default_rng(12)
PAIRS = RNG.normal(size=(12, 2)).astype(np.float32).tolist()
CODES = RNG.integers(0, 7, size=12).tolist()
HIGH = (1.7e9 + RNG.integers(-200, 200, size=12) / 256).tolist()  # float32 has numbers 128 apart there
BANDS = RNG.normal(size=(12, 6)).astype(np.float32).tolist()
TURNS = RNG.integers(-200, 200, size=12).tolist()
Run = Callable[[dict[str, Any]], dict[str, np.ndarray]]
Outputs = dict[str, Any]


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def cell_by_hand(run: Run, rows: list) -> Outputs:
    h, made = floats(1, 1, 4), []
    for row in rows:
        out = run({"x": np.array([row], np.float32), "h": h})
        made.append(out["y"][0])
        h = out["h_out"]
    return {"y": made}


def bare_cell_by_hand(run: Run, rows: list) -> Outputs:
    h, made = floats(1, 4), []
    for row in rows:
        h = run({"x": np.array([row], np.float32), "h": h})["h_out"]
        made.append(h[0])
    return {"h_out": made}


def time_major_by_hand(run: Run, rows: list) -> Outputs:
    x = np.array(rows, np.float32)[:, None]
    out = run({"x": x, "lengths": np.array([len(rows)]), "h": floats(1, 1, 4), "c": floats(1, 1, 4)})
    return {"y": out["y"][:, :, 0]}


def equal_lengths_by_hand(run: Run, rows: list) -> Outputs:
    out = run({"x": np.array(rows, np.float32)[:, None], "h": floats(1, 1, 4), "c": floats(1, 1, 4)})
    return {"y": out["y"][:, :, 0]}


def one_step_by_hand(run: Run, rows: list) -> Outputs:
    states, made = {"h": floats(1, 1, 4), "c": floats(1, 1, 4)}, []
    for row in rows:
        out = run({"x": np.array([[row]], np.float32), **states})
        made.append(out["y"][:, :, 0])
        states = {name: out[f"{name}_out"] for name in states}
    return {"y": made}


def meter_by_hand(run: Run, rows: list) -> Outputs:
    mean, peak = np.array([[0.5], [-2]], np.float32), np.array([[-1.5, -1.5]], np.float32)
    states = {"window": floats(1, 5, 2), "mean": mean, "peak": peak, "count": np.array([1 << 60])}
    made: Outputs = {"total": [], "means": [], "steps": []}
    for row in rows:
        out = run({"x": np.array([row], np.float32), "rate": np.array(0.25, np.float32), **states})
        states = {name: out[f"{name}_out"] for name in states}
        made["total"].append(out["total"][0])
        made["means"].append(out["means"][:, 0])
        made["steps"].append(out["steps"][0])
    return made


def column_by_hand(run: Run, rows: list) -> Outputs:
    h, made = np.array([[0.1], [-0.2], [0.3], [0.9]], np.float32), []
    for row in rows:
        out = run({"x": np.array(row, np.float32)[:, None], "h": h})
        made.append(out["y"][:, 0])
        h = out["h_out"]
    return {"y": made}


def codes_by_hand(run: Run, rows: list) -> Outputs:
    out = run({"codes": np.array(rows)[:, None], "h": floats(1, 1, 4)})
    return {"y": out["y"][:, :, 0]}


def dial_by_hand(run: Run, rows: list) -> Outputs:
    one, size = np.array([1], np.int32), np.array(100, np.int32)
    total, made = 50 * one, []
    for row in rows:
        out = run({"turn": np.array([row], np.int32), "lengths": one, "size": size, "total": total})
        made.append(out["shown"][0])
        total = out["total_out"]
    return {"shown": made}


def slope_by_hand(run: Run, rows: list) -> Outputs:
    last, drift, made = np.array([1.7e9]), floats(1), {"moved": [], "next": []}
    for row in rows:
        out = run({"x": np.array([row]), "last": last, "drift": drift})
        last, drift = out["last_out"], out["drift_out"]
        made["moved"].append(out["moved"][0])
        made["next"].append(out["next"][0])
    return made


def unbatched_by_hand(run: Run, rows: list) -> Outputs:
    states, made = {"h": floats(4), "count": np.array(0)}, []
    for row in rows:
        out = run({"x": np.array(row, np.float32), **states})
        made.append(out["y"])
        states = {name: out[f"{name}_out"] for name in states}
    assert states["count"] == len(rows)
    return {"y": made}


def unbatched_sequence_by_hand(run: Run, rows: list) -> Outputs:
    return {"y": run({"x": np.array(rows, np.float32), "h": floats(1, 1, 4)})["y"]}


def spectrum_by_hand(run: Run, rows: list) -> Outputs:
    h, made = floats(1, 4), []
    for row in rows:
        out = run({"x": np.array(row, np.float32).reshape(1, 3, 1, 2), "h": h})
        made.append(out["y"][0])
        h = out["h_out"]
    return {"y": made}


@dataclass(frozen=True)
class Form:
    """One form of graph: how it is written, what a session of it takes, and its answers by hand."""

    write: Callable[..., Path]
    by_hand: Callable[[Run, list], Outputs]
    rows: list
    member: str = "inputs"
    changes: tuple[tuple[str, Any], ...] = ()


FORMS = {
    "cell": Form(tiny_forms.cell, cell_by_hand, PAIRS),
    "bare-cell": Form(tiny_forms.bare_cell, bare_cell_by_hand, PAIRS),
    "time-major": Form(tiny_forms.time_major, time_major_by_hand, PAIRS),
    "equal-lengths": Form(tiny_forms.time_major, equal_lengths_by_hand, PAIRS, changes=(("lengths", None),)),
    "one-step": Form(
        tiny_forms.time_major,
        one_step_by_hand,
        PAIRS,
        changes=(
            ("lengths", None),
            ("inputs", [tiny.tensor("x", "float32", 1, "batch", 2)]),
            ("outputs", [tiny.tensor("y", "float32", 1, 1, "batch", 4)]),
        ),
    ),
    "meter": Form(tiny_forms.meter, meter_by_hand, PAIRS),
    "column": Form(tiny_forms.column, column_by_hand, PAIRS),
    "codes": Form(tiny_forms.codes, codes_by_hand, CODES, "values"),
    "dial": Form(tiny_forms.dial, dial_by_hand, TURNS, "values"),
    "slope": Form(tiny_forms.slope, slope_by_hand, HIGH, "values"),
    "one-row-cell": Form(tiny_forms.cell, cell_by_hand, PAIRS, changes=(("graph_shapes", tiny_forms.ONE_ROW["cell"]),)),
    "one-row-time-major": Form(
        tiny_forms.time_major, time_major_by_hand, PAIRS, changes=(("graph_shapes", tiny_forms.ONE_ROW["time_major"]),)
    ),
    "unbatched": Form(tiny_forms.unbatched, unbatched_by_hand, PAIRS),
    "spectrum": Form(tiny_forms.spectrum, spectrum_by_hand, BANDS),
    "unbatched-sequence": Form(tiny_forms.unbatched_sequence, unbatched_sequence_by_hand, PAIRS),
}
each_form = pytest.mark.parametrize("name", FORMS)


def write_forms(root: Path) -> Path:
    for name, form in FORMS.items():
        form.write(root, name=name, **dict(form.changes))
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_forms(tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(models, tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


def step(server: Server, name: str, *parts: tuple[str | None, list], **options: str) -> list[dict]:
    """Advance sessions by (state, rows), a state of None beginning one; return their results with every output."""
    items = [{FORMS[name].member: rows, **({} if state is None else {"state": state})} for state, rows in parts]
    answer = server.post("/v1/step", {"model": name, "items": items, "return": "all", **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def by_hand(models: Path, name: str, rows: list) -> Outputs:
    session = onnxruntime.InferenceSession(models / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return FORMS[name].by_hand(lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)), rows)


def assert_same(made: Outputs, due: Outputs) -> None:
    assert made.keys() == due.keys()
    for name in due:
        assert np.shape(made[name]) == np.shape(due[name])
        np.testing.assert_allclose(made[name], due[name], rtol=0, atol=CLOSE)


@each_form
def test_a_session_is_answered_as_the_raw_graph_answers(served: Server, models: Path, name: str) -> None:
    (result,) = step(served, name, (None, FORMS[name].rows))
    assert_same(result["outputs"], by_hand(models, name, FORMS[name].rows))


@each_form
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [2, 1, 6, 3]])
def test_chunks_with_carried_state_equal_the_whole(served: Server, name: str, cuts: list[int]) -> None:
    rows, state, done, made = FORMS[name].rows, None, 0, {}
    for cut in cuts:
        (result,) = step(served, name, (state, rows[done : done + cut]))
        state, done = result["state"], done + cut
        for output, values in result["outputs"].items():
            made.setdefault(output, []).extend(values)
    (whole,) = step(served, name, (None, rows))
    assert_same(made, whole["outputs"])


@each_form
def test_sessions_of_unequal_length_share_a_request_and_are_answered_as_alone(served: Server, name: str) -> None:
    rows = FORMS[name].rows
    (parent,) = step(served, name, (None, rows[:4]))
    parts = [(None, rows[:3]), (parent["state"], rows[4:9]), (None, rows[5:8]), (None, rows), (None, rows[7:8])]
    for part, result in zip(parts, step(served, name, *parts), strict=True):
        (alone,) = step(served, name, part)
        assert_same(result["outputs"], alone["outputs"])
        (after,), (after_alone,) = (step(served, name, (r["state"], rows[:1])) for r in (result, alone))
        assert_same(after["outputs"], after_alone["outputs"])


def test_sessions_go_on_after_the_server_was_killed(
    models: Path, served: Server, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(models, tmp_path)
    states = {name: step(server, name, (None, form.rows[:7]))[0]["state"] for name, form in FORMS.items()}
    server.kill()
    server.start()
    for name, form in FORMS.items():
        (after,), (whole,) = step(server, name, (states[name], form.rows[7:])), step(served, name, (None, form.rows))
        assert_same(after["outputs"], {output: values[7:] for output, values in whole["outputs"].items()})
    server.stop()


def test_the_last_step_is_what_is_returned_where_not_all_are_asked_for(served: Server) -> None:
    answer = served.post("/v1/step", {"model": "meter", "items": [{"inputs": PAIRS[:3]}]})
    (result,) = answer.json()["results"]
    (every,) = step(served, "meter", (None, PAIRS[:3]))
    assert result["outputs"] == {name: values[-1] for name, values in every["outputs"].items()}
    assert result["outputs"]["steps"] == (1 << 60) + 3


@pytest.mark.parametrize(("name", "share"), [("one-row-cell", False), ("unbatched", False), ("cell", True)])
def test_rows_share_runs_only_where_the_graph_has_a_batch_axis(served: Server, name: str, share: bool) -> None:
    items = [{"inputs": PAIRS[:2]}] * 8
    usage = served.post("/v1/step", {"model": name, "items": items}).json()["usage"]
    assert (usage["batch_rows"] > 1) == share


@pytest.mark.anyio
async def test_sessions_of_a_graph_of_one_row_run_side_by_side(models: Path) -> None:
    directory = models / "one-row-cell" / "1"
    both_run = threading.Barrier(2)

    class Meeting(OnnxSession):
        def run(self, names: Any, feeds: Any) -> Any:
            both_run.wait(timeout=60)
            return super().run(names, feeds)

    options: dict[str, Any] = {"device": "cpu", "intra_op_threads": 1, "optimisation": "all"}
    model = load_model(directory, read_manifest(directory), **options)
    model = replace(
        model, session=Meeting(directory / "model.onnx", (directory / "model.onnx").read_bytes(), **options)
    )
    engine = Engine(model, Settings(run_threads=2), ModelMetrics(Metrics(), "one-row-cell", "1"))
    engine.batcher.start()
    rows = [Row(np.array(PAIRS[:1], np.float32)) for _ in range(2)]
    with engine.batcher.submit(rows, tenant="", timeout_s=60) as answer:
        served = await answer
    await engine.batcher.drain()
    assert all(isinstance(answer, Answer) for answer in served.outcomes)


def test_a_stream_of_a_graph_of_one_row_is_answered_as_its_steps(served: Server) -> None:
    (whole,) = step(served, "one-row-cell", (None, PAIRS[:4]))
    with Stream(served, "one-row-cell") as stream:
        made = [stream.ask(inputs=[row])["outputs"]["y"] for row in PAIRS[:4]]
    np.testing.assert_allclose(made, whole["outputs"]["y"], atol=CLOSE)


def test_rows_that_have_ended_take_no_part_in_later_runs(models: Path) -> None:
    directory = models / "cell" / "1"
    model = load_model(directory, read_manifest(directory), device="cpu", intra_op_threads=1, optimisation="all")

    class Counting(OnnxSession):
        def run(self, names: Any, feeds: Any) -> Any:
            batches.append(len(feeds["x"]))
            return super().run(names, feeds)

    batches: list[int] = []
    session = Counting(
        directory / "model.onnx",
        (directory / "model.onnx").read_bytes(),
        device="cpu",
        intra_op_threads=1,
        optimisation="all",
    )
    check_graph(session, model.file, model.manifest)
    sequences = [np.array(PAIRS[:length], np.float32) for length in (2, 5, 2, 3)]
    Forward(session, model.file, model.manifest).run(sequences, [None] * 4)
    assert batches == [4, 4, 2, 1, 1]


def test_float64_values_and_states_lose_nothing_on_the_way(served: Server) -> None:
    """In JSON, in binary frames, and in a token of halved states, where float64 stays whole."""
    moved = np.diff(HIGH, prepend=1.7e9)
    (first,) = step(served, "slope", (None, HIGH[:4]), precision="float16")
    (rest,) = step(served, "slope", (first["state"], HIGH[4:]))
    np.testing.assert_array_equal([*first["outputs"]["moved"], *rest["outputs"]["moved"]], moved)
    with Client(str(served.url)) as client, client.stream("slope", binary=True, returns="all") as stream:
        outputs = stream.step(HIGH).outputs
    assert (outputs["moved"].dtype, outputs["next"].dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(outputs["moved"], moved)
    np.testing.assert_array_equal(outputs["next"][4:], rest["outputs"]["next"])
    with Stream(served, "slope") as stream:
        assert stream.opened["dtype"] == "float64"
        stream.connection.send(np.array(HIGH[:1], np.float32).tobytes())
        assert "a step is 8" in stream.frame()["error"]["message"]


def test_a_state_that_the_graph_counts_is_exact_beyond_what_floats_hold(served: Server) -> None:
    state, counts = None, []
    for row in PAIRS:
        (result,) = step(served, "meter", (state, [row]))
        state = result["state"]
        counts += result["outputs"]["steps"]
    assert counts == [(1 << 60) + n for n in range(1, 13)]


@pytest.mark.parametrize(
    ("name", "values", "field", "message"),
    [
        ("codes", [1, 2.5], "values[1]", "2.5 is no whole number"),
        ("codes", [2**53], "values[0]", "to 9007199254740991"),
        ("codes", [-(2**70)], "values[0]", "no whole number"),
        ("dial", [0, 0, 2**31], "values[2]", "from -2147483648 to 2147483647"),
        ("dial", [1, 0.1], "values[1]", "0.1"),
    ],
)
def test_a_number_that_is_not_whole_or_too_large_fails_alone_and_is_named(
    served: Server, name: str, values: list, field: str, message: str
) -> None:
    items = [{"values": [1]}, {"values": values}, {"values": [1]}]
    first, bad, last = served.post("/v1/step", {"model": name, "items": items}).json()["results"]
    assert (bad["error"]["code"], bad["error"]["field"]) == ("invalid_request", f"items[1].{field}")
    assert message in bad["error"]["message"]
    assert first["outputs"] == last["outputs"]


def test_a_code_that_the_graph_does_not_take_fails_alone(served: Server) -> None:
    """Nobody but the graph knows how many codes it has; the probe tries 0 and 1."""
    items = [{"values": [6]}, {"values": [7]}, {"values": [6]}]
    first, bad, last = served.post("/v1/step", {"model": "codes", "items": items}).json()["results"]
    assert bad["error"]["code"] == "model_failed"
    np.testing.assert_allclose(first["outputs"]["y"], last["outputs"]["y"], atol=CLOSE)
    alone = served.post("/v1/step", {"model": "codes", "items": items[1:2]})
    assert (alone.status_code, alone.json()["error"]["code"]) == (422, "model_failed")


def test_a_code_that_the_graph_does_not_take_is_refused_in_its_place_on_a_stream(served: Server) -> None:
    with Stream(served, "codes") as stream, Stream(served, "codes") as undisturbed:
        assert stream.ask(values=[6])["step"] == undisturbed.ask(values=[6])["step"] == 1
        refused = stream.ask(values=[9])
        assert (refused["type"], refused["error"]["code"], refused["step"]) == ("error", "model_failed", 1)
        assert refused["error"]["field"] == "values"
        after, expected = stream.ask(values=[3]), undisturbed.ask(values=[3])
        assert after["step"] == 2
        np.testing.assert_allclose(after["outputs"]["y"], expected["outputs"]["y"], atol=CLOSE)
