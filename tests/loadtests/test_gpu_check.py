"""The check for GPUs, as a dry run: on the CPU provider, with two committed models and little time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from loadtests import gpu_check, gpu_rates
from loadtests.gpu_check import main
from loadtests.gpu_parity import BOUNDS

MODELS = ("denoise-live", "spam")
LITTLE_S = {"parity": 600.0, "kept": 0.1, "steps": 0.1, "texts": 0.1, "image": 0.1}


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it check two models alone, and measure two small batches."""
    models = tmp_path / "models"
    models.mkdir()
    for name in MODELS:
        (models / name).symlink_to(ROOT / "models" / name)
    monkeypatch.setattr(gpu_check, "COMMITTED", models)
    monkeypatch.setattr(gpu_check, "SECONDS", LITTLE_S)
    monkeypatch.setattr(gpu_rates, "BATCHES", (1, 2))


def checked(folder: Path, status: int) -> dict[str, Any]:
    """Run it dry, and return what it writes."""
    with pytest.raises(SystemExit) as ended:
        main("cpu", folder / "gpu-check.json")
    assert ended.value.code == status
    found: dict[str, Any] = json.loads((folder / "gpu-check.json").read_text())
    return found


@pytest.mark.usefixtures("few")
def test_a_dry_run_does_all_but_the_image_and_verifies_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checked(tmp_path, status=0)
    assert (found["verdict"], found["gpu"]) == ("unverified: no GPU", None)
    assert "unverified: no GPU" in capsys.readouterr().out.splitlines()[-1]
    lines = {(line["part"], line["what"]): line for line in found["lines"]}
    assert [outcome for _, outcome in sorted((key, line["outcome"]) for key, line in lines.items())] == [
        "skipped",
        *["pass"] * 10,
    ]
    assert lines["parity", "denoise-live"]["figures"].keys() == {"cpu", "ragged", "chunks"}
    assert (
        lines["parity", "denoise-live, float16"]["figures"]["cpu"] > lines["parity", "denoise-live"]["figures"]["cpu"]
    )
    assert lines["parity", "spam"]["figures"].keys() == {"cpu", "ragged"}
    for part in ("kept", "steps", "texts"):
        assert all(min(lines[part, f"batch {batch}"]["figures"].values()) > 0 for batch in (1, 2))


@pytest.mark.usefixtures("few")
def test_a_difference_that_is_too_large_and_a_model_that_is_not_reached_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BOUNDS, "float16", 0.0)
    lines = checked(tmp_path, status=1)["lines"]
    assert lines[1]["outcome"] == "fail"
    assert "cpu" in lines[1]["why"]
    monkeypatch.setitem(LITTLE_S, "parity", 0.0)
    lines = checked(tmp_path, status=1)["lines"]
    assert (lines[1]["what"], lines[1]["outcome"], lines[1]["why"]) == ("spam", "fail", "not reached in 0 s")


@pytest.mark.usefixtures("few")
def test_without_a_gpu_it_says_how_to_run_dry() -> None:
    with pytest.raises(SystemExit, match="--provider cpu"):
        main("cuda")
