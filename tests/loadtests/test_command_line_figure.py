"""The figure of the command line: what its table says, and that the loop forecasts what the command does."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from commands import run
from conftest import Server

from loadtests import command_line, forecast_loop
from loadtests.command_line import LOOP, OWN, Took, table
from loadtests.forecast_loop import loop


def test_a_ratio_is_of_one_round_and_its_median_is_judged() -> None:
    own, looped = [Took(1, 2), Took(2, 2), Took(4, 2)], [Took(2, 3), Took(6, 5), Took(9, 4)]
    assert table({OWN: own, LOOP: looped}).splitlines()[2:] == [
        "| `baton forecast`, in process | 2.00 | 1.00, 2.00, 4.00 | 2.00 |",
        "| a loop of HTTP calls | 6.00 | 2.00, 6.00, 9.00 | 4.00 |",
        "| ratio | 2.25 | wanted: 2, met | 2.00 |",
    ]
    assert "| ratio | 1.50 | wanted: 2, **missed** | 1.00 |" in table({OWN: [Took(2, 1)], LOOP: [Took(3, 1)]})


@pytest.mark.usefixtures("command_settings")
def test_the_loop_writes_what_the_command_writes(
    command_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "SERIES", 4)
    monkeypatch.setattr(command_line, "VALUES", 5)
    monkeypatch.setattr(forecast_loop, "HORIZON", 2)
    source, own, looped = tmp_path / "series.csv", tmp_path / "own.csv", tmp_path / "loop.csv"
    command_line.write_series(source)
    loop(command_server.url, source, looped)
    run("forecast", source, "--column", "y", "--by", "series", "--horizon", 2, "--levels", "80", "--output", own)
    with own.open(newline="") as one, looped.open(newline="") as other:
        mine, theirs = csv.reader(one), csv.reader(other)
        assert next(mine) == next(theirs)
        rows = list(zip(mine, theirs, strict=True))
    assert len(rows) == 8
    for row, due in rows:
        assert list(map(float, row)) == pytest.approx(list(map(float, due)), abs=1e-5)
