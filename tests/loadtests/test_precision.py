"""The measurement of what float16 costs: sessions whose states make the trip differ a little, the others not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny

from loadtests.precision import Sessions
from service.contract.files import read_manifest
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.metrics import Metrics, ModelMetrics
from service.model.repository import load_model
from service.settings import Settings


def test_only_the_halved_sessions_leave_the_uninterrupted_run_and_not_far(tmp_path: Path) -> None:
    directory = tiny.stepper(tmp_path)
    model = load_model(directory, read_manifest(directory), device="cpu", intra_op_threads=1, optimisation="all")
    engine = Engine(model, Settings(), ModelMetrics(Metrics(), "stepper", "1"))
    streams = np.random.default_rng(0).normal(size=(3, 20, 2)).astype(np.float32)
    whole = np.stack(
        [answer.outputs["y"] for answer in engine.run([Row(s) for s in streams]) if isinstance(answer, Answer)]
    )
    furthest = {}
    for cut in (False, True):
        sessions = Sessions(engine, len(streams), cut=cut)
        made = [sessions.step(list(streams[:, t : t + 1]), range(3)) for t in range(20)]
        stepped = np.stack([[answer.outputs["y"][0] for answer in one] for one in made], axis=1)
        furthest[cut] = np.abs(stepped - whole).max()
    assert furthest[False] < 1e-6
    assert 1e-5 < furthest[True] < 1e-2
