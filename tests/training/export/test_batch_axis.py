"""A graph of one row with its batch axis freed: any number of rows, each computed as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from onnx import numpy_helper
from tiny import tensor

from service.errors import StartupError
from training.export.batch_axis import free_batch

FRAMES = np.random.default_rng(4).normal(size=(3, 6)).astype(np.float32)


def reshaped(folder: Path, *sizes: list[int], free: bool = False, held: str = "initializer") -> onnx.ModelProto:
    """Write a graph of x [1, 6], or [1, time, 6], that squashes what reshapes made of it one after the other."""
    build, made = tiny.GraphBuilder(1), "x"
    for size in sizes:
        if held == "node":
            value = numpy_helper.from_array(np.array(size, np.int64), "")
            (shape,) = build.add("Constant", [], value=value)
        else:
            shape = build.constant(np.array(size, np.int64))
        (made,) = build.add("Reshape", [made, shape])
        (made,) = build.add("Tanh", [made])
    axes = [1, "time", 6] if free else [1, 6]
    build.save(
        folder / "x.onnx", [tensor("x", "float32", *axes)], [tensor("y", "float32", *[1] * len(sizes[-1]))], {"y": made}
    )
    return onnx.load(folder / "x.onnx")


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    made: np.ndarray = session.run(["y"], {"x": x})[0]
    return made


@pytest.mark.parametrize("held", ["initializer", "node"])
@pytest.mark.parametrize(
    "sizes",
    [
        [[1, 2, 3]],
        [[1, -1, 2]],
        [[-1, 3, 2]],
        [[0, 2, 3]],
        [[1, 1, 6], [1, 6]],
        [[-1, 2], [1, 3, 2]],  # joined with another axis, and taken apart again
    ],
)
def test_rows_are_computed_as_alone(sizes: list[list[int]], held: str, tmp_path: Path) -> None:
    model = reshaped(tmp_path, *sizes, held=held)
    together = run(free_batch(model, {"x": 0}), FRAMES)
    alone = [run(model, frame[None]) for frame in FRAMES]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)


def test_a_time_axis_stays_free_beside_the_batch(tmp_path: Path) -> None:
    model = reshaped(tmp_path, [1, -1, 2, 3], free=True)
    x = np.stack([FRAMES, -FRAMES, 2 * FRAMES, FRAMES])
    together = run(free_batch(model, {"x": 0}), x)
    np.testing.assert_allclose(together, np.concatenate([run(model, one[None]) for one in x]), atol=1e-6)


@pytest.mark.parametrize(("sizes", "free"), [([6], False), ([2, 3], False), ([2, -1], True)])
def test_a_reshape_without_a_place_for_rows_is_refused(sizes: list[int], free: bool, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"the reshape \w+ to \[[-1236, ]+\] has no place for more rows"):
        free_batch(reshaped(tmp_path, sizes, free=free), {"x": 0})


def test_the_graph_that_was_given_stays_as_it_is(tmp_path: Path) -> None:
    model = reshaped(tmp_path, [1, 2, 3])
    before = model.SerializeToString()
    free_batch(model, {"x": 0})
    assert model.SerializeToString() == before
