"""The figures of generation: what their table says, that the page has it, and that the loop beside them generates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_writers
from conftest import ServerFactory

from loadtests import generation
from loadtests.generation import PAGE, RESULTS, Client, Writing, runs_after_leaving, table
from loadtests.serving import Running


def test_the_page_has_the_table_of_the_results() -> None:
    assert f"<!-- generation:begin -->\n\n{table(json.loads(RESULTS.read_text()))}\n\n" in PAGE.read_text()


def test_a_figure_is_the_median_of_the_rounds_ratios() -> None:
    machine = {"cores": 2, "processor": "a processor"}
    result = {"date": "2026-01-01", "commit_date": "2026-01-01", "machine": machine}
    rounds = [
        {"alone": alone, "together": 1200.0, "one_worker": 900.0, "loop": loop, "other_cores": 0.1, "server_us": 80.0}
        for alone, loop in ((100.0, 2000.0), (150.0, 3000.0), (300.0, 4000.0))
    ]
    result |= {"rounds": rounds, "first_event_ms": [10.0] * 99 + [100.0], "runs_after_leaving": 1.0, "workers": 2}
    lines = table(result).splitlines()
    assert "| 1,200 characters/s | 150 characters/s | 8.00 | ≥ 6 | met |" in lines[4]
    assert "| 900 characters/s | 3,000 characters/s | 0.30 | ≥ 0.5 | **missed** |" in lines[5]
    assert "| 10.0 ms |  |  | ≤ 15 ms | met |" in lines[6]
    assert "| 1 |  |  | ≤ 0 | **missed** |" in lines[7]


@pytest.fixture
def writing_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that writes as fast as a test wants, called as the measured one is."""
    monkeypatch.setattr(generation, "PROMPT", "abc")
    monkeypatch.setattr(generation, "CHARACTERS", 5)
    tiny_writers.generator(tmp_path / "models", name=generation.MODEL)
    return tmp_path / "models"


def test_texts_of_the_length_that_is_counted_are_written_and_streams_are_left(
    writing_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(writing_models, tmp_path / "state")
    service = Running(server.url, server.process.pid, 0.0)
    client = Client(service)
    client.write(1)
    assert client.first_event_s(1) > 0
    client.close()
    assert generation.characters_per_s(lambda number: None, 2, 2) > 0
    assert runs_after_leaving(service) == 0
    assert server.metric("baton_generations") == 0


def test_the_loop_feeds_back_what_it_draws(writing_models: Path) -> None:
    loop = Writing(writing_models / generation.MODEL / "1")
    drawn = []
    for _ in range(20):
        assert loop.advance() == generation.TOGETHER
        drawn.append(loop._feeds["ids"].ravel())
    assert len({one.tobytes() for one in drawn}) == 20
    assert max(one.max() for one in drawn) < len(tiny_writers.LETTERS)
