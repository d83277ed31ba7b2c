"""The Open Inference Protocol through kserve's client, which runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
from conftest import ANSWER_LIMIT_S, ROOT, Server
from datatypes import DATATYPES, values

Array = np.ndarray[Any, Any]
CLOSE = 1e-5  # batching changes float32 sums only in their order
PACKAGES = Path(sys.prefix) / "kserve"
TEXTS = np.array(["a good film", "not good !", "bad"], object)
STEPS = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
binary = pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])


class Kserve:
    """kserve's client, in a process of its own."""

    def __init__(self, url: str) -> None:
        script = ROOT / "tests" / "support" / "kserve_client.py"
        environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, str(script), url], env=environment, **pipes)

    def ask(self, method: str, model: str | None = None, **more: Any) -> dict[str, Any]:
        print(json.dumps({"ask": method, "model": model, **more}), file=self._process.stdin, flush=True)
        outcome: dict[str, Any] = json.loads(self._process.stdout.readline())
        return outcome

    def infer(self, model: str, binary: bool, tensors: Sequence[tuple[str, str, Array]], **parameters: Any) -> Any:
        inputs = [{"name": name, "datatype": datatype, "data": data.tolist()} for name, datatype, data in tensors]
        return self.ask("infer", model, binary=binary, inputs=inputs, parameters=parameters)

    def close(self) -> None:
        self._process.communicate(timeout=ANSWER_LIMIT_S)


@pytest.fixture(scope="module")
def kserve(oip_server: Server) -> Iterator[Kserve]:
    if not (PACKAGES / ".installed").is_file():
        assert "CI" not in os.environ, f"no kserve in {PACKAGES}, and under CI that may not be skipped"
        pytest.skip(f"no kserve in {PACKAGES}; `make test` installs it")
    client = Kserve(oip_server.url)
    yield client
    client.close()


def test_kserve_sees_whether_server_and_models_are_ready(kserve: Kserve) -> None:
    assert kserve.ask("is_server_live") == {"answer": True}
    assert kserve.ask("is_server_ready") == {"answer": True}
    assert kserve.ask("is_model_ready", "stepper") == {"answer": True}
    assert kserve.ask("is_model_ready", "nonesuch") == {"answer": False}


@pytest.mark.parametrize(
    ("dtype", "binary"),
    [(dtype, binary) for dtype in DATATYPES for binary in (False, True) if binary or dtype != "float16"],
)  # kserve sends FP16 as bytes alone
def test_kserve_s_datatypes_pass_unchanged(kserve: Kserve, oip_models: Path, dtype: str, binary: bool) -> None:
    sent = values(dtype)
    outcome = kserve.infer(f"echo-{dtype}", binary, [("x", DATATYPES[dtype], sent)])
    right = in_process.run(oip_models / f"echo-{dtype}" / "1", x=sent)["y"]
    assert outcome["answer"]["outputs"]["y"] == right.tolist()


@binary
def test_kserve_s_texts_and_errors(kserve: Kserve, oip_models: Path, binary: bool) -> None:
    outcome = kserve.infer("sentiment", binary, [("text", "BYTES", TEXTS)])
    np.testing.assert_allclose(
        outcome["answer"]["outputs"]["scores"], in_process.scores_of(oip_models, TEXTS.tolist()), atol=CLOSE
    )
    refused = kserve.infer("sentiment", binary, [("txt", "BYTES", TEXTS)])
    assert refused["error"].startswith("txt: ")
    assert "400" in refused["error"]


@binary
def test_kserve_s_sequences_are_told_by_parameters(kserve: Kserve, oip_models: Path, binary: bool) -> None:
    right = in_process.steps_of(oip_models, STEPS[None])[0]
    for place, step in enumerate(STEPS):
        flags = {"sequence_id": "k", "sequence_start": place == 0, "sequence_end": place == len(STEPS) - 1}
        outcome = kserve.infer("stepper", binary, [("x", "FP32", step[None, None])], **flags)
        assert outcome["answer"]["parameters"] == {**flags, "sequence_step": place + 1}
        np.testing.assert_allclose(outcome["answer"]["outputs"]["y"][0][0], right[place], atol=CLOSE)
    assert "sequence_start" in kserve.infer("stepper", binary, [("x", "FP32", STEPS[None])], sequence_id="k")["error"]


def test_a_body_that_names_another_model_than_its_path_is_refused(oip_server: Server) -> None:
    x = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1, 2]}
    refused = oip_server.post("/v2/models/stepper/infer", {"model_name": "numbers", "inputs": [x]})
    assert refused.status_code == 400
    assert refused.json() == {"error": "model_name: is 'numbers'; the path says 'stepper'"}
