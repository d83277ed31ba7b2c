"""The profile: which thread's time is whose, and which functions the samples of the event loop name."""

from __future__ import annotations

import os
import threading
import time

import pytest

from loadtests.profile import Cost, clocks, functions_table, row

STACKS = """\
thread (7): MainThread;run (runners.py:118);serve (app.py:10);encode (json.py:3) 6
thread (7): MainThread;run (runners.py:118);serve (app.py:12) 3
thread (7): MainThread;run (runners.py:118);serve (app.py:10);serve (app.py:10) 1
thread (9): batcher-0;run (threading.py:982);work (batcher.py:5) 90
"""


def test_each_thread_has_a_clock_of_its_own() -> None:
    ids, end = [], threading.Event()

    def compute() -> None:
        ids.append(threading.get_native_id())
        started = time.thread_time()
        while time.thread_time() - started < 0.05:
            pass
        end.wait()

    before = clocks(os.getpid())
    thread = threading.Thread(target=compute)
    thread.start()
    while not ids or clocks(os.getpid())[ids[0]].running < 0.04:
        pass
    after = clocks(os.getpid())
    end.set()
    thread.join()
    assert ids[0] not in before
    assert after[ids[0]].running >= 0.04
    assert (after[os.getpid()] - before[os.getpid()]).running > 0


def test_functions_are_those_of_the_event_loop_alone_and_with_what_they_call() -> None:
    _, _, *rows = functions_table(STACKS).splitlines()
    assert rows == ["| `encode (json.py)` | 60.0% | 60.0% |", "| `serve (app.py)` | 40.0% | 100.0% |"]


@pytest.mark.parametrize(("loop_us", "verdict"), [(250.0, "met"), (251.0, "**missed**")])
def test_a_load_is_judged_by_the_median_of_the_loop_s_time(loop_us: float, verdict: str) -> None:
    costs = [Cost(1000.0, us, 0.125, [30.0, 0.5]) for us in (1.0, loop_us, 9999.0)]
    assert row("step-1", costs) == f"| step-1 | 1,000 | {loop_us:.0f} us | 12% | 30 us | ≤ 250 us | {verdict} |"
