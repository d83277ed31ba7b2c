"""A task that the service does not have: an endpoint, an entry in the table of tasks, a line that mounts it."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import regime
import tiny
from conftest import ROOT, ServerFactory

from service.contract.files import read_manifest
from service.errors import ManifestError

TOUCHED = ("app.py", "contract/tasks.py", "endpoints/regime.py")
SERIES = [[0.5, -1.0, 2.0], [3.0], [], [0.0, 0.25, -0.5, 1.0, 9.0]]
RULE = """
def _check_regime(manifest: Members) -> None:
    _check_batch_first(manifest, "[batch, time]")


"""


def insert(file: Path, *places: tuple[str, str]) -> None:
    """Insert a text behind the one place in `file` that a pattern finds, for each of `places`."""
    source = file.read_text()
    for pattern, text in places:
        (found,) = re.finditer(pattern, source, flags=re.MULTILINE)
        source = source[: found.end()] + text + source[found.end() :]
    file.write_text(source)


def add_task(service: Path) -> None:
    """Do what a developer does to add the task."""
    shutil.copy(regime.__file__, service / "endpoints" / "regime.py")
    insert(
        service / "contract" / "tasks.py",
        (r"^(?=TASKS: )", RULE),
        (r"^TASKS: .* = \{$", '\n    "regime": TaskRules(_check_regime, sums_to_one=True),'),
    )
    insert(
        service / "app.py",
        (r"^from service\.endpoints import ", "regime, "),
        (r"^(BODY_)?ENDPOINTS = \(", "regime, "),
    )


def touched(service: Path, original: Path) -> list[str]:
    """Return the files that were added, taken away or changed."""
    files = {str(file.relative_to(tree)) for tree in (service, original) for file in tree.rglob("*.py")}
    _, changed, missing = filecmp.cmpfiles(service, original, files, shallow=False)
    return sorted(changed + missing)


def teller(root: Path) -> Path:
    """A GRU over raw values; scores of two labels."""
    build = tiny.GraphBuilder(11)
    (column,) = build.add("Unsqueeze", ["values", build.constant(np.array([2], np.int64))])
    _, h = build.recurrent("GRU", column, 1, 4, [], linear_before_reset=1)
    (last,) = build.add("Squeeze", [h, build.constant(np.array([0], np.int64))])
    (scores,) = build.add("Softmax", [build.dense(last, 4, 2)], axis=-1)
    return tiny.write_model(
        root,
        build,
        {"scores": scores},
        name="teller",
        task="regime",
        inputs=[tiny.tensor("values", "float32", "batch", "time")],
        outputs=[tiny.tensor("scores", "float32", "batch", 2, labels=["calm", "storm"])],
    )


def run(model: Path, series: Sequence[float]) -> list[float]:
    """Return what ONNX Runtime makes of one series by itself."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {"values": np.array([series], np.float32), "lengths": np.array([len(series)], np.int32)}
    return session.run(["scores"], feeds)[0][0].tolist()


def test_a_new_task_is_served_by_an_endpoint_and_two_entries(tmp_path: Path, start_server: ServerFactory) -> None:
    directory = teller(tmp_path / "models")
    tiny.stepper(tmp_path / "models")
    with pytest.raises(
        ManifestError,
        match="should be 'sentiment', 'forecast', 'step', 'tensor', 'tag', 'transform', 'classify' or 'translate'",
    ):
        read_manifest(directory)

    service = tmp_path / "service"
    shutil.copytree(ROOT / "service", service, ignore=shutil.ignore_patterns("__pycache__"))
    assert touched(service, ROOT / "service") == []
    add_task(service)
    assert touched(service, ROOT / "service") == [*TOUCHED]

    server = start_server(tmp_path / "models", tmp_path / "state", cwd=tmp_path)
    answer = server.post("/v1/regime", {"series": SERIES}).raise_for_status().json()
    assert (answer["model"], answer["summary"]) == ("teller", {"ok": 3, "failed": 1})
    for series, result in zip(SERIES, answer["results"], strict=True):
        if series:
            scores = dict(zip(("calm", "storm"), run(directory / "model.onnx", series), strict=True))
            assert result["scores"] == pytest.approx(scores, abs=1e-5)
            assert result["label"] == max(scores, key=scores.__getitem__)
        else:
            assert (result["error"]["code"], result["error"]["field"]) == ("empty_input", "series[2]")
    wrong = server.post("/v1/regime", {"model": "stepper", "series": SERIES}).json()["error"]
    assert (wrong["code"], wrong["message"]) == (
        "wrong_task",
        "'stepper' is for task 'step'; for 'regime' there is teller",
    )
    lines = server.client.get("/v1/models").json()["models"]
    assert {line["name"]: line["task"] for line in lines} == {"teller": "regime", "stepper": "step"}
    server.stop()
