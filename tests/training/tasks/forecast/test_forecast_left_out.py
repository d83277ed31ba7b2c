"""What the forecaster's training left out: futures that follow their histories, and floors made of the past."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from training.datasets import VARIABLE, Found
from training.series.data import read_competition, read_hours, unseen_hours
from training.tasks.forecast import left_out
from training.tasks.forecast.left_out import LeftOut, competition_sets, hourly_sets, walk_sets
from training.tasks.forecast.network import HORIZON, MAX_HISTORY


def test_a_season_is_repeated_over_any_horizon() -> None:
    part = LeftOut("any", [np.arange(10.0), np.arange(5.0)], np.zeros((2, 5)), 3)
    np.testing.assert_array_equal(part.seasonal_naive(), [[7, 8, 9, 7, 8], [2, 3, 4, 2, 3]])


def test_walks_go_on_from_their_last_value_and_are_the_same_each_time() -> None:
    for walks, again in zip(walk_sets(), walk_sets(), strict=True):
        steps = walks.futures[:, 0] - [history[-1] for history in walks.histories]
        assert 0.9 < np.abs(steps).mean() / np.abs(np.diff(walks.histories[0])).mean() < 1.1
        np.testing.assert_array_equal(walks.futures, again.futures)


def test_hours_have_no_gaps_and_lie_in_the_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap in a history is filled by a straight line; what a gap is forecast for is left out."""
    hours = [str(float(hour)) for hour in range(6000)]
    hours[5000] = "NA"
    hours[5400] = ""
    for name, column in ((left_out.BIKES, "cnt"), (left_out.BEIJING, "pm2.5")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with gzip.open(tmp_path / name, "wt") as lines:
            lines.write(f"No,{column}\n" + "".join(f"1,{hour}\n" for hour in hours))
    monkeypatch.setattr(left_out, "find", lambda name: Found(name, tmp_path / name, "0" * 64))
    for part, apart in zip(hourly_sets(), (71, 143), strict=True):
        firsts = part.futures[:, 0]
        assert set(firsts) <= {4800.0 + apart * number for number in range(100)}
        assert firsts.max() <= 6000 - HORIZON
        assert not any(first <= gap < first + HORIZON for first in firsts for gap in (5000, 5400))
        assert len(firsts) > 5
        for history, first in zip(part.histories, firsts, strict=True):
            np.testing.assert_allclose(history, first - MAX_HISTORY + np.arange(MAX_HISTORY))


def test_a_competition_is_read_by_period(tmp_path: Path) -> None:
    rows = [
        {"period": "monthly", "history": [1, 2.5], "future": [3]},
        {"period": "yearly", "history": [4], "future": [5]},
    ]
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as lines:
        lines.writelines(f"{json.dumps(row)}\n" for row in rows)
    ((history, future),) = read_competition(tmp_path / "rows.jsonl.gz", "monthly")
    assert (history.tolist(), future.tolist()) == ([1, 2.5], [3])
    assert len(read_competition(tmp_path / "rows.jsonl.gz")) == 2


def test_the_real_sets_are_as_they_are_described(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(data_dir))
    found = {part.name: part.futures.shape for part in competition_sets()}
    assert found == {"m3_monthly": (1428, 18), "m3_quarterly": (756, 8), "tourism_monthly": (366, 24)}
    hours = read_hours(data_dir / left_out.BEIJING, "pm2.5")
    assert (len(hours), int(np.isnan(hours).sum())) == (43824, 2067)
    assert len(unseen_hours(hours)) == 8765
    assert all(len(part.histories) > 40 for part in hourly_sets())
