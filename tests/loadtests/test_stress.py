"""What the stress test makes of arrivals, and streams that it holds open."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Server
from streams import eventually

from loadtests import stress
from loadtests.requirements import BenchError
from loadtests.serving import Running

SINCE_S, MEDIAN_S = 2.0, 0.01


def recovered(bad_until: float, *, slow: bool) -> float:
    """Return the recovery of 100 arrivals a second over 8 s, which are refused, or slow, until some time."""
    due = np.arange(0, 8, 0.01)
    bad = due < bad_until
    status = np.where(bad & (not slow), 429, 200)
    return stress.recovery_s(due, due + np.where(bad & slow, 1.0, 0.01), status, since_s=SINCE_S, median_s=MEDIAN_S)


@pytest.mark.parametrize("slow", [True, False])
def test_recovery_is_the_time_to_the_last_window_that_was_not_normal(slow: bool) -> None:
    assert recovered(1.9, slow=slow) == 0
    assert recovered(2.9, slow=slow) == pytest.approx(1.0, abs=stress.WINDOW_S)
    assert recovered(8.0, slow=slow) == np.inf


def test_a_slow_window_in_the_midst_of_normal_load_is_no_want_of_recovery() -> None:
    due = np.arange(0, 8, 0.01)
    late = np.where((due > 6) & (due < 6.25), 1.0, 0.01)
    assert stress.recovery_s(due, due + late, np.full(800, 200), since_s=SINCE_S, median_s=MEDIAN_S) == 0


def test_a_single_refusal_is_not_normal() -> None:
    due = np.arange(0, 8, 0.01)
    status = np.where(np.arange(800) == 350, 429, 200)
    found = stress.recovery_s(due, due + 0.01, status, since_s=SINCE_S, median_s=MEDIAN_S)
    assert found == pytest.approx(1.5, abs=stress.WINDOW_S)


def test_streams_that_cannot_be_opened_are_told(server: Server) -> None:
    """Here for want of the committed model."""
    before, service = server.metric("baton_streams"), Running(server.url, server.process.pid, 0.0)
    with pytest.raises(BenchError, match="3 streams could not be opened"), stress.holding(service, 3):
        pass
    eventually(lambda: server.metric("baton_streams") == before)


def test_a_summary_tells_what_was_missed() -> None:
    result = {
        "date": "2026-01-01",
        "commit_date": "2026-01-01",
        "peak_per_s": 1000.0,
        "idle": {"connections": 5000, "ratio": 1.2},
        "overload": {
            "sent_per_s": 5000.0,
            "statuses": {200: 5, 429: 7},
            "recovery_s": 2.0,
            "memory_mb": [100.0, 105.0],
            "connection_errors": 0,
            "unanswered": 0,
        },
    }
    *_, recovery, memory, idle = stress.summary(result).splitlines()
    assert recovery.endswith("| 2.00 s | 1 s | **missed** |")
    assert memory.endswith("| 1.050 | 1.1 | met |")
    assert idle.endswith("| 1.20 | 1.5 | met |")
