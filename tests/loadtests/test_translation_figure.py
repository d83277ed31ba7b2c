"""The figures of translation: what their table says, and that the loop beside them translates as the service does."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_conditions
from conftest import ServerFactory

from loadtests import translation
from loadtests.requirements import BenchError
from loadtests.serving import Running
from loadtests.translation import Client, Loop, measure_beams, table

TEXTS = ["a", "abc de", "gfe d", "cabbage", "a a a a a a a a", "dcb", "fed", "bad cab"]


def test_a_figure_is_the_median_of_the_rounds_ratios() -> None:
    rounds = [
        {"alone": alone, "together": 120.0, "one_worker": 90.0, "loop": loop, "other_cores": 0.1}
        for alone, loop in ((10.0, 200.0), (15.0, 300.0), (30.0, 400.0))
    ]
    machine = {"cores": 2, "processor": "a processor"}
    result = {"date": "2026-01-01", "commit_date": "2026-01-01", "machine": machine, "workers": 2}
    lines = table({**result, "batches": {"1": 32, "4": 16}, "rounds": {"1": rounds, "4": rounds}}).splitlines()
    assert len(lines) == 8
    assert "1 beam: 64 sentences at once" in lines[4]
    assert "| 120 sentences/s | 15 sentences/s | 8.00 | ≥ 4 | met |" in lines[4]
    assert "| 90 sentences/s | 300 sentences/s, 16 at a time | 0.30 | ≥ 0.5 | **missed** |" in lines[7]


@pytest.fixture
def translating_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny translator, called as the measured one is, and texts that it reads."""
    monkeypatch.setattr(translation, "ENGLISH", TEXTS)
    monkeypatch.setattr(translation, "CONNECTIONS", 2)
    monkeypatch.setattr(translation, "ROUNDS", 1)
    tiny_conditions.translator(tmp_path / "models")
    return tmp_path / "models"


@pytest.mark.parametrize("beams", [1, 4])
def test_the_loop_translates_as_the_service_does(
    beams: int, translating_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(translating_models, tmp_path / "state")
    service, loop = Running(server.url, server.process.pid, 0.0), Loop(translating_models / "translate" / "1", beams)
    client = Client(service, beams)
    assert client.translate(TEXTS) == loop.translate(TEXTS)
    client.close()
    (measured,) = measure_beams(service, service, loop)
    assert min(measured["alone"], measured["together"], measured["one_worker"], measured["loop"]) > 0


def test_there_is_no_figure_where_the_loop_translates_otherwise(
    translating_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(translating_models, tmp_path / "state")
    tiny_conditions.translator(tmp_path / "others", feedback={**tiny_conditions.LOGITS, "start": 1})
    service, loop = Running(server.url, server.process.pid, 0.0), Loop(tmp_path / "others" / "translate" / "1", 1)
    with pytest.raises(BenchError, match=r"of the translations are those of the loop"):
        measure_beams(service, service, loop)
