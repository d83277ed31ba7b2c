"""Time that passes only when a test says so, for what a client does when its limits are over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from baton_client import retries


class Clock:
    """The time of an event loop: what it waits for is due when a test lets time pass, however slow the machine is."""

    def __init__(self, now_s: float) -> None:
        self._now_s = now_s

    def __call__(self) -> float:
        return self._now_s

    def go_on(self, seconds: float) -> None:
        self._now_s += seconds


@contextmanager
def stopped_clock() -> Iterator[Clock]:
    """Stop the running event loop's clock; clients that try again do so without a wait."""
    loop = asyncio.get_running_loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", clock := Clock(loop.time()))
        patch.setattr(retries, "JITTER", lambda attempts: 0.0)
        yield clock
