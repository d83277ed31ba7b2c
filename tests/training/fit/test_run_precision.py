"""A run trains in its recipe's precision where the machine can, and in float32 where it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import echo
import pytest

from training.fit import job, runs
from training.fit.runs import ResumeError, fit
from training.recipe import Recipe

MIXED: Recipe = dataclasses.replace(echo.RECIPE, run=echo.RECIPE.run.model_copy(update={"precision": "bf16-mixed"}))
SETTLE = "from training.fit.precision import settle; print(settle('bf16-mixed', 'cpu'), settle('32-true', 'cpu'))"


def test_bfloat16_is_not_trained_in_where_onednn_has_no_such_lstm() -> None:
    """On a processor with AVX2 alone the first batch would fail; the log says what is done instead, and why."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    tried = subprocess.run([sys.executable, "-c", SETTLE], env=environment, capture_output=True, text=True, check=True)
    assert tried.stdout.split() == ["32-true", "32-true"]
    (line,) = [line for line in tried.stderr.splitlines() if "float32" in line]
    assert line.startswith("training in float32: this machine's PyTorch has no bfloat16 LSTM on the cpu (could not")


def test_a_run_keeps_the_precision_that_it_was_begun_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained in stands in the run's recipe, and a machine with another precision does not go on with it."""
    monkeypatch.setattr(job, "settle", lambda asked, device: "32-true")
    begun = fit(MIXED, seed=0, resume=False, runs_dir=tmp_path)
    assert json.loads((begun.folder / runs.RECIPE).read_text())["run.precision"] == "32-true"
    monkeypatch.setattr(job, "settle", lambda asked, device: "bf16-mixed")
    with pytest.raises(ResumeError, match=r"run\.precision was '32-true' and is now 'bf16-mixed'"):
        fit(MIXED, seed=0, resume=True, runs_dir=tmp_path)
